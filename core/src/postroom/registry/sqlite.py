"""Reading a SQLite registry with prepared statements, over a connection for each thread.

No SQLAlchemy here: its import would cost every reading command a third of a second, and each look-up its overhead.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from postroom.registration import Type
from postroom.registry.database import COLUMNS, GENERATION_ROW, Parameters, Row, storable
from postroom.registry.errors import RegistryError, RegistryUnavailable

FILE_MODE, DIRECTORY_MODE = 0o640, 0o750
INLINE_KEYS = 64
"""Up to here keys are parameters of a statement, which is quickest; more travel as one JSON document."""


class SqliteDatabase:
    """A file on this host; `local`, since it answers in microseconds."""

    local = True

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.place, self._timeout = path, str(path), timeout
        self._here = threading.local()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._guard = threading.Lock()
        _close_around_fork(self)

    def query(self, sql: str, parameters: Parameters) -> list[Row]:
        return self._connection().fetch(sql, parameters)

    def stream(self, sql: str, parameters: Parameters) -> Iterator[Row]:
        # a connection of its own: the thread's one would see the old state as long as the cursor is open
        connection = open_file(self.path, self._timeout)
        try:
            with translated(self.path):
                yield from connection.execute(sql, parameters)
        finally:
            connection.close()

    def select(
        self, keys: Collection[tuple[Type, str]], condition: str, parameters: Parameters, head: str = GENERATION_ROW
    ) -> list[Row]:
        wanted = [(str(type_), address) for type_, address in keys if storable(address)]
        values = dict(parameters)
        if len(wanted) <= INLINE_KEYS:
            for number, (type_, address) in enumerate(wanted):
                values[f"t{number}"], values[f"a{number}"] = type_, address
        else:
            values["keys"] = json.dumps(wanted)
        return self._connection().fetch(_select(min(len(wanted), INLINE_KEYS + 1), condition, head), values)

    def close(self) -> None:
        with self._guard:
            for connection in list(self._connections):
                connection.close()

    def _connection(self) -> _Connection:
        try:
            return self._here.connection  # type: ignore[no-any-return]  # thread-local attributes have no type
        except AttributeError:
            connection = _Connection(self.path, self._timeout)
            with self._guard:
                self._connections.add(connection)
            self._here.connection = connection
            return connection

    def hold(self) -> list[_Connection]:
        """Close everything, and keep it closed until `release`."""
        self._guard.acquire()
        held = list(self._connections)
        for connection in held:
            connection.lock.acquire()
            connection.drop()
        return held

    def release(self, held: list[_Connection]) -> None:
        for connection in held:
            connection.lock.release()
        self._guard.release()


class _Connection:
    """One thread's connection, opened when first used; the lock is there for `close` and for a fork."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._open: sqlite3.Connection | None = None
        self.lock = threading.Lock()

    def fetch(self, sql: str, parameters: Parameters) -> list[Row]:
        with self.lock, translated(self._path):
            if self._open is None:
                self._open = open_file(self._path, self._timeout)
            return self._open.execute(sql, parameters).fetchall()

    def close(self) -> None:
        with self.lock:
            self.drop()

    def drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def __del__(self) -> None:  # the thread has ended
        self.drop()


@lru_cache(maxsize=512)
def _select(keys: int, condition: str, head: str) -> str:
    """One statement for generation and rows, so that both are of one moment."""
    if keys > INLINE_KEYS:
        wanted = "(SELECT value ->> 0 AS type, value ->> 1 AS address FROM json_each(:keys))"
    elif keys:
        places = ", ".join(f"(:t{number}, :a{number})" for number in range(keys))
        wanted = f"(SELECT column1 AS type, column2 AS address FROM (VALUES {places}))"  # noqa: S608  # names only
    else:
        wanted = "(SELECT NULL AS type, NULL AS address)"
    # CROSS JOIN: SQLite keeps the order, and goes from the few keys to the many rows (sqlite.org/optoverview.html 8.2)
    return (
        f"{head} UNION ALL SELECT {COLUMNS}, NULL"  # noqa: S608  # nothing from outside
        f" FROM {wanted} AS k CROSS JOIN registration AS r"
        f" WHERE r.address = k.address AND r.type = k.type AND {condition}"
    )


def open_file(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection for reading to a database that is there."""
    with translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",  # SQLite falls back to reading where writing is not permitted
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        return connection


def make_file(path: Path) -> None:
    """The empty file with its mode, and its directory; an existing one stays as it is."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            path.parent.chmod(DIRECTORY_MODE)  # whatever the umask is: the server's group reads
        descriptor = _create(path)
    except OSError as error:
        remedy = "run as a user who may, or set [registry] url"
        raise RegistryError(f"{path}: cannot be made: {error.strerror}; {remedy}") from None
    if descriptor is None:
        return
    try:
        os.fchmod(descriptor, FILE_MODE)
        if os.geteuid() == 0:  # root's first command must not lock the server's user out
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int | None:
    """None: another process was quicker."""
    try:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(path, error) from None


def translate(path: Path, error: sqlite3.Error) -> RegistryError:
    # sqlite_errorcode is only there when the error comes from SQLite itself
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RegistryUnavailable(f"{path}: another process is changing it and does not finish; try again")
    if code == sqlite3.SQLITE_CANTOPEN and not path.exists():
        return RegistryError(f"{path}: there is no registry; `postroom handlers add` makes one")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH):
        return RegistryError(f"{path}: not permitted: {error}; run as the server's user or as root")
    if code == sqlite3.SQLITE_NOTADB:
        return RegistryError(f"{path}: is no registry; set [registry] url to another file, or restore a backup")
    if code == sqlite3.SQLITE_FULL:
        return RegistryUnavailable(f"{path}: the disk is full; make room and try again")
    return RegistryError(f"{path}: {error}; check the file with `sqlite3 {path} 'PRAGMA integrity_check'`")


def _close_around_fork(database: SqliteDatabase) -> None:
    """SQLite's locks do not survive a fork (sqlite.org/howtocorrupt.html 2.6): no connection may be open then."""
    reference = weakref.ref(database)
    held: list[list[_Connection]] = []

    def before() -> None:
        if (alive := reference()) is not None:
            held.append(alive.hold())

    def after() -> None:
        if (alive := reference()) is not None and held:
            alive.release(held.pop())

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
