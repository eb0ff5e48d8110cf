"""A database as the registry reads it: the same SQL on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from postroom.registration import Mode, OnError, Registration, Stage, Type

SCHEMA_VERSION = 1
"""What this release reads and writes; `schema.STEPS` lead there from every earlier one."""

Row = tuple[Any, ...]
Key = tuple[str, Stage, Type, str]
Parameters = Mapping[str, Any]

COLUMNS = "r.handler, r.stage, r.type, r.address, r.priority, r.enabled, r.context, r.mode, r.on_error, r.executable"
"""A registration, in the order that `to_registration` takes."""

LAST = "(SELECT coalesce(max(number), 0) FROM generation)"
OLDEST = "(SELECT CASE WHEN min(number) > 1 THEN min(number) ELSE 0 END FROM generation)"
"""The oldest generation that can be asked for: 0, the empty registry, unless history was pruned."""

_NO_REGISTRATION = "NULL, " * (COLUMNS.count(",") + 1)
GENERATION_ROW = f"SELECT {_NO_REGISTRATION}{LAST}"
"""Goes before registrations in one statement, so that both are of one moment: no handler, and the generation last."""
OLDEST_ROW = f"SELECT {_NO_REGISTRATION}{OLDEST}"
"""The same, with the oldest generation there is."""

CURRENT = "r.until IS NULL"
AT = "r.since <= :at AND (r.until IS NULL OR r.until > :at)"
"""Which rows stood at a generation."""

_STAGES = {str(stage): stage for stage in Stage}
_TYPES = {str(type_): type_ for type_ in Type}
_MODES = {str(mode): mode for mode in Mode}
_ON_ERRORS: dict[str, OnError | None] = {str(on_error): on_error for on_error in OnError} | {"": None}


def to_registration(row: Row) -> Registration:
    handler, stage, type_, address, priority, enabled, context, mode, on_error, executable = row
    return Registration(
        handler,
        _STAGES[stage],
        _TYPES[type_],
        address,
        priority,
        bool(enabled),
        context,
        _MODES[mode],
        _ON_ERRORS[on_error],
        executable,
    )


def too_new(place: str, version: int, known: int = SCHEMA_VERSION) -> str:
    return f"{place}: its schema {version} is newer than this postroom, which knows {known}: upgrade postroom"


def storable(text: str) -> bool:
    """Whether both databases can hold it: no NUL (PostgreSQL), and UTF-8 (a raw 8-bit address is not)."""
    return "\0" not in text and (text.isascii() or _is_utf8(text))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Database(Protocol):
    """Reading, from any thread; what it raises is a RegistryError."""

    local: bool
    place: str  # how errors call it; holds no password

    def query(self, sql: str, parameters: Parameters) -> list[Row]:
        """All rows of one statement, which sees one state of the database. Named parameters: `:name`."""

    def stream(self, sql: str, parameters: Parameters) -> Iterator[Row]:
        """The same, row by row, for more rows than memory should hold."""

    def select(
        self, keys: Collection[tuple[Type, str]], condition: str, parameters: Parameters, head: str = GENERATION_ROW
    ) -> list[Row]:
        """`head`, and the rows of `keys` that meet `condition`, each with a column more than a registration."""

    def close(self) -> None:
        """Give back every connection; the next question opens them again."""
