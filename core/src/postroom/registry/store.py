"""The registry: what acts for whom, with every change kept as a generation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.config import LEAST_HISTORY
from postroom.registration import Registration, Selection, Stage, Type
from postroom.registry.database import (
    AT,
    COLUMNS,
    CURRENT,
    GENERATION_ROW,
    LAST,
    OLDEST,
    OLDEST_ROW,
    SCHEMA_VERSION,
    Database,
    Key,
    to_registration,
    too_new,
)
from postroom.registry.errors import NotRegistered, RegistryError, RegistryUnavailable
from postroom.registry.history import Difference, Generation, differences
from postroom.registry.pruning import Pruning, look
from postroom.registry.queries import (
    CHANGED,
    ENABLED,
    HANDLERS,
    POSTGRES_HAS_TABLE,
    REGISTERED,
    SQLITE_HAS_TABLE,
    Filter,
)
from postroom.registry.sqlite import SqliteDatabase, make_file

if TYPE_CHECKING:
    from postroom.registry.change import Change, Writer

SQLITE = "sqlite:///"


def _pruned(number: int, oldest: int) -> str:
    return f"generation {number} was pruned: the oldest one is {oldest}; see [registry] history"


Kinds = frozenset[tuple[str, Stage, str]]
"""(handler, stage, executable): what can be told apart by what it needs to see."""


class Registry:
    """Thread-safe; safe to use after a fork; `open` one a process and keep it."""

    def __init__(
        self, database: Database, writer: Callable[[], Writer], clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._make_writer, self._clock = database, writer, clock
        self._writer: Writer | None = None
        self._guard = threading.Lock()
        self._enabled: tuple[int, Kinds] = (-1, frozenset())
        self._registered: tuple[int, Kinds] = (-1, frozenset())
        self.local = database.local

    @classmethod
    def open(
        cls, url: str, timeout: float = 5.0, *, create: bool = True, clock: Callable[[], float] = time.time
    ) -> Registry:
        """The registry at `sqlite:///PATH` or `postgresql+psycopg://…`, its schema led here when it is older.

        `timeout`: seconds to wait for a lock, a connection, an answer. `create`: make it where there is none.
        """
        if url.startswith(SQLITE):
            return cls._open_sqlite(Path(url.removeprefix(SQLITE)), timeout, create, clock)
        from postroom.registry.change import PostgresWriter  # SQLAlchemy: a third of a second that SQLite need not pay
        from postroom.registry.postgresql import PostgresDatabase

        server = PostgresDatabase(url, timeout)
        writer = PostgresWriter(server)
        registry = cls(server, lambda: writer, clock)
        try:
            if registry._stored_version(POSTGRES_HAS_TABLE) < SCHEMA_VERSION:
                if not create:
                    raise RegistryError(f"{server.place}: there is no registry; `postroom handlers add` makes one")
                writer.migrate()
        except RegistryError:
            registry.close()
            raise
        return registry

    @classmethod
    def _open_sqlite(cls, path: Path, timeout: float, create: bool, clock: Callable[[], float]) -> Registry:
        if not path.is_absolute():
            raise RegistryError(f"[registry] url: {path} is no absolute path: write sqlite:////var/lib/…")
        missing = not path.exists()
        if missing and not create:
            raise RegistryError(f"{path}: there is no registry; `postroom handlers add` makes one")
        if missing:
            make_file(path)

        def writer() -> Writer:
            from postroom.registry.change import SqliteWriter  # SQLAlchemy, as above

            return SqliteWriter(path, timeout)

        registry = cls(SqliteDatabase(path, timeout), writer, clock)
        try:
            if registry._stored_version(SQLITE_HAS_TABLE) < SCHEMA_VERSION:
                registry._writing().migrate()
        finally:
            registry.close()  # so that a process that opens, then forks, forks without a connection
        return registry

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Reading, for each mail

    def generation(self) -> int:
        """The number of the last change, 0 for an empty registry."""
        return int(self._database.query(f"SELECT {LAST}", {})[0][0])

    def matching(
        self,
        keys: Collection[tuple[Type, str]],
        stages: Collection[Stage],
        *,
        include_disabled: bool = False,
        at: int | None = None,
    ) -> Selection:
        """What is registered for any of `keys` at any of `stages`, in one query; `at` an earlier generation."""
        values: dict[str, str | int] = {f"s{number}": str(stage) for number, stage in enumerate(stages)}
        condition = f"r.stage IN ({', '.join(f':{name}' for name in values)})" if values else "1 = 0"
        if not include_disabled:
            condition += " AND r.enabled"
        if at is None:
            condition += f" AND {CURRENT}"
        else:
            condition += f" AND {AT}"
            values["at"] = at
        generation, found = 0, []
        for row in self._database.select(keys, condition, values, GENERATION_ROW if at is None else OLDEST_ROW):
            if row[0] is None:
                generation = row[-1]
            else:
                found.append(to_registration(row[:-1]))
        if at is not None and at < generation:
            raise RegistryUnavailable(_pruned(at, generation))  # a mail never goes on with half of its registrations
        return Selection(generation if at is None else at, tuple(found))

    def enabled(self) -> Kinds:
        """(handler, stage, executable) of which at least one registration is enabled."""
        self._enabled = self._kinds(self._enabled, ENABLED)
        return self._enabled[1]

    def registered(self) -> Kinds:
        """(handler, stage, executable) of which there is a registration, enabled or not."""
        self._registered = self._kinds(self._registered, REGISTERED)
        return self._registered[1]

    def _kinds(self, known: tuple[int, Kinds], question: str) -> tuple[int, Kinds]:
        """What is known, when it is of this generation; else the answer, with the generation that it is of."""
        if known[0] == self.generation():
            return known
        rows = self._database.query(question, {})
        number = next(row[-1] for row in rows if row[0] is None)
        return number, frozenset((row[0], Stage(row[1]), row[2]) for row in rows if row[0] is not None)

    # Reading, for people

    def get(self, key: Key) -> Registration | None:
        handler, stage, type_, address = key
        chosen = Filter(handler, stage, type_, address)
        if not chosen.possible():
            return None
        where, values = chosen.where()
        rows = self._database.query(f"SELECT {COLUMNS} FROM registration AS r WHERE {CURRENT}{where}", values)  # noqa: S608
        return to_registration(rows[0]) if rows else None

    def list(
        self,
        *,
        handler: str | None = None,
        stage: Stage | None = None,
        type: Type | None = None,
        address: str | None = None,
        enabled: bool | None = None,
        at: int | None = None,
    ) -> Iterator[Registration]:
        """The registrations in the order of `order.sort_key`, streamed; `at` an earlier generation.

        `address` is in the form in which addresses are compared.
        """
        chosen = Filter(handler, stage, type, address, enabled)
        if not chosen.possible():
            return iter(())
        where, values = chosen.where()
        parameters: dict[str, str | bool | int] = dict(values)
        if at is not None:
            self._check_generation(at)
            parameters["at"] = at
        order = "r.address, r.type, r.stage, r.handler"
        if chosen.handler is not None and chosen.address is None:
            order = "r.handler, " + order
        sql = f"SELECT {COLUMNS} FROM registration AS r WHERE {CURRENT if at is None else AT}{where} ORDER BY {order}"  # noqa: S608
        return map(to_registration, self._database.stream(sql, parameters))

    def handlers(self) -> Sequence[str]:
        """The names that are registered."""
        return [row[0] for row in self._database.query(HANDLERS, {})]

    def history(self, limit: int | None = None) -> Iterator[Generation]:
        """The changes, the last one first."""
        rows = "SELECT number, at, who, what FROM generation ORDER BY number DESC"
        if limit is None:
            return (Generation(*row) for row in self._database.stream(rows, {}))
        return iter([Generation(*row) for row in self._database.query(f"{rows} LIMIT :limit", {"limit": limit})])

    def diff(self, a: int, b: int | None = None) -> Sequence[Difference]:
        """What is different at generation `b` (None: now) from generation `a`."""
        last = self.generation()
        b = last if b is None else b
        for number in (a, b):
            self._check_generation(number, last)
        older, newer = min(a, b), max(a, b)
        rows = self._database.query(CHANGED, {"a": older, "b": newer})
        self._check_generation(older, last)  # nothing was pruned in between
        sides = [[to_registration(row[1:]) for row in rows if row[0] == side] for side in (0, 1)]
        return differences(sides[0], sides[1]) if a <= b else differences(sides[1], sides[0])

    # Writing: each is one generation, or an error and no change

    @contextmanager
    def change(self, who: str, what: str = "") -> Iterator[Change]:
        """One change in the making, alone over all processes and hosts: what it reads is what it changes.

        It becomes one generation when the block ends, none when nothing is different, and nothing at an exception.
        """
        with self._writing().change(who, what, self._clock) as change:
            yield change

    def add(self, registration: Registration, *, who: str) -> int:
        """The new generation; AlreadyRegistered when there is one with that key."""
        with self.change(who) as change:
            change.add(registration)
        return change.number

    def update(self, registration: Registration, *, who: str) -> int:
        """Put it in the place of the one with its key; NotRegistered when there is none."""
        with self.change(who) as change:
            change.update(registration)
        return change.number

    def set_enabled(self, key: Key, enabled: bool, *, who: str) -> int:
        with self.change(who) as change:
            change.update(replace(change.require(key), enabled=enabled))
        return change.number

    def remove(self, key: Key, *, who: str) -> int:
        with self.change(who) as change:
            change.remove(key)
        return change.number

    def rollback(self, generation: int, *, who: str) -> Sequence[Difference]:
        """Make everything as it was at `generation`; what became different. It is a change like any other."""
        with self.change(who, f"roll back to generation {generation}") as change:
            self._check_generation(generation, change.last)
            found = differences(*reversed(change.sides(generation)))
            change.put(found)
        return found

    def apply(self, wanted: Iterable[Registration], *, who: str, what: str = "apply a file") -> Sequence[Difference]:
        """Make the registry hold exactly `wanted`, in one generation; what became different."""
        with self.change(who, what) as change:
            found = differences(change.find(Filter()), wanted)
            change.put(found)
        return found

    def prunable(self, age: float) -> Pruning:
        """What `prune` would forget."""
        return look(self._database, self._clock() - max(age, LEAST_HISTORY))

    def prune(self, age: float) -> Pruning:
        """Forget all that did not stand any more `age` seconds ago, at least a day, in small steps; how much that was.

        What stands, and every generation that stood since, stays. It is no change. Several hosts may do it at once.
        """
        wanted = self.prunable(age)
        generations = registrations = 0
        step = wanted
        while step:
            with self.change("") as change:
                step = change.forget(wanted.oldest)
            generations, registrations = generations + step.generations, registrations + step.registrations
        return Pruning(wanted.oldest, generations, registrations)

    def _check_generation(self, number: int, last: int | None = None) -> None:
        last = self.generation() if last is None else last
        if not 0 <= number <= last:
            raise NotRegistered(
                f"there is no generation {number}: the last one is {last}; see `postroom handlers history`"
            )
        if number < (oldest := int(self._database.query(f"SELECT {OLDEST}", {})[0][0])):
            raise NotRegistered(_pruned(number, oldest))

    def _writing(self) -> Writer:
        with self._guard:
            if self._writer is None:
                self._writer = self._make_writer()
            return self._writer

    def _stored_version(self, has_table: str) -> int:
        if not self._database.query(has_table, {}):
            return 0
        version = int(self._database.query("SELECT version FROM schema_version", {})[0][0])
        if version > SCHEMA_VERSION:
            raise RegistryError(too_new(self._database.place, version))
        return version
