"""The kit for handler authors: everything a handler is lent, with a clock and a DNS that do as they are told.

services = FakeServices(tmp_path, clock=ManualClock(), dns=StaticResolver({("example.org", "TXT"): (b"v=spf1 -all",)}))
verdict = handler.before_queue(envelope("a@example.org", "b@example.net"), message(b"..."), settings, services)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from postroom.config import Config
from postroom.hookspecs import Answer, LookupFailed, Mailbox
from postroom.mail import Address, Envelope, Message, Session, TrafficClass, parse_message
from postroom.registration import Stage

T = TypeVar("T")


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class StaticResolver:
    """DNS from a table: (name, kind) to records, or to an exception to raise. What is not in it does not exist."""

    def __init__(self, records: Mapping[tuple[str, str], Sequence[Any] | Exception] | None = None) -> None:
        self.records = {(name.lower().rstrip("."), kind): found for (name, kind), found in (records or {}).items()}
        self.asked: list[tuple[str, str]] = []

    def lookup(self, name: str, kind: str, timeout: float | None = None) -> Answer:  # noqa: ARG002  # answers at once
        key = (name.lower().rstrip("."), kind)
        self.asked.append(key)
        found = self.records.get(key)
        if isinstance(found, Exception):
            raise found
        if found is None:
            return Answer(exists=any(known == key[0] for known, _ in self.records))
        return Answer(tuple(found), ttl=300)


class DeadResolver:
    """DNS that never answers."""

    def lookup(self, name: str, kind: str, timeout: float | None = None) -> Answer:  # noqa: ARG002  # never answers
        raise LookupFailed(f"no answer for {name} {kind}")


class StaticDirectory:
    """The given mailboxes are ours, and their domains with them; nothing else is."""

    def __init__(
        self,
        mailboxes: Iterable[Mailbox] = (),
        aliases: Mapping[str, Sequence[str]] | None = None,
        *,
        authoritative: bool = False,
    ) -> None:
        self.authoritative = authoritative
        self.known = {mailbox.address.key: mailbox for mailbox in mailboxes}
        self.aliases = aliases or {}

    def is_local(self, address: Address) -> bool | None:
        return address.domain in {mailbox.address.domain for mailbox in self.known.values()}

    def mailbox(self, address: Address) -> Mailbox | None:
        return self.known.get(address.without_tag("+"))

    def expand(self, address: Address) -> tuple[Address, ...]:
        return tuple(Address(target) for target in self.aliases.get(address.key, (address.text,)))

    def mailboxes(self) -> Iterator[Mailbox]:
        return iter(self.known.values())


@dataclass
class Submission:
    sender: Address
    recipients: tuple[Address, ...]
    mail: bytes


class RecordingReinjector:
    """Keeps what was submitted."""

    def __init__(self) -> None:
        self.submissions: list[Submission] = []

    def submit(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        self.submissions.append(Submission(sender, tuple(recipients), b"".join(mail)))

    def for_stages(self, stages: Collection[Stage]) -> RecordingReinjector:  # noqa: ARG002  # there is no mail server
        return self


class RecordingLogger:
    """Keeps what was logged, as (level, event, facts)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **facts: Any) -> None:
        self.lines.append(("debug", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.lines.append(("error", event, facts))


@dataclass
class FakeServices:
    """What a handler is lent, without a server. `state` defaults to SQLite files under `directory_path`."""

    directory_path: Path
    clock: ManualClock = field(default_factory=ManualClock)
    dns: Any = field(default_factory=StaticResolver)
    state: Any = None  # a StateStore
    directory: Any = field(default_factory=StaticDirectory)
    reinject: Any = field(default_factory=RecordingReinjector)
    log: RecordingLogger = field(default_factory=RecordingLogger)
    config: Config = field(default_factory=Config)
    findings: dict[str, Any] = field(default_factory=dict)
    seconds_left: float = 20.0

    def __post_init__(self) -> None:
        if self.state is None:
            from postroom.services.state import open_state

            self.state = open_state(self.config.redis, self.directory_path)

    def deadline(self) -> float:
        return self.seconds_left

    def finding(self, handler: str, kind: type[T]) -> T | None:
        found = self.findings.get(handler)
        return found if isinstance(found, kind) else None


def session(
    client: str | None = "203.0.113.5", *, name: str = "", helo: str = "client.example", auth_user: str = ""
) -> Session:
    return Session(
        client_address=ip_address(client) if client else None,
        client_name=name,
        helo=helo,
        auth_user=auth_user,
        submitted_locally=client is None,
    )


def envelope(
    sender: str = "alice@sender.example",
    *recipients: str,
    client: str | None = "203.0.113.5",
    client_name: str = "",
    helo: str = "client.example",
    auth_user: str = "",
    traffic: TrafficClass | None = None,
    queue_id: str = "4QUEUE1D",
) -> Envelope:
    """An envelope as a front would make it; its traffic class follows from the session unless given."""
    if traffic is None:
        traffic = TrafficClass.AUTHENTICATED if auth_user else TrafficClass.INBOUND if client else TrafficClass.LOCAL
    return Envelope(
        session=session(client, name=client_name, helo=helo, auth_user=auth_user),
        sender=Address(sender),
        recipients=tuple(Address(recipient) for recipient in recipients or ("bob@recipient.example",)),
        queue_id=queue_id,
        traffic=traffic,
    )


def message(octets: bytes = b"From: alice@sender.example\r\nSubject: hello\r\n\r\nhello\r\n") -> Message:
    return parse_message(octets)
