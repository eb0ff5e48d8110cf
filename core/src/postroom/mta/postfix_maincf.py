"""Reads main.cf as Postfix does: logical lines, the last entry of a name wins; the text of each entry is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting as it is in the file. `value` has its lines joined by a blank."""

    name: str
    value: str
    raw: str
    """All its lines, with comments between them and the last line end."""
    once: bool = True
    """Whether the name has no other entry."""

    @property
    def as_postconf_leaves_it(self) -> str:
        """What `postconf -e NAME=VALUE` makes of the lines: one line, and the comments that were between them."""
        kept = [line for line in self.raw.splitlines(keepends=True)[1:] if _is_ignored(line)]
        return f"{self.name} = {self.value}\n{''.join(kept)}"


def read_entries(text: str) -> Mapping[str, Entry]:
    """The settings that are set in the text of a main.cf."""
    found: dict[str, Entry] = {}
    for raw in _logical_lines(text):
        lines = [line.strip() for line in raw.splitlines() if not _is_ignored(line)]
        name, equals, value = " ".join(filter(None, lines)).partition("=")
        name = name.strip()
        if equals:
            found[name] = Entry(name, value.strip(), raw, once=name not in found)
    return found


def _logical_lines(text: str) -> Iterator[str]:
    """The text of each entry. What is ignored after its last line is no part of it (postconf(5))."""
    entry: list[str] = []
    ignored: list[str] = []
    for line in text.splitlines(keepends=True):
        if _is_ignored(line):
            ignored.append(line)
        elif line[0] in " \t" and entry:
            entry += [*ignored, line]
            ignored = []
        else:
            if entry:
                yield "".join(entry)
            entry, ignored = [line], []
    if entry:
        yield "".join(entry)


def _is_ignored(line: str) -> bool:
    stripped = line.strip()
    return not stripped or stripped.startswith("#")
