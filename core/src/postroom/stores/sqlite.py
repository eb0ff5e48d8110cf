"""A handler's tables in a SQLite file that the state store lends, and what every file of ours needs."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from postroom.hookspecs import StateStore, StateUnavailable

PAUSE = 0.01
"""Seconds between two attempts at a lock for which SQLite itself does not wait."""

LOG_SIZE = 16 << 20
"""Octets of the write-ahead log that stay after a large transaction; SQLite itself never gives any back."""


class SqliteFile:
    """`NAME.sqlite` with the tables of `schema`, which are made once a process; `schema` says IF NOT EXISTS."""

    def __init__(self, state: StateStore, name: str, schema: str) -> None:
        self._state, self._name, self._schema = state, name, schema
        self._ready_process = 0

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, each statement for itself. SQLite's errors leave as StateUnavailable."""
        try:
            database = self._state.database(self._name)
            if self._ready_process != os.getpid():
                database.executescript(self._schema)
                self._ready_process = os.getpid()
            yield database
        except sqlite3.Error as error:
            raise StateUnavailable(
                f"SQLite file {self._name}.sqlite: {error}; see [paths] state: its owner and rights, and free space"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and alone: the write lock comes first, so nobody changes what is read before it is written.

        Whoever reads first and writes later in a deferred transaction fails at once when somebody came in between
        (SQLITE_BUSY_SNAPSHOT); nobody waits for that lock.
        """
        with self.connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


def use_write_ahead_log(connection: sqlite3.Connection, timeout: float) -> None:
    """Readers beside a writer. SQLite does not wait for its lock when another process switches the same file at the
    same moment, so the wait is here.
    """
    ends_at = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA journal_size_limit = {LOG_SIZE}").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends_at:
                raise
            time.sleep(PAUSE)
