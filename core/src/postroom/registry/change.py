"""Writing to the registry, through SQLAlchemy: one transaction is one change is one generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, bindparam, delete, insert, text, update

from postroom.registration import Registration
from postroom.registry import postgresql, schema
from postroom.registry.checks import check
from postroom.registry.database import COLUMNS, CURRENT, LAST, OLDEST, Key, to_registration
from postroom.registry.errors import AlreadyRegistered, NotRegistered
from postroom.registry.history import Difference, Generation, details
from postroom.registry.postgresql import PostgresDatabase
from postroom.registry.pruning import FORGET_GENERATIONS, FORGET_REGISTRATIONS, Pruning
from postroom.registry.queries import CHANGED, Filter
from postroom.registry.sqlite import translated
from postroom.stores.writing import writing, writing_engine

CHUNK = 1000
"""Rows a statement."""

_rows = schema.registration.c
_OF_KEY = (
    (_rows.handler == bindparam("key_handler"))
    & (_rows.stage == bindparam("key_stage"))
    & (_rows.type == bindparam("key_type"))
    & (_rows.address == bindparam("key_address"))
    & _rows.until.is_(None)
)


class Change:
    """One change in the making. It sees itself; nobody else sees it before its end."""

    def __init__(self, connection: Connection, what: str) -> None:
        self._connection, self._what = connection, what
        self._lines: list[str] = []
        self.last = int(connection.execute(text(f"SELECT {LAST}")).scalar_one())
        self.number = self.last
        """The generation that this change is, once something is different; before that, the last one."""

    @property
    def what(self) -> str:
        if self._what or not self._lines:
            return self._what
        more = f"; and {len(self._lines) - 1} more" if len(self._lines) > 1 else ""
        return self._lines[0] + more

    def find(self, chosen: Filter) -> Sequence[Registration]:
        if not chosen.possible():
            return []
        where, values = chosen.where()
        order = "r.address, r.type, r.stage, r.handler"
        sql = f"SELECT {COLUMNS} FROM registration AS r WHERE {CURRENT}{where} ORDER BY {order}"  # noqa: S608
        return [to_registration(tuple(row)) for row in self._connection.execute(text(sql), values)]

    def require(self, key: Key) -> Registration:
        handler, stage, type_, address = key
        found = self.find(Filter(handler, stage, type_, address))
        if not found:
            named = Registration(handler, stage, type_, address)
            raise NotRegistered(f"{named}: is not registered; see `postroom handlers list`")
        return found[0]

    def add(self, registration: Registration) -> None:
        if self.find(Filter(*registration.key)):
            raise AlreadyRegistered(f"{registration}: is registered already; change it with `postroom handlers set`")
        self.put([Difference(None, registration)])

    def update(self, registration: Registration) -> None:
        before = self.require(registration.key)
        if before != registration:
            self.put([Difference(before, registration)])

    def remove(self, key: Key) -> None:
        self.put([Difference(self.require(key), None)])

    def put(self, found: Sequence[Difference]) -> None:
        """Make each registration what it is after; what it was before has been read within this change."""
        if not found:
            return
        for difference in found:
            if difference.after is not None:
                check(difference.after)
        self.number = self.last + 1
        self._lines += [_line(difference) for difference in found]
        for start in range(0, len(found), CHUNK):
            self._put_chunk(found[start : start + CHUNK])

    def _put_chunk(self, found: Sequence[Difference]) -> None:
        ended = [_key_parameters(difference.before) for difference in found if difference.before is not None]
        begun = [difference.after for difference in found if difference.after is not None]
        if ended:
            # what this same change brought was never seen by anybody, and leaves no row
            self._connection.execute(delete(schema.registration).where(_OF_KEY, _rows.since == self.number), ended)
            self._connection.execute(update(schema.registration).where(_OF_KEY).values(until=self.number), ended)
        if begun:
            self._connection.execute(
                insert(schema.registration), [{**_values(each), "since": self.number} for each in begun]
            )

    def sides(self, generation: int) -> tuple[Sequence[Registration], Sequence[Registration]]:
        """Of what is not now as it was at `generation`: how it was, and how it is (reversed: the way back)."""
        rows = self._connection.execute(text(CHANGED), {"a": generation, "b": self.last}).all()
        before = [to_registration(tuple(row[1:])) for row in rows if row[0] == 0]
        after = [to_registration(tuple(row[1:])) for row in rows if row[0] == 1]
        return before, after

    def forget(self, oldest: int) -> Pruning:
        """One step towards `oldest` being the oldest generation; an empty one when there is nothing left to do."""
        first = int(self._connection.execute(text(f"SELECT {OLDEST}")).scalar_one())
        rising = {"oldest": min(oldest, first + CHUNK)}
        if generations := self._connection.execute(text(FORGET_GENERATIONS), rising).rowcount:
            return Pruning(oldest, generations)
        going = {"oldest": oldest, "most": CHUNK}
        return Pruning(oldest, 0, self._connection.execute(text(FORGET_REGISTRATIONS), going).rowcount)

    def finish(self, who: str, at: float) -> None:
        """Write the generation down, when something is different."""
        if self.number != self.last:
            made = Generation(self.number, at, who, self.what)
            values = {"number": made.number, "at": made.at, "who": made.who, "what": made.what}
            self._connection.execute(insert(schema.generation), [values])


class Writer(Protocol):
    """Writes to one kind of database."""

    def migrate(self, steps: Sequence[schema.Step] = schema.STEPS) -> None:
        """Lead the schema here, or make it."""

    def change(self, who: str, what: str, clock: Callable[[], float]) -> AbstractContextManager[Change]:
        """One transaction; see `Registry.change`."""


class SqliteWriter:
    """Opens the file for each change: changes are rare, and commands end after one."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._engine = writing_engine(path, timeout)

    def migrate(self, steps: Sequence[schema.Step] = schema.STEPS) -> None:
        with self._transaction() as connection:
            schema.migrate(connection, str(self._path), steps)

    @contextmanager
    def change(self, who: str, what: str, clock: Callable[[], float]) -> Iterator[Change]:
        with self._transaction() as connection:
            change = Change(connection, what)
            yield change
            change.finish(who, clock())

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with translated(self._path), writing(self._engine) as connection:
            yield connection


