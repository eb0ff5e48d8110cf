"""Where policies are kept: one document a scope, that several handlers' commands read and change.

They stand where greylisting keeps what it remembers, because it decides over both in one transaction or script.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from postroom.hookspecs import StateStore, StateUnavailable
from postroom.lists.scopes import Scope, parse_scope
from postroom.lists.senders import SenderLists, document_with, lists_of_document

DATABASE = "grey"
"""Greylisting's SQLite file."""
MAX_ROUNDS = 5
"""Times that somebody else may change the same policy while one command does."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    scope TEXT PRIMARY KEY, version TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it is kept. `version` is new with every change and never used twice; "" with "": there is none."""

    version: str = ""
    document: str = ""


NO_POLICY = StoredPolicy()


class PolicyStore(Protocol):
    """Every method raises StateUnavailable when it cannot be reached."""

    def policy(self, scope: Scope) -> StoredPolicy: ...

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        """False, and nothing done, when the version is not `old_version` any more."""

    def scopes(self) -> Iterator[Scope]:
        """Every place that has a policy."""


def open_policies(state: StateStore) -> PolicyStore:
    """Redis when the core has it, else SQLite."""
    if state.redis is not None:
        from postroom.lists.redis_store import RedisPolicies  # redis-py only where it is used

        return RedisPolicies(state)
    return SqlitePolicies(state)


def change_document(store: PolicyStore, scope: Scope, change: Callable[[str], str]) -> str:
    """Apply `change` to the document as it is, however many commands run at once; the new document."""
    for _ in range(MAX_ROUNDS):
        stored = store.policy(scope)
        document = change(stored.document)
        new = StoredPolicy(secrets.token_hex(8), document) if document else NO_POLICY
        if store.replace_policy(scope, stored.version, new):
            return document
    raise StateUnavailable(f"somebody else keeps changing the settings of {scope}: try again")


def read_lists(store: PolicyStore, scopes: Iterable[Scope]) -> Mapping[Scope, SenderLists]:
    """The lists of those scopes that have some."""
    found = {scope: lists_of_document(store.policy(scope).document) for scope in scopes}
    return {scope: lists for scope, lists in found.items() if lists}


def change_lists(store: PolicyStore, scope: Scope, change: Callable[[SenderLists], SenderLists]) -> None:
    """Whatever else is kept for the scope stays."""
    change_document(store, scope, lambda document: document_with(document, change(lists_of_document(document))))


class SqlitePolicies:
    """Implements PolicyStore in a file of this host."""

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
