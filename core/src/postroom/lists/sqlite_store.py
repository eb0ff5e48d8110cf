"""Policies in a SQLite file of this host."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from postroom.hookspecs import StateStore, StateUnavailable
from postroom.lists.scopes import Scope, parse_scope
from postroom.lists.store import NO_POLICY, StoredPolicy

DATABASE = "grey"
"""Greylisting's file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    scope TEXT PRIMARY KEY, version TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
"""


class SqlitePolicies:
    """Implements store.PolicyStore."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._ready_process = 0

    def policy(self, scope: Scope) -> StoredPolicy:
        with self._connection() as database:
            return stored_policy(database, scope)

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                done = stored_policy(database, scope).version == old_version
                if done:
                    _replace(database, scope, new)
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
            return done

    def scopes(self) -> Iterator[Scope]:
        with self._connection() as database:
            for (key,) in database.execute("SELECT scope FROM policies ORDER BY scope"):
                yield parse_scope(key)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            database = self._state.database(DATABASE)
            if self._ready_process != os.getpid():
                database.executescript(SCHEMA)
                self._ready_process = os.getpid()
            yield database
        except sqlite3.Error as error:
            raise StateUnavailable(
                f"SQLite file {DATABASE}.sqlite: {error}; see that its file system has room and may be written"
            ) from error


def stored_policy(database: sqlite3.Connection, scope: Scope) -> StoredPolicy:
    row = database.execute("SELECT version, document FROM policies WHERE scope = ?", (scope.key,)).fetchone()
    return StoredPolicy(*row) if row else NO_POLICY


def _replace(database: sqlite3.Connection, scope: Scope, new: StoredPolicy) -> None:
    if new.version:
        database.execute(
            "INSERT OR REPLACE INTO policies (scope, version, document) VALUES (?, ?, ?)",
            (scope.key, new.version, new.document),
        )
    else:
        database.execute("DELETE FROM policies WHERE scope = ?", (scope.key,))
