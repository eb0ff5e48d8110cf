"""The store of one host: a SQLite file, one immediate transaction a mail."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from postroom.hookspecs import StateStore
from postroom.stores.sqlite import SqliteFile

from postroom_autoresponder.decision import HOUR_MS, Answered, Hour, Silence, judge
from postroom_autoresponder.store import (
    FORWARDED,
    MAIL_MEMORY,
    NO_RESPONDER,
    REPLIED,
    Claim,
    Granted,
    Stale,
    StoredResponder,
)

DATABASE = "autoresponder"
PURGED = 8
"""Expired rows of each kind that a claim removes: more than it adds, so that the file stops growing."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS responders (
    name TEXT PRIMARY KEY, version TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answered (
    responder TEXT NOT NULL, sender BLOB NOT NULL, last INTEGER NOT NULL, day INTEGER NOT NULL, count INTEGER NOT NULL,
    expires INTEGER NOT NULL, PRIMARY KEY (responder, sender)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answered_expires ON answered (expires);
CREATE INDEX IF NOT EXISTS answered_oldest ON answered (responder, expires);
CREATE TABLE IF NOT EXISTS mails (
    responder TEXT NOT NULL, mail BLOB NOT NULL, expires INTEGER NOT NULL,
    PRIMARY KEY (responder, mail)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mails_expires ON mails (expires);
CREATE INDEX IF NOT EXISTS mails_oldest ON mails (responder, expires);
CREATE TABLE IF NOT EXISTS counts (
    responder TEXT NOT NULL, word TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (responder, word)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hours (
    mailbox TEXT PRIMARY KEY, start INTEGER NOT NULL, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hours_start ON hours (start);
CREATE TABLE IF NOT EXISTS hour (id INTEGER PRIMARY KEY CHECK (id = 0), start INTEGER NOT NULL, count INTEGER NOT NULL);
"""

_PURGE_ANSWERED = """
DELETE FROM answered WHERE (responder, sender) IN
    (SELECT responder, sender FROM answered WHERE expires <= ? ORDER BY expires LIMIT ?)
"""
_PURGE_MAILS = """
DELETE FROM mails WHERE (responder, mail) IN
    (SELECT responder, mail FROM mails WHERE expires <= ? ORDER BY expires LIMIT ?)
"""
_PURGE_HOURS = """
DELETE FROM hours WHERE mailbox IN (SELECT mailbox FROM hours WHERE start <= ? ORDER BY start LIMIT ?)
"""
_DROP_ANSWERED = """
DELETE FROM answered WHERE responder = ?1 AND sender IN
    (SELECT sender FROM answered WHERE responder = ?1 ORDER BY expires LIMIT ?2)
"""
_DROP_MAILS = """
DELETE FROM mails WHERE responder = ?1 AND mail IN
    (SELECT mail FROM mails WHERE responder = ?1 ORDER BY expires LIMIT ?2)
"""
_KEEP = "INSERT OR REPLACE INTO answered (responder, sender, last, day, count, expires) VALUES (?, ?, ?, ?, ?, ?)"
_KEEP_HOUR = "INSERT OR REPLACE INTO hours (mailbox, start, count) VALUES (?, ?, ?)"
_COUNT = """
INSERT INTO counts (responder, word, count) VALUES (?, ?, ?)
ON CONFLICT (responder, word) DO UPDATE SET count = count + excluded.count
"""


class SqliteStore:
    """Implements store.Store."""

    name = "SQLite"

    def __init__(self, state: StateStore) -> None:
        self._file = SqliteFile(state, DATABASE, SCHEMA)

    def claim(self, claim: Claim) -> Granted | Stale:
        with self._file.transaction() as database:
            stored = _responder(database, claim.responder)
            if stored.version != claim.known:
                return Stale(stored)
            granted = _grant(database, claim)
            if claim.counts:
                _count(database, claim.responder, str(granted.silence or REPLIED), 1)
                if granted.forwards:
                    _count(database, claim.responder, FORWARDED, 1)
            if claim.acts:
                database.execute(_PURGE_ANSWERED, (claim.now, PURGED))
                database.execute(_PURGE_MAILS, (claim.now, PURGED))
                database.execute(_PURGE_HOURS, (claim.now - HOUR_MS, PURGED))
            return granted

    def release(self, claim: Claim, granted: Granted, reason: Silence) -> None:
        with self._file.transaction() as database:
            known = _answered(database, claim)
            if known is not None and known.last == claim.now:
                if granted.before is None:
                    database.execute(
                        "DELETE FROM answered WHERE responder = ? AND sender = ?", (claim.responder, claim.sender)
                    )
                else:
                    _keep(database, claim, granted.before)
            database.execute("UPDATE hour SET count = count - 1 WHERE count > 0")
            database.execute("UPDATE hours SET count = count - 1 WHERE mailbox = ? AND count > 0", (claim.mailbox,))
            if claim.counts:
                _count(database, claim.responder, REPLIED, -1)
                _count(database, claim.responder, str(reason), 1)

    def responder(self, name: str) -> StoredResponder:
        with self._file.connection() as database:
            return _responder(database, name)

    def replace_responder(self, name: str, old_version: str, new: StoredResponder) -> bool:
        with self._file.transaction() as database:
            if _responder(database, name).version != old_version:
                return False
            if new.version:
                database.execute(
                    "INSERT OR REPLACE INTO responders (name, version, document) VALUES (?, ?, ?)",
                    (name, new.version, new.document),
                )
            else:
                database.execute("DELETE FROM responders WHERE name = ?", (name,))
            return True

    def responders(self) -> Iterator[tuple[str, StoredResponder]]:
        with self._file.connection() as database:
            names = [row[0] for row in database.execute("SELECT name FROM responders ORDER BY name")]
        for name in names:
            if (found := self.responder(name)).version:
                yield name, found

    def counts(self, name: str) -> Mapping[str, int]:
        with self._file.connection() as database:
            rows = database.execute("SELECT word, count FROM counts WHERE responder = ? AND count > 0", (name,))
            return dict(rows.fetchall())

    def counted(self) -> Iterator[str]:
        with self._file.connection() as database:
            rows = database.execute("SELECT DISTINCT responder FROM counts ORDER BY responder").fetchall()
        yield from (row[0] for row in rows)

    def remembered(self, name: str, now: int) -> int:
        with self._file.connection() as database:
            query = "SELECT count(*) FROM answered WHERE responder = ? AND expires > ?"
            return int(database.execute(query, (name, now)).fetchone()[0])

    def forget(self, name: str, sender: bytes | None = None) -> int:
        with self._file.transaction() as database:
            if sender is not None:
                query = "DELETE FROM answered WHERE responder = ? AND sender = ?"
                return database.execute(query, (name, sender)).rowcount
            known = database.execute("DELETE FROM answered WHERE responder = ?", (name,)).rowcount
            database.execute("DELETE FROM mails WHERE responder = ?", (name,))
            database.execute("DELETE FROM counts WHERE responder = ?", (name,))
            return known

    def ping(self) -> None:
        with self._file.transaction():
            pass


def _grant(database: sqlite3.Connection, claim: Claim) -> Granted:
    silence, forwards = claim.silence, claim.forwards
    if claim.acts:
        if _is_known(database, claim):
            silence, forwards = silence or Silence.ANSWERED, False
        else:
            _make_room(database, "mails", _DROP_MAILS, claim)
            database.execute(
                "INSERT OR REPLACE INTO mails (responder, mail, expires) VALUES (?, ?, ?)",
                (claim.responder, claim.mail, claim.now + MAIL_MEMORY),
            )
    if silence is not None:
        return Granted(silence, forwards)
    known = _answered(database, claim)
    row = database.execute("SELECT start, count FROM hours WHERE mailbox = ?", (claim.mailbox,)).fetchone()
    mailbox = Hour(*row) if row else Hour()
    row = database.execute("SELECT start, count FROM hour").fetchone()
    judged = judge(known, mailbox, Hour(*row) if row else Hour(), claim.terms, claim.now)
    if isinstance(judged, Silence):
        return Granted(judged, forwards)
    answered, mailbox, host = judged
    if known is None:
        _make_room(database, "answered", _DROP_ANSWERED, claim)
    _keep(database, claim, answered)
    database.execute(_KEEP_HOUR, (claim.mailbox, mailbox.start, mailbox.count))
    database.execute("INSERT OR REPLACE INTO hour (id, start, count) VALUES (0, ?, ?)", (host.start, host.count))
    return Granted(None, forwards, known)


def _is_known(database: sqlite3.Connection, claim: Claim) -> bool:
    query = "SELECT 1 FROM mails WHERE responder = ? AND mail = ? AND expires > ?"
    return database.execute(query, (claim.responder, claim.mail, claim.now)).fetchone() is not None


def _make_room(database: sqlite3.Connection, table: str, drop: str, claim: Claim) -> None:
    """So that one more fits: the one that would be forgotten first goes."""
    count = database.execute(f"SELECT count(*) FROM {table} WHERE responder = ?", (claim.responder,))  # noqa: S608  # a name of ours
    over = count.fetchone()[0] - claim.terms.remembered + 1
    if over > 0:
        database.execute(drop, (claim.responder, over))


def _answered(database: sqlite3.Connection, claim: Claim) -> Answered | None:
    query = "SELECT last, day, count FROM answered WHERE responder = ? AND sender = ?"
    row = database.execute(query, (claim.responder, claim.sender)).fetchone()
    return Answered(*row) if row else None


def _keep(database: sqlite3.Connection, claim: Claim, answered: Answered) -> None:
    expires = answered.last + claim.terms.memory
    numbers = (answered.last, answered.day, answered.count, expires)
    database.execute(_KEEP, (claim.responder, claim.sender, *numbers))


def _responder(database: sqlite3.Connection, name: str) -> StoredResponder:
    row = database.execute("SELECT version, document FROM responders WHERE name = ?", (name,)).fetchone()
    return StoredResponder(*row) if row else NO_RESPONDER


def _count(database: sqlite3.Connection, name: str, word: str, number: int) -> None:
    database.execute(_COUNT, (name, word, number))
