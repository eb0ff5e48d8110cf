"""What stores of handlers share: transactions, scripts, versioned documents, and errors with their remedy."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from core.test_state import in_a_child
from postroom.config import Duration, RedisSettings
from postroom.hookspecs import StateUnavailable
from postroom.services.state import RedisOrFiles
from postroom.stores.redis import PAGE, RedisDocuments, RedisScript, keys_of, pages, redis_of
from postroom.stores.sqlite import SqliteFile, use_write_ahead_log
from postroom.stores.writing import writing, writing_engine
from postroom.testing.ports import free_port
from postroom.testing.redis import RedisInstance
from sqlalchemy import text

SCHEMA = "CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL);"
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[RedisOrFiles]:
    state = RedisOrFiles(RedisSettings(), tmp_path)
    yield state
    state.close()


@pytest.fixture
def file(state: RedisOrFiles) -> SqliteFile:
    return SqliteFile(state, "sample", SCHEMA)


@pytest.fixture
def shared(tmp_path: Path, redis_server: RedisInstance) -> Iterator[RedisOrFiles]:
    redis_server.command("FLUSHALL")
    state = RedisOrFiles(RedisSettings(url=redis_server.url, timeout=Duration(5)), tmp_path)
    yield state
    state.close()


def numbers(file: SqliteFile) -> list[int]:
    with file.connection() as database:
        return [row[0] for row in database.execute("SELECT n FROM t ORDER BY n")]


# SQLite


def test_a_transaction_is_all_or_nothing(file: SqliteFile) -> None:
    with file.transaction() as database:
        database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(StateUnavailable), file.transaction() as database:
        database.executemany("INSERT INTO t VALUES (?)", [(2,), (None,)])
    assert numbers(file) == [1]


def test_nobody_writes_between_a_transactions_reading_and_its_writing(file: SqliteFile) -> None:
    with file.transaction() as database:
        database.execute("INSERT INTO t VALUES (0)")
    barrier = threading.Barrier(8)

    def add(_: int) -> None:
        barrier.wait()
        for _ in range(10):
            with file.transaction() as database:
                (before,) = database.execute("SELECT n FROM t").fetchone()
                database.execute("UPDATE t SET n = ?", (before + 1,))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert numbers(file) == [80]


def test_tables_are_there_after_a_fork_too(state: RedisOrFiles, file: SqliteFile) -> None:
    assert numbers(file) == []

    def work() -> None:
        with file.transaction() as database:
            database.execute("INSERT INTO t VALUES (1)")
        state.close()

    in_a_child(work)
    assert numbers(file) == [1]


def test_an_error_of_sqlite_names_file_and_remedy(file: SqliteFile) -> None:
    with (
        pytest.raises(
            StateUnavailable, match=r"SQLite file sample\.sqlite: .*no such table: gone; see \[paths\] state"
        ),
        file.transaction() as database,
    ):
        database.execute("INSERT INTO gone VALUES (1)")
    with file.transaction() as database:  # and the transaction was ended
        database.execute("INSERT INTO t VALUES (1)")
    assert numbers(file) == [1]


def test_two_that_switch_a_new_file_to_wal_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    path.touch()
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_write_ahead_log(other, 0.05)
    timer = threading.Timer(0.2, holder.execute, ("ROLLBACK",))
    timer.start()
    use_write_ahead_log(other, 60)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    timer.join()
    holder.close()
    other.close()


def test_a_writing_engine_is_alone_and_speaks_as_sqlite_does(tmp_path: Path) -> None:
    path = tmp_path / "own.sqlite"
    missing = writing_engine(path, 0.05)
    with pytest.raises(sqlite3.OperationalError, match="unable to open"), writing(missing):
        pass
    path.touch()
    engine = writing_engine(path, 0.05)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER NOT NULL)"))
        with pytest.raises(sqlite3.OperationalError, match="locked"), writing(engine):
            pass
    with pytest.raises(sqlite3.IntegrityError), writing(engine) as connection:
        connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": 1}, {"n": None}])
    with writing(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar_one() == 0


# Redis


def test_a_script_is_loaded_again_when_redis_has_forgotten_it(shared: RedisOrFiles) -> None:
    script = RedisScript(shared, "return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(["k"], [2]) == 2
    with redis_of(shared) as client:
        client.script_flush()
    assert script(["k"], [3]) == 5
    script.load()


def test_a_document_is_replaced_only_by_who_knows_it(shared: RedisOrFiles) -> None:
    documents = RedisDocuments(shared)
    assert documents.get("d") is None
    assert documents.replace("d", "", "v1", "first")
    assert not documents.replace("d", "", "v2", "second")
    assert documents.get("d") == ("v1", "first")
    assert documents.replace("d", "v1", "", "")
    assert documents.get("d") is None


def test_keys_come_in_pages_each_once_and_a_prefix_is_no_pattern(shared: RedisOrFiles) -> None:
    wanted = {f"a[b]*:{number}".encode() for number in range(2 * PAGE + 1)}
    with redis_of(shared) as client:
        client.mset(dict.fromkeys([*wanted, b"ab:1", b"a[b]x:1"], b""))
    found = list(keys_of(shared, "a[b]*:"))
    assert all(len(page) <= PAGE for page in found)
    assert sorted(key for page in found for key in page) == sorted(wanted)
    assert [len(page) for page in pages(range(PAGE + 1))] == [PAGE, 1]


def test_an_error_of_redis_says_its_remedy(tmp_path: Path) -> None:
    state = RedisOrFiles(RedisSettings(url=f"redis://:s3cr3t@127.0.0.1:{free_port()}", timeout=Duration(5)), tmp_path)
    with pytest.raises(StateUnavailable, match="is it running and as configured") as failure:
        RedisScript(state, "return 1")([])
    assert "s3cr3t" not in str(failure.value)
    with pytest.raises(StateUnavailable, match="not configured any more"):
        RedisScript(RedisOrFiles(RedisSettings(), tmp_path), "return 1")
    state.close()


@pytest.mark.parametrize(("name", "fixture"), [("SqliteStore", "state"), ("RedisStore", "shared")])
def test_the_stores_of_the_page_for_authors_count(name: str, fixture: str, request: pytest.FixtureRequest) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "writing-handlers.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if f"class {name}" in block]
    namespace: dict[str, Any] = {}
    exec(compile(example, "docs/writing-handlers.md", "exec"), namespace)  # what readers copy
    store = namespace[name](request.getfixturevalue(fixture))
    assert [store.count("a@example.org"), store.count("a@example.org"), store.count("b@example.org")] == [1, 2, 1]
