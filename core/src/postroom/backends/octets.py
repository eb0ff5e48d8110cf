"""Mails as they are sent to a server: streams, so that a long one is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

PIECE = 1 << 16
"""Octets that are sent at once: four times that costs memory, a quarter of it twice the CPU."""


class Octets(Protocol):
    """A mail as a stream that can be read more than once; `postroom.mail.Message` is one."""

    def chunks(self) -> Iterator[bytes]: ...
    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FixedOctets:
    """A short one that is there already, as a probe is."""

    octets: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.octets

    def size(self) -> int:
        return len(self.octets)


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same octets in pieces of at most PIECE, none of them empty: an empty one would end a stream of chunks."""
    for chunk in chunks:
        if len(chunk) <= PIECE:
            if chunk:
                yield chunk
        else:
            for start in range(0, len(chunk), PIECE):
                yield chunk[start : start + PIECE]
