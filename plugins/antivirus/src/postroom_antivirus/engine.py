"""What every scanner has in common: mail in, one of five results out. What a result means is not known here."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from postroom.config import SocketAddress
from postroom.mail import Body

if TYPE_CHECKING:
    from postroom.backends.deadline import Deadline
    from postroom.backends.octets import Octets


class Status(enum.StrEnum):
    """What a scan came to."""

    CLEAN = "clean"  # the whole mail was scanned, and nothing found
    FOUND = "found"  # `signatures` says what
    TOO_LARGE = "too large"  # not scanned as a whole: longer than the scanner takes
    TIMEOUT = "timeout"  # no answer in time: neither clean nor infected
    ERROR = "error"  # no scanner, or it could not: neither clean nor infected


@dataclass(frozen=True, slots=True)
class ScanResult:
    """`detail` is for the log.

    `unscannable`: what was found is no virus but content that cannot be looked into, in the scanner's own words.
    `declined`: of an error; a scanner was well, and could not scan this mail.
    """

    status: Status
    signatures: tuple[str, ...] = ()
    detail: str = ""
    server: str = ""
    unscannable: bool = False
    declined: bool = False


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """What a scanner left on a mail, so that no other call scans the same octets again."""

    result: ScanResult
    source: tuple[object, ...] = ()  # which servers were asked, and how
    body: Body | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself. `signatures_from`: seconds since the epoch; None when it does not tell."""

    version: str
    signatures_from: float | None = None
    facts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Engine(Protocol):
    """One server. Every method keeps to the deadline, and raises BackendTrouble."""

    @property
    def address(self) -> SocketAddress: ...

    def scan(self, mail: Octets, deadline: Deadline) -> ScanResult: ...

    def health(self, deadline: Deadline, max_size: int) -> Health: ...
