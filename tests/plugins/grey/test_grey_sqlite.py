"""What only SQLite has: its housekeeping, and its own failures."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.grey.greylisting import Desk
from postroom.config import RedisSettings
from postroom.hookspecs import StateUnavailable
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices, envelope
from postroom.verdict import Action
from postroom_grey.settings import GreySettings
from postroom_grey.sqlite_store import LEAST_PURGED

EXPIRED = 50


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    state = RedisOrFiles(RedisSettings(), tmp_path)
    yield Desk(FakeServices(tmp_path, state=state), GreySettings(auto_allow=1))
    state.close()


def rows(desk: Desk, table: str = "records") -> int:
    database = desk.services.state.database("grey")
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_has_expired_is_removed_a_few_at_a_time(desk: Desk) -> None:
    for number in range(EXPIRED):
        desk.receive(envelope("a@s.example", f"u{number}@r.example"))
    assert rows(desk) == EXPIRED
    desk.clock.advance(36 * 86400)
    desk.receive(envelope("new@s.example"))
    assert rows(desk) == EXPIRED + 1 - LEAST_PURGED
    for _ in range(EXPIRED // LEAST_PURGED + 1):
        desk.receive(envelope("new@s.example"))
    assert rows(desk) == 1


def test_a_mail_that_adds_many_removes_more(desk: Desk) -> None:
    desk.receive(envelope("a@s.example", *(f"u{number}@r.example" for number in range(EXPIRED))))
    desk.clock.advance(36 * 86400)
    desk.receive(envelope("b@s.example", *(f"u{number}@r.example" for number in range(EXPIRED))))
    assert rows(desk) == EXPIRED


def test_networks_expire_too(desk: Desk) -> None:
    for client in ("192.0.2.1", "198.51.100.1"):
        desk.receive(envelope(client=client))
        desk.clock.advance(300)
        assert desk.receive(envelope(client=client)).action is Action.SKIP
    assert rows(desk, "networks") == 2
    desk.clock.advance(36 * 86400)
    for _ in range(2):
        desk.receive(envelope("x@y.example"))
    assert rows(desk, "networks") == 0


def test_no_statement_of_an_attempt_scans_a_table(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.receive(envelope())
    desk.clock.advance(300)
    desk.receive(envelope())
    desk.clock.advance(36 * 86400)
    database = desk.services.state.database("grey")
    made: list[str] = []
    database.set_trace_callback(made.append)
    desk.receive(envelope("another@s.example"))
    database.set_trace_callback(None)
    statements = [text for text in made if text.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    assert len(statements) >= 5
    for statement in statements:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not [line for line in plan if line.startswith("SCAN") and "CONSTANT" not in line], (statement, plan)


def test_a_writer_that_never_ends_is_not_waited_for_for_ever(desk: Desk, tmp_path: Path) -> None:
    desk.receive(envelope())
    desk.services.state.database("grey").execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "grey.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailable, match="locked"):
        desk.receive(envelope())
    other.execute("ROLLBACK")
    other.close()
    assert desk.receive(envelope()).action is Action.DEFER
