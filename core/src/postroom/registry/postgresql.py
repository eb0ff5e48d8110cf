"""Reading a PostgreSQL registry, which several mail hosts share: one round trip a question."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from postroom.registration import Type
from postroom.registry.database import COLUMNS, GENERATION_ROW, Parameters, Row, storable
from postroom.registry.errors import RegistryError, RegistryUnavailable
from postroom.stores.postgresql import limit_waits

POOL_SIZE = 8
"""Connections a process keeps or opens at most; look-ups are short, so that many threads share them."""
STREAM_ROWS = 1000


class PostgresDatabase:
    """A server, asked through a bounded pool."""

    local = False

    def __init__(self, url: str, timeout: float) -> None:
        self.engine = open_engine(url, timeout)
        self.place = self.engine.url.render_as_string(hide_password=True)
        # AUTOCOMMIT: one statement is its own snapshot, and BEGIN and COMMIT would be two more round trips
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        _forget_after_fork(self)

    def query(self, sql: str, parameters: Parameters) -> list[Row]:
        with translated(self.place):
            try:
                return self._fetch(sql, parameters)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return self._fetch(sql, parameters)  # the server was restarted: the pool has new connections now

    def _fetch(self, sql: str, parameters: Parameters) -> list[Row]:
        with self._reading.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), parameters)]

    def stream(self, sql: str, parameters: Parameters) -> Iterator[Row]:
        with translated(self.place), self.engine.connect() as connection:
            server_side = connection.execution_options(yield_per=STREAM_ROWS)
            with server_side.execute(text(sql), parameters) as result:  # closed, too, when nobody reads to the end
                for row in result:
                    yield tuple(row)

    def select(
        self, keys: Collection[tuple[Type, str]], condition: str, parameters: Parameters, head: str = GENERATION_ROW
    ) -> list[Row]:
        wanted = [(str(type_), address) for type_, address in keys if storable(address)]
        values = {**parameters, "t": [type_ for type_, _ in wanted], "a": [address for _, address in wanted]}
        sql = (
            f"{head} UNION ALL SELECT {COLUMNS}, NULL"  # noqa: S608  # nothing from outside
            " FROM unnest(CAST(:t AS text[]), CAST(:a AS text[])) AS k (type, address) JOIN registration AS r"
            f' ON r.address = k.address COLLATE "C" AND r.type = k.type COLLATE "C" WHERE {condition}'
        )
        return self.query(sql, values)

    def close(self) -> None:
        self.engine.dispose()


def open_engine(url: str, timeout: float) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "postgresql":
            raise RegistryError(
                f"[registry] url: {parsed.drivername!r} is no database for it: sqlite:///PATH or postgresql+psycopg://…"
            )
        limits = f"-c statement_timeout={int(timeout * 1000)} -c lock_timeout={int(timeout * 1000)}"
        own = parsed.query.get("options", "")
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=timeout,
            connect_args={
                "connect_timeout": max(2, round(timeout)),  # libpq takes 1 for 2
                "options": f"{limits} {own if isinstance(own, str) else ' '.join(own)}",
                "application_name": "postroom",
            },
        )
        limit_waits(engine, timeout)
        return engine
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise RegistryError(
            "[registry] url: is no database URL: write sqlite:///PATH or postgresql+psycopg://user@host/name"
        ) from None
    except ModuleNotFoundError:
        raise RegistryError("[registry] url: psycopg is missing: pip install 'postroom[postgresql]'") from None


@contextmanager
def translated(place: str) -> Iterator[None]:
    """SQLAlchemy's errors as ours; the server's own words in one line, without statement and parameters."""
    try:
        yield
    except DBAPIError as error:
        words = " ".join(str(error.orig).split())
        sqlstate = getattr(error.orig, "sqlstate", None)
        if error.connection_invalidated or sqlstate is None or sqlstate[:2] in ("08", "40", "53", "55", "57"):
            raise RegistryUnavailable(f"{place}: {words}; is the server up? try again") from None
        raise RegistryError(f"{place}: {words}; check the rights of this user and the database") from None
    except SQLAlchemyError as error:
        words = str(error).splitlines()[0]
        raise RegistryUnavailable(f"{place}: {words}; try again") from None


def lock_for_writing(connection: Connection) -> None:
    """One writer at a time, over all hosts, until the transaction ends; readers do not notice."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('postroom'), hashtext(current_schema()))"))


def _forget_after_fork(database: PostgresDatabase) -> None:
    """The parent's sockets stay the parent's."""
    reference = weakref.ref(database)

    def after() -> None:
        if (alive := reference()) is not None:
            alive.engine.dispose(close=False)

    os.register_at_fork(after_in_child=after)
