"""What the two stores have in common: what they are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from postroom_autoresponder.decision import Answered, Silence, Terms

MAIL_MEMORY = 8 * 86400 * 1000
"""Milliseconds that a mail is known again: longer than mail servers try to deliver (RFC 5321 4.5.4.1)."""
COUNTS_MEMORY = 400 * 86400 * 1000
"""Milliseconds after a responder's last mail that its counts are kept."""

REPLIED, FORWARDED = "replied", "forwarded"
"""What is counted beside the reasons for silence."""


def digest(*parts: str | bytes) -> bytes:
    """A key of fixed length, whatever a peer sends."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        octets = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        hashed.update(b"%d:" % len(octets))
        hashed.update(octets)
    return hashed.digest()


@dataclass(frozen=True, slots=True)
class StoredResponder:
    """A responder as it is kept. `version` is new with every change and never used twice; "": there is none."""

    version: str = ""
    document: str = ""


NO_RESPONDER = StoredResponder()


@dataclass(frozen=True, slots=True)
class Claim:
    """What one mail wants, decided with the responder of version `known`. `silence` None: a reply to `sender`.

    `mailbox` is whose reply it is: several may share a responder. `counts` is false where no responder is stored and
    nothing is done: nobody's mail is counted then.
    """

    responder: str
    mailbox: str
    known: str
    now: int
    silence: Silence | None
    forwards: bool
    sender: bytes
    mail: bytes
    terms: Terms
    counts: bool = True

    @property
    def acts(self) -> bool:
        """Whether the mail has to be known again."""
        return self.silence is None or self.forwards


@dataclass(frozen=True, slots=True)
class Granted:
    """What may be done. `before` is what was known of the sender, to be put back when the reply cannot be sent."""

    silence: Silence | None
    forwards: bool = False
    before: Answered | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing was done: this is the responder now."""

    responder: StoredResponder


class Store(Protocol):
    """Where responders and replies are. Every method raises StateUnavailable when it cannot be reached."""

    @property
    def name(self) -> str:
        """How people know this kind of store."""

    def claim(self, claim: Claim) -> Granted | Stale:
        """Decide, remember and count, atomically among all threads, workers and hosts."""

    def release(self, claim: Claim, granted: Granted, reason: Silence) -> None:
        """The reply that was granted was not sent: forget it, unless another one came meanwhile."""

    def responder(self, name: str) -> StoredResponder: ...

    def replace_responder(self, name: str, old_version: str, new: StoredResponder) -> bool:
        """False, and nothing done, when the version is not `old_version` any more."""

    def responders(self) -> Iterator[tuple[str, StoredResponder]]:
        """All, by name."""

    def counts(self, name: str) -> Mapping[str, int]:
        """How many mails came to what, by the words of `Silence`, REPLIED and FORWARDED."""

    def counted(self) -> Iterator[str]:
        """The names that have counts."""

    def remembered(self, name: str, now: int) -> int:
        """How many addresses are remembered as answered."""

    def forget(self, name: str, sender: bytes | None = None) -> int:
        """Forget one sender, or all; how many there were. Counts go with all."""

    def ping(self) -> None:
        """Whether it may be written to, for the diagnosis."""


def judged_silence(word: str) -> Silence | None:
    return Silence(word) if word else None
