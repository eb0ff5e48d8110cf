"""The frames between a thin client and the server: one octet that says what it is, four of length, the payload.

A client sends HELLO, FACT…, SENDER, RECIPIENT…, MESSAGE… in any order, then END. The server answers VERDICT, then,
where the mail goes on and something about it has changed, SENDER, RECIPIENT… and MESSAGE…; OUT for each recipient that
is refused while others are not; then END.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

VERSION = b"1"
MAX_FRAME = 1 << 20  # octets of one payload; a client sends pieces of 64 KB

_HEAD = struct.Struct("!cI")


class Kind(enum.Enum):
    """What a frame is."""

    HELLO = b"H"  # version, NUL, role
    FACT = b"F"  # name=value
    SENDER = b"S"
    RECIPIENT = b"R"
    MESSAGE = b"M"  # a piece of the mail, LF line ends
    END = b"E"
    VERDICT = b"V"  # word, NUL, enhanced status code, NUL, text
    OUT = b"O"  # action, NUL, text, NUL, recipient


class Role(enum.StrEnum):
    """Which program asks."""

    QUEUE = "queue"  # qmail-queue: before-data, before-queue
    LOCAL = "local"  # qmail-local: before-local
    REMOTE = "remote"  # qmail-remote: before-remote
    SUBMIT = "submit"  # sendmail: before-queue, before-remote


class Word(enum.StrEnum):
    """The answer for the mail as a whole."""

    PASS = "PASS"  # noqa: S105  # a verdict, no password  # hand it on
    DONE = "DONE"  # success, and nothing is to be handed on
    DEFER = "DEFER"
    REJECT = "REJECT"


class WireError(Exception):
    """What came is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    payload: bytes


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind.value, len(payload)) + payload


class Decoder:
    """Octets in, frames out."""

    def __init__(self) -> None:
        self._octets = bytearray()

    def feed(self, octets: bytes) -> None:
        self._octets += octets

    def next(self) -> Frame | None:
        """None: more octets are needed. WireError when they make no sense."""
        if len(self._octets) < _HEAD.size:
            return None
        letter, length = _HEAD.unpack_from(self._octets)
        try:
            kind = Kind(letter)
        except ValueError:
            raise WireError(f"no such frame: {letter!r}") from None
        if length > MAX_FRAME:
            raise WireError(f"a frame of {length} octets")
        if len(self._octets) < _HEAD.size + length:
            return None
        payload = bytes(self._octets[_HEAD.size : _HEAD.size + length])
        del self._octets[: _HEAD.size + length]
        return Frame(kind, payload)