class PostgresWriter:
    """Writes to the server that the database reads from."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._engine: Engine = database.engine
        self._place = database.place

    def migrate(self, steps: Sequence[schema.Step] = schema.STEPS) -> None:
        with self._transaction() as connection:
            schema.migrate(connection, self._place, steps)

    @contextmanager
    def change(self, who: str, what: str, clock: Callable[[], float]) -> Iterator[Change]:
        with self._transaction() as connection:
            change = Change(connection, what)
            yield change
            change.finish(who, clock())

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with postgresql.translated(self._place), self._engine.begin() as connection:
            postgresql.lock_for_writing(connection)
            yield connection


def _line(difference: Difference) -> str:
    found = difference.registration
    if difference.before is None:
        return f"add {found}: {details(found)}"
    if difference.after is None:
        return f"remove {found}"
    changes = difference.changes()
    if [name for name, _, _ in changes] == ["enabled"]:
        return f"{'enable' if found.enabled else 'disable'} {found}"
    return f"set {str(difference).removeprefix('~ ')}"


def _values(registration: Registration) -> dict[str, Any]:
    return {
        "handler": registration.handler,
        "stage": str(registration.stage),
        "type": str(registration.type),
        "address": registration.address,
        "priority": registration.priority,
        "enabled": registration.enabled,
        "context": registration.context,
        "mode": str(registration.mode),
        "on_error": str(registration.on_error or ""),
        "executable": registration.executable,
    }


def _key_parameters(registration: Registration) -> dict[str, str]:
    handler, stage, type_, address = registration.key
    return {"key_handler": handler, "key_stage": str(stage), "key_type": str(type_), "key_address": address}
