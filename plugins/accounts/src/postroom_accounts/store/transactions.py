"""Changing the database: one transaction at a time over all processes and hosts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from postroom.stores.writing import writing
from sqlalchemy import Column, Connection, Engine, Table, delete, insert, select, text, update

from postroom_accounts import schema
from postroom_accounts.database import DIRECTORY_MODE, FILE_MODE, AccountsUnusable, translated, translated_server

T = TypeVar("T")


class Transactions:
    """On SQLite where there is a `path`, else on PostgreSQL. `place` is how errors call it."""

    def __init__(self, engine: Engine, place: str, path: Path | None) -> None:
        self._engine, self.place, self._path = engine, place, path
        self._inside: Connection | None = None

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One transaction, alone over all processes and hosts, for every call inside the block."""
        if self._inside is not None:
            yield self._inside
            return
        with self._transaction() as connection:
            self._inside = connection
            try:
                yield connection
            finally:
                self._inside = None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._path is not None:
            with translated(self._path), writing(self._engine) as connection:
                yield connection
            return
        with translated_server(self.place), self._engine.begin() as connection:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext('postroom-accounts'), hashtext(current_schema()))")
            )
            yield connection


def changed(connection: Connection) -> None:
    """Whoever reads for mail shall see it."""
    connection.execute(update(schema.state).values(generation=schema.state.c.generation + 1))


def has(connection: Connection, table: Table, **values: str) -> bool:
    wanted = select(table.c[next(iter(values))]).where(*(table.c[name] == value for name, value in values.items()))
    return connection.execute(wanted.limit(1)).first() is not None


BLOCK = 500
"""Names or rows in one statement; SQLite takes 32,766 (https://www.sqlite.org/limits.html)."""


def blocks(things: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(things)
    while block := list(itertools.islice(rest, BLOCK)):
        yield block


def there(connection: Connection, column: Column[str], names: Iterable[str]) -> set[str]:
    """Those of the names that stand in the column."""
    return {
        str(found)
        for block in blocks(names)
        for found in connection.execute(select(column).where(column.in_(block)).distinct()).scalars()
    }


def replace_rows(connection: Connection, table: Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """These rows in place of whatever the table has for the addresses."""
    for block in blocks(names):
        connection.execute(delete(table).where(table.c.address.in_(block)))
    for lines in blocks(rows):
        connection.execute(insert(table), lines)


def make_file(path: Path) -> None:
    """The empty file with its mode, and its directory; root's first command must not lock the server's user out."""
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        words = f"cannot be made: {error.strerror}; run as a user who may, or set [directory] url"
        raise AccountsUnusable(f"{path}: {words}") from None
    try:
        os.fchmod(descriptor, FILE_MODE)
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)
