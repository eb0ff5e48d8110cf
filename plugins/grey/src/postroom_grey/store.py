"""What the two stores have in common: what they are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from postroom.lists.scopes import Scope
from postroom.lists.store import StoredPolicy

from postroom_grey.decision import Attempted, NetworkRecord, NetworkTerms, Record, State, Terms
from postroom_grey.target import Target

MAX_SHOWN = 320  # RFC 5321 4.5.3.1; a longer one is told apart by its digest and shown cut off

EVERYTHING = Target()


@dataclass(frozen=True, slots=True)
class Triple:
    """Whose attempts belong together: client network, sender and recipient, each in the form that is compared."""

    client: str
    sender: str
    recipient: str

    @property
    def digest(self) -> bytes:
        """The key under which a record is kept: short whatever the peer sends."""
        digest = blake2b(digest_size=16)
        for part in (self.client, self.sender, self.recipient):
            octets = part.encode("utf-8", "surrogateescape")
            digest.update(b"%d:" % len(octets))
            digest.update(octets)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Request:
    """One mail's attempt. `known` are the versions of the policies that `recipients` were ruled by ("": none)."""

    now: int
    client: str
    sender: str
    recipients: tuple[tuple[str, Terms], ...]
    network_terms: NetworkTerms
    counts: bool
    known: tuple[tuple[Scope, str], ...]


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing was done: these policies have changed."""

    policies: tuple[tuple[Scope, StoredPolicy], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record, for people."""

    triple: Triple
    digest: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """One client network, for people."""

    client: str
    record: NetworkRecord


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is remembered: records by state, and client networks that are allowed or on the way to it."""

    records: Mapping[State, int]
    allowed: int
    counting: int


class Store(Protocol):
    """Where records and policies are. Every method raises StateUnavailable when it cannot be reached."""

    @property
    def name(self) -> str:
        """How people know this kind of store."""

    def attempt(self, request: Request) -> tuple[Attempted, ...] | Stale:
        """Decide and remember, atomically among all threads, workers and hosts; one answer for each recipient."""

    def policy(self, scope: Scope) -> StoredPolicy: ...

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        """False, and nothing done, when the version is not `old_version` any more."""

    def scopes(self) -> Iterator[Scope]:
        """Every place that has a policy."""

    def entries(self, now: int, target: Target = EVERYTHING) -> Iterator[Entry]:
        """The records that are meant and have not expired, in no order, as they are found; what was yielded may be
        changed meanwhile.
        """

    def count_entries(self, now: int, target: Target) -> int:
        """How many `entries` would find."""

    def networks(self, now: int, target: Target = EVERYTHING) -> Iterator[NetworkEntry]:
        """Those whose client is meant."""

    def counts(self, now: int) -> Counts:
        """How many of each there are, without reading all of them."""

    def release(self, digests: Iterable[bytes]) -> int:
        """Let those that wait pass at their next attempt; how many did wait."""

    def forget(self, digests: Iterable[bytes]) -> int: ...

    def forget_networks(self, clients: Iterable[str]) -> int: ...

    def ping(self) -> None:
        """Whether it may be written to, for the diagnosis."""


def shown(text: str) -> str:
    """Text from a peer as it may be kept and printed: valid UTF-8, no control characters, bounded."""
    text = text[:MAX_SHOWN].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
