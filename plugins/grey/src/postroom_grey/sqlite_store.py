"""The store of one host: a SQLite file, one immediate transaction an attempt."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from postroom.hookspecs import StateStore
from postroom.lists import sqlite_store
from postroom.lists.scopes import Scope
from postroom.lists.sqlite_store import DATABASE, SqlitePolicies, stored_policy
from postroom.lists.store import StoredPolicy
from postroom.stores.sqlite import SqliteFile

from postroom_grey.decision import Attempted, NetworkRecord, Record, State, attempt_all
from postroom_grey.store import EVERYTHING, Counts, Entry, NetworkEntry, Request, Stale, Triple, shown
from postroom_grey.target import Target

BATCH = 500
"""Rows that a command changes in one transaction: mail never waits long for a command."""
PAGE = 1000
"""Rows that a command reads at once."""
LEAST_PURGED = 4
"""Expired rows that an attempt removes, at least; more where it adds more, so that the file stops growing."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, client TEXT NOT NULL, sender TEXT NOT NULL,
    recipient TEXT NOT NULL, state TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, due INTEGER NOT NULL,
    extra INTEGER NOT NULL, attempts INTEGER NOT NULL, expires INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS records_expires ON records (expires);
CREATE TABLE IF NOT EXISTS networks (
    client TEXT PRIMARY KEY, successes INTEGER NOT NULL, allowed_since INTEGER NOT NULL, last INTEGER NOT NULL,
    expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS networks_expires ON networks (expires);
"""

_ENTRIES = """
SELECT id, client, sender, recipient, digest, state, first, last, due, extra, attempts, expires
FROM records WHERE id > ? AND +expires > ?{} ORDER BY id LIMIT ?
"""  # +: in the order of the table, not sorted page by page from the index
_LOAD = "SELECT state, first, last, due, extra, attempts, expires FROM records WHERE digest = ?"
_KEEP = """
INSERT INTO records (digest, client, sender, recipient, state, first, last, due, extra, attempts, expires)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET state = excluded.state, first = excluded.first, last = excluded.last,
    due = excluded.due, extra = excluded.extra, attempts = excluded.attempts, expires = excluded.expires
"""
_RELEASE = "UPDATE records SET state = 'released' WHERE digest = ? AND state = 'waiting'"  # of decision.State
_PURGE = "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE expires <= ? ORDER BY expires LIMIT ?)"
_PURGE_NETWORKS = (
    "DELETE FROM networks WHERE client IN (SELECT client FROM networks WHERE expires <= ? ORDER BY expires LIMIT ?)"
)


class SqliteStore:
    """Implements store.Store."""

    name = "SQLite"

    def __init__(self, state: StateStore) -> None:
        self._file = SqliteFile(state, DATABASE, SCHEMA + sqlite_store.SCHEMA)
        self._policies = SqlitePolicies(state)

    def attempt(self, request: Request) -> tuple[Attempted, ...] | Stale:
        with self._file.transaction() as database:
            if stale := _stale(database, request.known):
                return Stale(stale)
            triples = [Triple(request.client, request.sender, recipient) for recipient, _ in request.recipients]
            made = attempt_all(
                _network(database, request.client) if request.network_terms.needed else None,
                [_record(database, triple.digest) for triple in triples],
                [terms for _, terms in request.recipients],
                request.network_terms,
                request.now,
                counts=request.counts,
            )
            for triple, record in zip(triples, made.records, strict=True):
                if record is not None:
                    _keep(database, triple, record)
            if made.network is not None:
                _keep_network(database, request.client, made.network)
            _purge(database, request.now, max(LEAST_PURGED, 2 * len(triples)))
            return made.answers

    def policy(self, scope: Scope) -> StoredPolicy:
        return self._policies.policy(scope)

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        return self._policies.replace_policy(scope, old_version, new)

    def scopes(self) -> Iterator[Scope]:
        return self._policies.scopes()

    def entries(self, now: int, target: Target = EVERYTHING) -> Iterator[Entry]:
        """Page by page: no reader is open while the caller writes, or looks at a row for long."""
        where, values = _where(target)
        last = -1
        rows: list[Any] = []
        while last < 0 or len(rows) == PAGE:
            with self._file.connection() as database:
                rows = database.execute(_ENTRIES.format(where), (last, now, *values, PAGE)).fetchall()
            for _, client, sender, recipient, digest, state, *numbers in rows:
                if target.matches_client(client):
                    yield Entry(Triple(client, sender, recipient), digest, Record(State(state), *numbers))
            last = rows[-1][0] if rows else 0

    def count_entries(self, now: int, target: Target) -> int:
        if target.network is not None:
            return sum(1 for _ in self.entries(now, target))
        where, values = _where(target)
        expires = "+expires" if where else "expires"  # by its index only where that says all
        query = f"SELECT count(*) FROM records WHERE {expires} > ?{where}"  # noqa: S608  # nothing from outside
        with self._file.connection() as database:
            return int(database.execute(query, (now, *values)).fetchone()[0])

    def networks(self, now: int, target: Target = EVERYTHING) -> Iterator[NetworkEntry]:
        where, values = _where_client(target)
        query = f"SELECT client, successes, allowed_since, last, expires FROM networks WHERE expires > ?{where}"  # noqa: S608  # nothing from outside
        with self._file.connection() as database:
            rows = database.execute(query, (now, *values)).fetchall()
        for client, *numbers in rows:
            if target.matches_client(client):
                yield NetworkEntry(client, NetworkRecord(*numbers))

    def counts(self, now: int) -> Counts:
        with self._file.connection() as database:
            records = database.execute("SELECT state, count(*) FROM records WHERE expires > ? GROUP BY state", (now,))
            states = {State(state): count for state, count in records}
            allowed, known = database.execute(
                "SELECT count(nullif(allowed_since, 0)), count(*) FROM networks WHERE expires > ?", (now,)
            ).fetchone()
        return Counts(states, allowed, known - allowed)

    def release(self, digests: Iterable[bytes]) -> int:
        return self._change(_RELEASE, digests)

    def forget(self, digests: Iterable[bytes]) -> int:
        return self._change("DELETE FROM records WHERE digest = ?", digests)

    def forget_networks(self, clients: Iterable[str]) -> int:
        return self._change("DELETE FROM networks WHERE client = ?", clients)

    def ping(self) -> None:
        with self._file.transaction():
            pass

    def _change(self, statement: str, keys: Iterable[bytes] | Iterable[str]) -> int:
        changed, left = 0, iter(keys)
        while batch := [(key,) for key in islice(left, BATCH)]:
            with self._file.transaction() as database:
                changed += database.executemany(statement, batch).rowcount
        return changed


def _where(target: Target) -> tuple[str, list[Any]]:
    """A condition on records; of a network's clients it lets some through that are not meant."""
    where, values = _where_client(target)
    for column, patterns in (
        ("sender", target.senders),
        ("recipient", (target.recipient,) if target.recipient else ()),
    ):
        if patterns:
            where += f" AND ({' OR '.join(f'{column} {_compared(pattern)}' for pattern in patterns)})"
            values += [_glob(pattern) for pattern in patterns]
    if target.states != frozenset(State):
        where += f" AND state IN ({', '.join('?' * len(target.states))})"
        values += sorted(target.states)
    return where, values


def _where_client(target: Target) -> tuple[str, list[Any]]:
    clients = target.clients
    if clients is None:
        return "", []
    names = f"client IN ({', '.join('?' * len(clients.names))})"
    if clients.prefix is None:
        return f" AND {names}", list(clients.names)
    return f" AND ({names} OR client GLOB ?)", [*clients.names, f"{clients.prefix}*"]


def _compared(pattern: str) -> str:
    return "GLOB ?" if "*" in pattern else "= ?"


def _glob(pattern: str) -> str:
    """For GLOB, in which `?` and `[` mean something, too (sqlite.org/lang_expr.html)."""
    return re.sub(r"[?\[]", r"[\g<0>]", pattern) if "*" in pattern else pattern


def _stale(database: sqlite3.Connection, known: Sequence[tuple[Scope, str]]) -> tuple[tuple[Scope, StoredPolicy], ...]:
    changed = []
    for scope, version in known:
        row = database.execute("SELECT version FROM policies WHERE scope = ?", (scope.key,)).fetchone()
        if (row[0] if row else "") != version:
            changed.append((scope, stored_policy(database, scope)))
    return tuple(changed)


def _record(database: sqlite3.Connection, digest: bytes) -> Record | None:
    row = database.execute(_LOAD, (digest,)).fetchone()
    return Record(State(row[0]), *row[1:]) if row else None


def _keep(database: sqlite3.Connection, triple: Triple, record: Record) -> None:
    names = (shown(triple.client), shown(triple.sender), shown(triple.recipient))
    numbers = (record.first, record.last, record.due, record.extra, record.attempts, record.expires)
    database.execute(_KEEP, (triple.digest, *names, str(record.state), *numbers))


def _network(database: sqlite3.Connection, client: str) -> NetworkRecord | None:
    row = database.execute(
        "SELECT successes, allowed_since, last, expires FROM networks WHERE client = ?", (client,)
    ).fetchone()
    return NetworkRecord(*row) if row else None


def _keep_network(database: sqlite3.Connection, client: str, record: NetworkRecord) -> None:
    database.execute(
        "INSERT OR REPLACE INTO networks (client, successes, allowed_since, last, expires) VALUES (?, ?, ?, ?, ?)",
        (client, record.successes, record.allowed_since, record.last, record.expires),
    )


def _purge(database: sqlite3.Connection, now: int, most: int) -> None:
    """Remove what has expired, a few at a time: no attempt ever pays for a scan."""
    database.execute(_PURGE, (now, most))
    database.execute(_PURGE_NETWORKS, (now, 1))
