"""Reads main.cf as Postfix does: logical lines, the last entry of a name wins; the text of each entry is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

BLANKS = " \t\n\v\f\r"
"""What Postfix takes for white space; str.strip() would also take characters such as U+00A0."""

_KEY = re.compile(rf'("[^"]*"|[^"{BLANKS}])+')


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
        return f"{self.name} = {self.value}\n{''.join(ignored_lines(self.raw))}"


def read_entries(text: str) -> Mapping[str, Entry]:
    """The settings that are set in the text of a main.cf."""
    found: dict[str, Entry] = {}
    for raw in _logical_lines(text):
        lines = [line.strip(BLANKS) for line in split_lines(raw) if not _is_ignored(line)]
        name, equals, value = " ".join(filter(None, lines)).partition("=")
        name = name.strip(BLANKS)
        if equals:
            found[name] = Entry(name, value.strip(BLANKS), raw, once=name not in found)
    return found


def find_service(text: str, service: str) -> str | None:
    """The lines of NAME/TYPE in the text of a master.cf; None: not there, or not once."""
    found = [raw for raw in _logical_lines(text) if "/".join(re.findall(f"[^{BLANKS}]+", raw)[:2]) == service]
    return found[0] if len(found) == 1 else None


def map_keys(text: str) -> Iterator[str]:
    """The keys in the source of a map: postmap(1) joins lines as main.cf does, and a key may have blanks in quotes."""
    for raw in _logical_lines(text):
        if found := _KEY.match(raw):
            yield found[0]


def ignored_lines(raw: str) -> Sequence[str]:
    """Comments and empty lines inside an entry."""
    return [line for line in split_lines(raw)[1:] if _is_ignored(line)]


def split_lines(text: str) -> Sequence[str]:
    """The lines with their ends, at line feeds alone: str.splitlines() has a dozen other line ends."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def _logical_lines(text: str) -> Iterator[str]:
    """The text of each entry. What is ignored after its last line is no part of it (postconf(5))."""
    entry: list[str] = []
    ignored: list[str] = []
    for line in split_lines(text):
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
    stripped = line.strip(BLANKS)
    return not stripped or stripped.startswith("#")
