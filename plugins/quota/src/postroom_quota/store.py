"""Where ledgers are kept: Redis for many hosts, else a SQLite file of this one. One round trip a mail."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from postroom.hookspecs import StateStore, StateUnavailable

from postroom_quota.ledger import (
    HYSTERESIS,
    MAX_HELD,
    NOTHING,
    Answer,
    Held,
    Ledger,
    Request,
    Terms,
    reserve_all,
    settle,
)

if TYPE_CHECKING:
    import redis

DATABASE = "quota"
PURGED = 4
"""Rows that are over, removed with each mail: nobody ever pays for a scan."""
REMEMBERED = 31 * 86400 * 1000
"""Milliseconds for which it is remembered that a warning was sent."""


class Store(Protocol):
    """StateUnavailable when it cannot be asked."""

    name: str

    def reserve(self, requests: Sequence[Request], terms: Terms) -> list[Answer]:
        """Each mailbox once."""

    def settle(self, mailbox: str, id: str, expires: int) -> None: ...

    def forget_warning(self, mailbox: str) -> None:
        """It could not be sent: the next mail tries again."""

    def forget(self, mailbox: str) -> None:
        """Nothing is held any more; what was warned of stays."""

    def ledger(self, mailbox: str) -> Ledger: ...

    def ping(self) -> None: ...


def open_store(state: StateStore) -> Store:
    return RedisStore(state) if state.redis is not None else SqliteStore(state)


SCHEMA = """
CREATE TABLE IF NOT EXISTS ledgers (
    mailbox TEXT PRIMARY KEY, document TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ledgers_expires ON ledgers (expires);
"""


class SqliteStore:
    """One immediate transaction a mail."""

    name = "SQLite"

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._ready_process = 0

    def reserve(self, requests: Sequence[Request], terms: Terms) -> list[Answer]:
        if not terms.write:
            with self._connection() as database:
                return reserve_all([_load(database, each.mailbox) for each in requests], requests, terms)[0]
        with self._transaction() as database:
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
        with self._connection() as database:
            return _load(database, mailbox)

    def ping(self) -> None:
        with self._transaction():
            pass

    def _change(self, mailbox: str, change: Changer) -> None:
        with self._transaction() as database:
            row = database.execute("SELECT document, expires FROM ledgers WHERE mailbox = ?", (mailbox,)).fetchone()
            if row:
                document = _document(change(_read(row[0])))
                database.execute("UPDATE ledgers SET document = ? WHERE mailbox = ?", (document, mailbox))

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

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")  # the write lock first: two mails never read the same ledger
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


class Changer(Protocol):
    def __call__(self, ledger: Ledger, /) -> Ledger: ...


class RedisStore:
    """All keys carry the hash tag `{quota}`: in a cluster they live on one node, as a script needs them."""

    name = "Redis"

    def __init__(self, state: StateStore) -> None:
        from redis.commands.core import Script

        self._state = state
        self._prefix = f"{state.prefix}{{quota}}:"
        with self._client() as client:
            self._reserve = Script(client, (files("postroom_quota") / "reserve.lua").read_text())
            self._settle = Script(client, _SETTLE)
            self._forget = Script(client, _FORGET)

    def reserve(self, requests: Sequence[Request], terms: Terms) -> list[Answer]:
        keys = [self._key(each.mailbox) for each in requests]
        arguments: list[str | int] = [terms.now, terms.id, terms.expires, int(terms.write), int(terms.together)]
        arguments += [MAX_HELD, HYSTERESIS, len(terms.thresholds), *terms.thresholds]
        for each in requests:
            arguments += [each.used, each.size, each.limit]
        with self._client() as client:
            reply = self._reserve(keys, arguments, client)
        threes = zip(reply[0::3], reply[1::3], reply[2::3], strict=True)
        return [Answer(bool(fits), int(total), int(warn)) for fits, total, warn in threes]

    def settle(self, mailbox: str, id: str, expires: int) -> None:
        with self._client() as client:
            self._settle([self._key(mailbox)], [id, expires], client)

    def forget_warning(self, mailbox: str) -> None:
        with self._client() as client:
            client.hdel(self._key(mailbox), "warned")

    def forget(self, mailbox: str) -> None:
        with self._client() as client:
            self._forget([self._key(mailbox)], [], client)

    def ledger(self, mailbox: str) -> Ledger:
        with self._client() as client:
            found: Any = client.hgetall(self._key(mailbox))
        held, plain = [], {}
        for name, value in found.items():
            if name.startswith(b"h:"):
                octets, _, expires = value.partition(b" ")
                held.append(Held(name[2:].decode("utf-8", "surrogateescape"), int(octets), int(expires)))
            else:
                plain[name.decode()] = int(value)
        held.sort(key=lambda each: (each.expires, each.id))
        return Ledger(tuple(held), plain.get("peak", 0), plain.get("many_until", 0), plain.get("warned", 0))

    def ping(self) -> None:
        with self._client() as client:
            client.script_load(self._reserve.script)

    def _key(self, mailbox: str) -> str:
        return f"{self._prefix}{hashlib.sha256(mailbox.encode('utf-8', 'surrogateescape')).hexdigest()}"

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        from redis.exceptions import RedisClusterException, RedisError

        client = self._state.redis
        if client is None:
            raise StateUnavailable("Redis is not configured any more: restart with the configuration as it is now")
        try:
            yield client
        except (RedisError, RedisClusterException, OSError) as error:
            raise StateUnavailable(
                f"Redis: {type(error).__name__}: {error}; is it running and as configured?"
            ) from error


_SETTLE = """
local value = redis.call('HGET', KEYS[1], 'h:' .. ARGV[1])
if not value then return 0 end
local octets, expires = string.match(value, '^(%d+) (%d+)$')
if tonumber(expires) > tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], 'h:' .. ARGV[1], octets .. ' ' .. ARGV[2]) end
return 1
"""
_FORGET = """
local warned = redis.call('HGET', KEYS[1], 'warned')
redis.call('DEL', KEYS[1])
if warned and warned ~= '0' then
  redis.call('HSET', KEYS[1], 'warned', warned)
  redis.call('PEXPIRE', KEYS[1], 31 * 86400000)
end
return 1
"""


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
