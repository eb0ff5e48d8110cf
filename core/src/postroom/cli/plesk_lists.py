"""Pure: the lists that the reference's mail_handlers_control prints, read back, whatever became of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from postroom.registration import Stage, Type

EVERYBODY = "all"
_STAGES, _TYPES = frozenset(map(str, Stage)), frozenset(map(str, Type))


@dataclass(frozen=True, slots=True)
class Place:
    """A line of `--list`: where something acts, how early, and whether."""

    name: str
    address: str
    type: Type
    stage: Stage
    priority: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class Program:
    """An entry of `--list --extent`: what is called, with which context."""

    name: str
    address: str
    context: str
    executable: str


@dataclass(slots=True)
class Lists:
    places: list[Place] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Lines that belong to neither form."""


def read_lists(lines: Iterable[str]) -> Lists:
    """Both forms may stand in one text, in any order, with prompts and headings between them."""
    found = Lists()
    pending: tuple[str, str, str] | None = None
    for raw in lines:
        line = raw.strip()
        if "|" in line:
            pending = _read_cells([cell.strip() for cell in line.strip("| \t").split("|")], pending, found)
        elif (place := _read_place(_words(raw))) is not None:
            found.places.append(place)
        elif not _is_noise(line):
            found.unread.append(line)
    if pending is not None:
        found.unread.append(f"{pending[0]} for {pending[1]}: no Exec: line follows")
    return found


def _read_cells(
    cells: Sequence[str], pending: tuple[str, str, str] | None, found: Lists
) -> tuple[str, str, str] | None:
    """What waits for its `Exec:` line."""
    if cells[0].rstrip(":").lower() == "exec":
        executable = "|".join(cells[1:]).strip()
        if pending is None:
            found.unread.append(f"Exec: {executable} belongs to nothing")
        else:
            found.programs.append(Program(*pending, executable))
        return None
    if pending is not None:
        found.unread.append(f"{pending[0]} for {pending[1]}: no Exec: line follows")
    if [cell.lower() for cell in cells[:2]] == ["name", "address"]:
        return None
    if len(cells) < 2 or not cells[0]:
        found.unread.append(" | ".join(cells))
        return None
    context = "|".join(cells[2:]).strip()
    if _address(cells[1]) == EVERYBODY and context == "none":
        context = ""
    return cells[0], _address(cells[1]), context


def _words(line: str) -> Sequence[str]:
    """The columns of a line: as they are where tabs divide them, or else what blanks divide."""
    cells = [cell.strip() for cell in line.split("\t")]
    return cells[not cells[0] :] if len(cells) == 6 else line.split()


def _address(text: str) -> str:
    return EVERYBODY if text.lower() == EVERYBODY else text


def _read_place(words: Sequence[str]) -> Place | None:
    """The columns E, prior, address, name, type, queue; the first may be empty, a name may have blanks."""
    if len(words) < 5 or words[-1] not in _STAGES or words[-2] not in _TYPES:
        return None
    enabled = words[0].upper() == "X"
    priority, address, *name = words[1:-2] if enabled else words[:-2]
    if not priority.isdigit() or not name:
        return None
    return Place(" ".join(name), _address(address), Type(words[-2]), Stage(words[-1]), int(priority), enabled)


def _is_noise(line: str) -> bool:
    """Rules, headings, shell prompts and Markdown's fences."""
    if not line.strip("-=+` \t") or "mail_handlers_control" in line:
        return True
    return line.split()[:2] in (["E", "prior"], ["Mail", "handlers"])
