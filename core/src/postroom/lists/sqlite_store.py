"""Policies in a SQLite file of this host."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from postroom.hookspecs import StateStore
from postroom.lists.scopes import Scope, parse_scope
from postroom.lists.store import NO_POLICY, StoredPolicy
from postroom.stores.sqlite import SqliteFile

DATABASE = "grey"
"""Greylisting's file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    scope TEXT PRIMARY KEY, version TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
"""


class SqlitePolicies:
    """Implements store.PolicyStore."""

    def __init__(self, state: StateStore) -> None:
        self._file = SqliteFile(state, DATABASE, SCHEMA)

    def policy(self, scope: Scope) -> StoredPolicy:
        with self._file.connection() as database:
            return stored_policy(database, scope)

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        with self._file.transaction() as database:
            done = stored_policy(database, scope).version == old_version
            if done:
                _replace(database, scope, new)
            return done

    def scopes(self) -> Iterator[Scope]:
        with self._file.connection() as database:
            for (key,) in database.execute("SELECT scope FROM policies ORDER BY scope"):
                yield parse_scope(key)


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
