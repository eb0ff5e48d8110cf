"""What our connections to PostgreSQL have in common: no wait without an end.

The server ends statements by its own clock (`statement_timeout`); where it stands still, or its host is gone without a
word, nobody does, and each look-up would cost a thread.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Engine

T = TypeVar("T")

GRACE = 1.0
"""Seconds beyond the server's own limit, so that its answer comes before ours."""


def limit_waits(engine: Engine, timeout: float) -> None:
    """New connections of the engine are closed, and OperationalError raised, when one answer takes longer."""
    import psycopg  # only where there is a server

    seconds = timeout + GRACE

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **options: Any) -> T:
            return super().wait(_limited(self, gen, seconds), *arguments, **options)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: Any, parameters: Any) -> psycopg.Connection[Any]:
        return Connection.connect(*arguments, **parameters)


def _limited(
    connection: psycopg.Connection[Any], steps: Generator[Any, Any, T], seconds: float
) -> Generator[Any, Any, T]:
    """psycopg takes a step whenever the socket is ready, and several times a second while it is not."""
    from psycopg import OperationalError

    ends_at = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > ends_at:
                connection.pgconn.finish()
                raise OperationalError(f"no answer within {seconds:g} s")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
