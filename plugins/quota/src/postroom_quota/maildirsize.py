"""Pure: the file `maildirsize` of a Maildir++, in which every delivery leaves a line, so that nobody has to count."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_FILE = 5120
"""Octets; a longer file is counted anew (the Maildir++ specification)."""
FRESH = 900.0
"""Seconds; an older file is not believed when it says that there is no room."""
MAX_NUMBER = 1 << 62

_LINE = re.compile(rb"[ \t]*(-?\d{1,19})[ \t]+(-?\d{1,19})[ \t]*")
_DEFINITION = re.compile(rb"\d{1,19}[SC](,\d{1,19}[SC])*|")


@dataclass(frozen=True, slots=True)
class Total:
    """What a maildirsize says. `lines` after the first one: the count itself, then a change each."""

    definition: str
    octets: int
    messages: int
    lines: int

    def believable_when_full(self, age: float) -> bool:
        """Whether it may be believed that there is no room: just counted, and nothing has changed since."""
        return self.lines <= 1 and 0 <= age < FRESH


def parse(octets: bytes) -> Total | None:
    """None: it is too long, or no such file, and the Maildir has to be counted."""
    if len(octets) > MAX_FILE:
        return None
    first, newline, rest = octets.partition(b"\n")
    if not newline or not _DEFINITION.fullmatch(first.strip()):
        return None
    size = messages = lines = 0
    for line in rest.split(b"\n"):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.rstrip(b"\r"))
        if not found:
            return None
        size, messages, lines = size + int(found[1]), messages + int(found[2]), lines + 1
    if not lines or not 0 <= size <= MAX_NUMBER or not 0 <= messages <= MAX_NUMBER:
        return None
    return Total(first.strip().decode("ascii"), size, messages, lines)


def write(definition: str, octets: int, messages: int) -> bytes:
    """A file with one line: what was counted."""
    return f"{definition}\n{octets} {messages}\n".encode("ascii")


def definition_of(limit: int | None) -> str:
    return f"{limit}S" if limit else ""
