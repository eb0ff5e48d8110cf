"""Reading the directory for mail: one prepared statement a look-up, on SQLite or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from postroom.config import Config, ConfigError
from postroom.hookspecs import DirectoryUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine

SCHEMA_VERSION = 2
SQLITE = "sqlite:///"
POOL_SIZE = 8
UNDEFINED_TABLE = "42P01"  # PostgreSQL, appendix A
FILE_MODE, DIRECTORY_MODE = 0o640, 0o750

Row = tuple[Any, ...]

_NULL = "CAST(NULL AS BIGINT)"
LOOKUP_1 = f"""
SELECT 'g' AS kind, '' AS address, 0 AS position, 0 AS enabled, generation AS quota, {_NULL} AS message_limit,
    '' AS text, '' AS languages, 0 AS flag FROM accounts_state
UNION ALL SELECT 'd', name, 0, enabled, quota, message_limit, '', '', 0 FROM accounts_domain WHERE name = :domain
UNION ALL SELECT 'm', address, 0, enabled, quota, message_limit, maildir, languages, keep_copy
    FROM accounts_mailbox WHERE address IN (:key, :bare)
UNION ALL SELECT 't', address, position, 1, {_NULL}, {_NULL}, target, '', alias
    FROM accounts_target WHERE address IN (:key, :bare, :everybody)
"""  # noqa: S608  # nothing from outside
"""In a database that no command has led to the second schema yet."""

LISTS = "accounts_list"
LOOKUP = f"""{LOOKUP_1}UNION ALL SELECT 'l', address, 0, 1, {_NULL}, {_NULL}, next_hop, '', 0
    FROM {LISTS} WHERE address IN (:key, :bare, :list, :everybody)
"""  # noqa: S608  # nothing from outside
"""The generation, and all that is known of an address: its domain, its mailbox, its targets, its list's next hop."""

GENERATION = "SELECT generation FROM accounts_state"


class AccountsUnusable(DirectoryUnavailable):
    """The database is there and cannot be used: trying again does not help."""

    exit_status = 2


class Reader(Protocol):
    """Reading, from any thread and after a fork; DirectoryUnavailable when it cannot."""

    place: str  # how errors call it; holds no password

    def lookup(self, parameters: Mapping[str, str]) -> list[Row]: ...

    def stamp(self) -> object:
        """What is certainly different in this thread once somebody has changed something; cheap."""

    def generation(self) -> int: ...

    def origin(self) -> object:
        """The very database that this thread asked last: generations of two of them cannot be compared."""

    def close(self) -> None: ...


class _Here(threading.local):
    def __init__(self) -> None:
        self.process = 0
        self.connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None  # device and inode


