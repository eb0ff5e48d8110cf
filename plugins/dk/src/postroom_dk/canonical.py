"""Canonical forms of header fields and bodies (RFC 6376 3.4), in time that grows with their size and no faster.

dkimpy's own forms are regular expressions that take quadratic time on long runs of blanks; these give the same octets
by find and replace, which a property test holds against dkimpy.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence

CRLF = b"\r\n"
CHUNK = 1 << 20
_BLANKS = b" \t"

HeaderField = tuple[bytes, bytes]
"""Name and value as dkimpy holds them: the value begins after the colon and ends with CRLF."""


class Canonicalization(enum.Enum):
    SIMPLE = b"simple"
    RELAXED = b"relaxed"


def compress_blanks(octets: bytes) -> bytes:
    """Every run of blanks and tabs as one blank; each pass halves the longest run."""
    octets = octets.replace(b"\t", b" ")
    while b"  " in octets:
        octets = octets.replace(b"  ", b" ")
    return octets


def canonical_field(found: HeaderField, form: Canonicalization) -> bytes:
    """One header field with its line end, as it is hashed (RFC 6376 3.4.1, 3.4.2)."""
    name, value = found
    match form:
        case Canonicalization.SIMPLE:
            return name + b":" + value
        case Canonicalization.RELAXED:
            unfolded = value.replace(CRLF, b"").replace(b"\n", b"")
            return name.rstrip(_BLANKS).lower() + b":" + compress_blanks(unfolded).strip(b" \r") + CRLF


def without_signature(value: bytes) -> bytes:
    """The value of a signature field with the value of its b= tag deleted, blanks around it too (RFC 6376 3.7)."""
    start = 0
    while start < len(value):
        end = value.find(b";", start)
        end = len(value) if end < 0 else end
        equals = value.find(b"=", start, end)
        if equals >= 0 and value[start:equals].strip() == b"b":
            return value[: equals + 1] + value[end:]
        start = end + 1
    return value


def select(fields: Sequence[HeaderField], names: Iterable[bytes]) -> list[int]:
    """Positions of the fields that `names` sign: of each name from the bottom up, none twice (RFC 6376 5.4.2)."""
    positions: dict[bytes, list[int]] = {}
    for position, (name, _) in enumerate(fields):
        positions.setdefault(name.rstrip(_BLANKS).lower(), []).append(position)
    chosen = []
    for name in names:
        left = positions.get(name)
        if left:
            chosen.append(left.pop())
    return chosen


def header_octets(signed: Iterable[HeaderField], signature: HeaderField, form: Canonicalization) -> bytes:
    """What the signature is made over: the signed fields, and the signature field itself without b= and line end."""
    name, value = signature
    own = canonical_field((name, without_signature(value.removesuffix(CRLF)) + CRLF), form)
    return b"".join([*(canonical_field(found, form) for found in signed), own.removesuffix(CRLF)])


class BodyCanonicalizer:
    """A body in chunks to its canonical form in chunks; holds back only what the end of the body may take away."""

    def __init__(self, form: Canonicalization, write: Callable[[bytes], object]) -> None:
        self._form, self._write = form, write
        self._tail = b" \t\r\n" if form is Canonicalization.RELAXED else b"\r\n"
        self._rest = b""  # what is held back behind the line ends
        self._line_ends = 0  # CRLFs held back
        self._empty = True

    def update(self, chunk: bytes) -> None:
        self._take(self._rest + chunk, last=False)

    def finish(self) -> None:
        self._take(self._rest, last=True)  # what it leaves is blanks of a last line without CRLF: RFC 6376 3.4.4 a
        if not self._empty or self._form is Canonicalization.SIMPLE:
            self._emit(CRLF)  # RFC 6376 3.4.3: an empty body is one CRLF; 3.4.4: it is nothing

    def _take(self, octets: bytes, *, last: bool) -> None:
        cut = self._end_of_content(octets, last=last)
        if cut:
            self._flush_line_ends()
            self._emit(self._canonical(octets[:cut]))
        held = self._canonical(octets[cut:])  # line ends, then nothing, a blank, or a CR that may become a line end
        self._line_ends += held.count(CRLF)
        self._rest = held.rpartition(CRLF)[2]

    def _end_of_content(self, octets: bytes, *, last: bool) -> int:
        """Where the run of line ends and blanks at the end begins; a bare CR or LF in it is content."""
        cut = len(octets.rstrip(self._tail))
        marked = octets[cut:].replace(CRLF, b"\0\0")
        open_end = not last and marked.endswith(b"\r")  # its LF may be in the next chunk
        limit = len(marked) - 1 if open_end else len(marked)
        return cut + max(marked.rfind(b"\r", 0, limit), marked.rfind(b"\n", 0, limit)) + 1

    def _canonical(self, octets: bytes) -> bytes:
        if self._form is Canonicalization.SIMPLE:
            return octets
        return compress_blanks(octets).replace(b" " + CRLF, CRLF)

    def _flush_line_ends(self) -> None:
        while self._line_ends:
            count = min(self._line_ends, CHUNK)
            self._emit(CRLF * count)
            self._line_ends -= count

    def _emit(self, octets: bytes) -> None:
        if octets:
            self._empty = False
            self._write(octets)


def canonical_body(chunks: Iterable[bytes], form: Canonicalization) -> bytes:
    """The whole canonical body, for one that the caller has bounded."""
    parts: list[bytes] = []
    canonicalizer = BodyCanonicalizer(form, parts.append)
    for chunk in chunks:
        canonicalizer.update(chunk)
    canonicalizer.finish()
    return b"".join(parts)
