"""What every scanner has in common: mail in, one of five results out. What a result means is not known here."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from postroom.config import SocketAddress
from postroom.mail import Body

MAX_NAME = 200
"""Characters of a signature's name; they come from the net and go into logs and header fields."""


class Status(enum.StrEnum):
    """What a scan came to."""

    CLEAN = "clean"  # the whole mail was scanned, and nothing found
    FOUND = "found"  # `signatures` says what
    TOO_LARGE = "too large"  # not scanned as a whole: longer than the scanner takes
    TIMEOUT = "timeout"  # no answer in time: neither clean nor infected
    ERROR = "error"  # no scanner, or it could not: neither clean nor infected


@dataclass(frozen=True, slots=True)
class ScanResult:
    """`detail` is for the log. `answered`: the server itself is well, whatever it said of this mail.

    `unscannable`: what was found is no virus but content that cannot be looked into, in the scanner's own words.
    """

    status: Status
    signatures: tuple[str, ...] = ()
    detail: str = ""
    server: str = ""
    answered: bool = True
    unscannable: bool = False


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """What a scanner left on a mail, so that no other call scans the same octets again."""

    result: ScanResult
    source: tuple[object, ...] = ()  # which servers were asked, and how
    body: Body | None = field(default=None, repr=False)


class Octets(Protocol):
    """A mail as a stream that can be read more than once; `postroom.mail.Message` is one."""

    def chunks(self) -> Iterator[bytes]: ...
    def size(self) -> int: ...


class EngineTrouble(Exception):
    """The server cannot be used: not there, closed in the middle, or speaks something else. Names no server."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself. `signatures_from`: seconds since the epoch; None when it does not tell."""

    version: str
    signatures_from: float | None = None
    facts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Engine(Protocol):
    """One server. Every method keeps to the deadline, and raises EngineTrouble or TimeoutError."""

    @property
    def address(self) -> SocketAddress: ...

    def scan(self, mail: Octets, deadline: Deadline) -> ScanResult: ...

    def health(self, deadline: Deadline, max_size: int) -> Health: ...


class Deadline:
    """A moment that nothing may pass. On the real clock, because sockets wait on that one."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, more than none; else TimeoutError."""
        seconds = self._ends_at - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("no time left")
        return seconds

    def at_most(self, seconds: float) -> Deadline:
        """An earlier one."""
        return Deadline(min(seconds, self._ends_at - time.monotonic()))


def safe(text: str) -> str:
    """Printable ASCII on one line, bounded: a stranger's words for logs, replies and header fields."""
    return "".join(character if " " <= character <= "~" else "?" for character in text.strip()[:MAX_NAME])
