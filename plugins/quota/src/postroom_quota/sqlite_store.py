"""Ledgers in a SQLite file of this host, one immediate transaction a mail."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence

from postroom.hookspecs import StateStore
from postroom.stores.sqlite import SqliteFile

from postroom_quota.ledger import NOTHING, Answer, Held, Ledger, Request, Terms, reserve_all, settle
from postroom_quota.store import REMEMBERED

DATABASE = "quota"
PURGED = 4
"""Rows that are over, removed with each mail: nobody ever pays for a scan."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledgers (
    mailbox TEXT PRIMARY KEY, document TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ledgers_expires ON ledgers (expires);
"""


class SqliteStore:
    """Implements store.Store."""

    name = "SQLite"

    def __init__(self, state: StateStore) -> None:
        self._file = SqliteFile(state, DATABASE, SCHEMA)

    def reserve(self, requests: Sequence[Request], terms: Terms) -> list[Answer]:
        if not terms.write:
            with self._file.connection() as database:
                return reserve_all([_load(database, each.mailbox) for each in requests], requests, terms)[0]
        with self._file.transaction() as database:
            before = [_load(database, each.mailbox) for each in requests]
            answers, after = reserve_all(before, requests, terms)
            for old, new, request in zip(before, after, requests, strict=True):
                if old != new:
                    _keep(database, request.mailbox, new, terms.now)
            purge = "DELETE FROM ledgers WHERE mailbox IN (SELECT mailbox FROM ledgers WHERE expires <= ? LIMIT ?)"
            database.execute(purge, (terms.now, PURGED + len(requests)))
            return answers

    def settle(self, mailbox: str, id: str, expires: int) -> None:
        self._change(mailbox, lambda ledger: settle(ledger, id, expires))

    def forget_warning(self, mailbox: str) -> None:
        self._change(mailbox, lambda ledger: Ledger(ledger.held, ledger.peak, ledger.many_until, 0))

    def forget(self, mailbox: str) -> None:
        self._change(mailbox, lambda ledger: Ledger(warned=ledger.warned))

    def ledger(self, mailbox: str) -> Ledger:
        with self._file.connection() as database:
            return _load(database, mailbox)

    def ping(self) -> None:
        with self._file.transaction():
            pass

    def _change(self, mailbox: str, change: Callable[[Ledger], Ledger]) -> None:
        with self._file.transaction() as database:
            row = database.execute("SELECT document, expires FROM ledgers WHERE mailbox = ?", (mailbox,)).fetchone()
            if row:
                document = _document(change(_read(row[0])))
                database.execute("UPDATE ledgers SET document = ? WHERE mailbox = ?", (document, mailbox))


def _load(database: sqlite3.Connection, mailbox: str) -> Ledger:
    row = database.execute("SELECT document FROM ledgers WHERE mailbox = ?", (mailbox,)).fetchone()
    return _read(row[0]) if row else NOTHING


def _keep(database: sqlite3.Connection, mailbox: str, ledger: Ledger, now: int) -> None:
    ends = [each.expires for each in ledger.held] + [ledger.many_until, now + REMEMBERED if ledger.warned else now + 1]
    sql = "INSERT OR REPLACE INTO ledgers (mailbox, document, expires) VALUES (?, ?, ?)"
    database.execute(sql, (mailbox, _document(ledger), max(ends)))


def _document(ledger: Ledger) -> str:
    held = [[each.id, each.octets, each.expires] for each in ledger.held]
    return json.dumps([held, ledger.peak, ledger.many_until, ledger.warned])


def _read(document: str) -> Ledger:
    held, peak, many_until, warned = json.loads(document)
    return Ledger(tuple(Held(*each) for each in held), peak, many_until, warned)
