"""Writing to a SQLite file of one's own through SQLAlchemy, as rare changes by commands do.

Import it only where something is written: SQLAlchemy costs a third of a second.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from postroom.stores.sqlite import use_write_ahead_log


def writing_engine(path: Path, timeout: float) -> Engine:
    """For a file that is there, opened for each change. `timeout`: seconds to wait for the lock of another writer."""
    engine = create_engine("sqlite://", creator=lambda: _connect(path, timeout), poolclass=NullPool)
    event.listen(engine, "begin", _begin_immediate)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction, alone over all processes. What SQLite says leaves as it said it, without SQLAlchemy's words."""
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from None
        raise


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None)
    try:
        use_write_ahead_log(connection, timeout)
        connection.execute("PRAGMA synchronous = FULL")  # what was confirmed survives a power cut
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _begin_immediate(connection: Connection) -> None:
    """The write lock first: what a change reads can't be changed by another before it writes."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