class SqliteReader:
    """A file on this host, over a connection for each thread."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.place, self._timeout = path, str(path), timeout
        self._here = _Here()
        self._inherited: list[object] = []  # a parent's connections: kept, because closing them would touch its locks

    def lookup(self, parameters: Mapping[str, str]) -> list[Row]:
        with translated(self.path):
            try:
                return self._connection().execute(LOOKUP, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if f"no such table: {LISTS}" not in str(error):
                    raise
                return self._connection().execute(LOOKUP_1, parameters).fetchall()

    def stamp(self) -> object:
        with translated(self.path):
            version = self._connection().execute("PRAGMA data_version").fetchone()[0]
        return self._here.file, version

    def origin(self) -> object:
        return self._here.file

    def generation(self) -> int:
        with translated(self.path):
            return int(self._connection().execute(GENERATION).fetchone()[0])

    def close(self) -> None:
        """This thread's connection; those of others end with their threads."""
        here = self._here
        if here.connection is not None and here.process == os.getpid():
            here.connection.close()
        here.connection = None

    def _connection(self) -> sqlite3.Connection:
        here = self._here
        file = self._file()
        if here.connection is not None and here.process == os.getpid() and here.file != file:
            self.close()  # somebody put another file in its place, a backup for example
        if here.connection is None or here.process != os.getpid():
            self._inherited.append(here.connection)
            here.connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",  # SQLite reads where writing is not permitted
                uri=True,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            here.connection.execute("PRAGMA query_only = ON")
            here.process, here.file = os.getpid(), file
        return here.connection

    def _file(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise translate(self.path, sqlite3.OperationalError(error.strerror)) from None
        return found.st_dev, found.st_ino


class PostgresReader:
    """A server that several mail hosts share: one round trip a question."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self._engine: Engine | None = None
        self._process = 0
        self._lock = threading.Lock()
        self.place = place_of(url)

    @property
    def engine(self) -> Engine:
        """Made when it is first used, again after a fork."""
        if self._engine is None or self._process != os.getpid():
            with self._lock:
                if self._engine is None or self._process != os.getpid():
                    if self._engine is not None:
                        self._engine.dispose(close=False)  # the parent's sockets stay the parent's
                    self._engine, self._process = open_engine(self._url, self._timeout), os.getpid()
        return self._engine

    def lookup(self, parameters: Mapping[str, str]) -> list[Row]:
        from sqlalchemy.exc import DBAPIError

        with translated_server(self.place):
            try:
                return self._ask(LOOKUP, parameters)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != UNDEFINED_TABLE or LISTS not in str(error.orig):
                    raise
                return self._ask(LOOKUP_1, parameters)

    def stamp(self) -> object:
        return self.generation()

    def origin(self) -> object:
        return None

    def generation(self) -> int:
        return int(self._query(GENERATION, {})[0][0])

    def close(self) -> None:
        if self._engine is not None and self._process == os.getpid():
            self._engine.dispose()

    def _query(self, sql: str, parameters: Mapping[str, str]) -> list[Row]:
        with translated_server(self.place):
            return self._ask(sql, parameters)

    def _ask(self, sql: str, parameters: Mapping[str, str]) -> list[Row]:
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError

        try:
            return self._fetch(text(sql), parameters)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return self._fetch(text(sql), parameters)  # the server was restarted: the pool has new connections

    def _fetch(self, statement: Any, parameters: Mapping[str, str]) -> list[Row]:
        # AUTOCOMMIT: one statement is its own snapshot, and BEGIN and COMMIT would be two more round trips
        engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(statement, parameters)]


def open_reader(config: Config) -> SqliteReader | PostgresReader:
    """The database that `[directory] url` names. Nothing is connected yet; ConfigError when it can be none."""
    url, timeout = config.directory.url, float(config.directory.timeout)
    if not url:
        return SqliteReader(config.paths.state / "accounts.sqlite", timeout)
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        if not path.is_absolute():
            raise ConfigError(
                f"{config.source}: [directory]: url: {path} is no absolute path: write sqlite:////var/lib/…"
            )
        return SqliteReader(path, timeout)
    if url.split("://")[0] not in ("postgresql", "postgresql+psycopg"):
        raise ConfigError(
            f"{config.source}: [directory]: url: write sqlite:///PATH or postgresql+psycopg://user@host/name"
        )
    return PostgresReader(url, timeout)


def place_of(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise ConfigError("[directory]: url: is no database URL: write postgresql+psycopg://user@host/name") from None


def open_engine(url: str, timeout: float) -> Engine:
    from postroom.stores.postgresql import limit_waits
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    limits = f"-c statement_timeout={int(timeout * 1000)} -c lock_timeout={int(timeout * 1000)}"
    own = parsed.query.get("options", "")
    try:
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=timeout,
            connect_args={
                "connect_timeout": max(2, round(timeout)),  # libpq takes 1 for 2
                "options": f"{limits} {own if isinstance(own, str) else ' '.join(own)}",
                "application_name": "postroom-accounts",
            },
        )
        limit_waits(engine, timeout)
    except ModuleNotFoundError:
        raise AccountsUnusable(
            "[directory] url: psycopg is missing: pip install 'postroom-accounts[postgresql]'"
        ) from None
    return engine


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as the directory's."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(path, error) from None


def translate(path: Path, error: sqlite3.Error) -> DirectoryUnavailable:
    if not path.exists() or "no such table: accounts_" in str(error):
        return DirectoryUnavailable(f"{path}: there are no accounts yet; `postroom accounts domain add` makes them")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DirectoryUnavailable(f"{path}: another process is changing it and does not finish; try again")
    if code == sqlite3.SQLITE_FULL:
        return DirectoryUnavailable(f"{path}: {error}; make room on its disk, and try again")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH):
        return AccountsUnusable(f"{path}: not permitted: {error}; run as the server's user or as root")
    if code == sqlite3.SQLITE_NOTADB:
        return AccountsUnusable(f"{path}: is no database; set [directory] url to another file, or restore a backup")
    if code == sqlite3.SQLITE_IOERR:
        return DirectoryUnavailable(f"{path}: {error}; is its disk full or failing? make room, and try again")
    return AccountsUnusable(f"{path}: {error}; check the file with `sqlite3 {path} 'PRAGMA integrity_check'`")


@contextmanager
def translated_server(place: str) -> Iterator[None]:
    """SQLAlchemy's errors as the directory's; the server's own words in one line, without statement and parameters."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        words = " ".join(str(error.orig).split())
        sqlstate = getattr(error.orig, "sqlstate", None)
        if sqlstate == UNDEFINED_TABLE:
            text = f"{place}: there are no accounts yet; `postroom accounts domain add` makes them"
            raise DirectoryUnavailable(text) from None
        if error.connection_invalidated or sqlstate is None or sqlstate[:2] in ("08", "40", "53", "55", "57"):
            raise DirectoryUnavailable(f"{place}: {words}; is the server up? try again") from None
        raise AccountsUnusable(f"{place}: {words}; check the rights of this user and the database") from None
    except SQLAlchemyError as error:
        raise DirectoryUnavailable(f"{place}: {str(error).splitlines()[0]}; try again") from None
