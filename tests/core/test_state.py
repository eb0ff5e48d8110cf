"""The state store: SQLite files of this host, and the client for Redis."""

from __future__ import annotations

import gc
import os
import pwd
import sqlite3
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from postroom.config import ConfigError, Duration, RedisSettings
from postroom.hookspecs import StateUnavailable
from postroom.services import redis_client
from postroom.services.state import RedisOrFiles, open_state
from postroom.stores.sqlite import LOG_SIZE
from postroom.testing.ports import free_port
from postroom.testing.processes import temporary_directory
from postroom.testing.redis import RedisInstance
from requirements import require_root

FILES = RedisSettings()
SECRET = "s3cr3t"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "state"


def in_a_child(work: Callable[[], object]) -> None:
    """Run `work` after a fork; the child says by its status whether it went well."""
    with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads: that is what is tried here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# SQLite


def test_what_a_large_transaction_took_is_given_back(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    database = state.database("grey")
    database.execute("CREATE TABLE t (text BLOB)")
    database.execute("INSERT INTO t VALUES (zeroblob(?))", (2 * LOG_SIZE,))
    log = directory / "grey.sqlite-wal"
    assert log.stat().st_size > LOG_SIZE
    for _ in range(2):
        database.execute("DELETE FROM t")
        database.execute("INSERT INTO t VALUES (zeroblob(9))")
    assert log.stat().st_size <= LOG_SIZE
    state.close()


def test_a_database_is_for_its_owner_only(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    old = os.umask(0)
    try:
        state.database("grey").execute("CREATE TABLE t (n)")
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert names.keys() >= {"grey.sqlite", "grey.sqlite-wal"}
    assert set(names.values()) == {0o600}
    state.close()


def test_what_root_makes_belongs_to_the_owner_of_the_directory(directory: Path) -> None:
    require_root()
    directory.mkdir(parents=True)
    os.chown(directory, 12345, 12346)
    state = RedisOrFiles(FILES, directory)
    state.database("grey").execute("CREATE TABLE t (n)")
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in directory.iterdir()}
    assert owners == {(12345, 12346)}
    state.close()


def test_a_database_lets_readers_beside_a_writer_and_commits_at_once(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    database = state.database("grey")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.isolation_level is None
    assert database.execute("PRAGMA busy_timeout").fetchone()[0] >= 1000
    state.close()


def test_each_thread_has_a_connection_of_its_own(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    barrier = threading.Barrier(4)

    def connection(_: int) -> int:
        barrier.wait()
        assert state.database("grey") is state.database("grey")
        assert state.database("grey") is not state.database("other")
        mine = id(state.database("grey"))
        barrier.wait()
        return mine

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(connection, range(4)))) == 4
    state.close()


def test_an_ended_thread_leaves_no_connection(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    kept: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: kept.append(state.database("grey")))
    thread.start()
    thread.join()
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        kept[0].execute("SELECT 1")
    state.close()


def test_many_threads_write_and_wait_for_each_other(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    state.database("grey").execute("CREATE TABLE t (n INTEGER)")

    def write(number: int) -> None:
        for _ in range(20):
            database = state.database("grey")
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO t VALUES (?)", (number,))
            database.execute("COMMIT")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert state.database("grey").execute("SELECT count(*) FROM t").fetchone() == (160,)
    state.close()


def test_many_threads_open_a_new_file_at_once(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    barrier = threading.Barrier(8)

    def begin(_: int) -> str:
        barrier.wait()
        return str(state.database("grey").execute("PRAGMA journal_mode").fetchone()[0])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(begin, range(8))) == {"wal"}
    state.close()


def test_after_a_fork_the_child_has_its_own_connection(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    parent = state.database("grey")
    parent.execute("CREATE TABLE t (n)")

    def work() -> None:
        mine = state.database("grey")
        assert mine is not parent
        mine.execute("INSERT INTO t VALUES (1)")
        state.close()

    in_a_child(work)
    assert parent.execute("SELECT count(*) FROM t").fetchone() == (1,)
    parent.execute("INSERT INTO t VALUES (2)")
    state.close()


def test_after_close_a_database_can_be_opened_again(directory: Path) -> None:
    state = RedisOrFiles(FILES, directory)
    first = state.database("grey")
    state.close()
    with pytest.raises(sqlite3.ProgrammingError):
        first.execute("SELECT 1")
    assert state.database("grey").execute("SELECT 1").fetchone() == (1,)
    state.close()


@pytest.mark.parametrize("name", ["", "../grey", "a/b", "Grey", "x" * 65, "a.b"])
def test_a_name_cannot_leave_the_directory(directory: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no database name"):
        RedisOrFiles(FILES, directory).database(name)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnavailable, match=r"file/grey\.sqlite: cannot be opened: .*; see \[paths\] state"):
        RedisOrFiles(FILES, tmp_path / "file").database("grey")


def test_a_file_that_may_be_written_again_is_written_again() -> None:
    """SQLite would open for reading what it may not write, and keep to that until the process ends."""
    with temporary_directory("state") as base:
        if os.geteuid() == 0:
            os.chown(base, pwd.getpwnam("nobody").pw_uid, -1)

        def work() -> None:
            if os.geteuid() == 0:
                os.setresuid(*[pwd.getpwnam("nobody").pw_uid] * 3)  # root may write whatever the mode is
            first = RedisOrFiles(FILES, base)
            first.database("grey").execute("CREATE TABLE t (a)")
            first.close()
            (base / "grey.sqlite").chmod(0o400)
            state = RedisOrFiles(FILES, base)
            with pytest.raises(StateUnavailable, match="cannot be written"):
                state.database("grey")
            (base / "grey.sqlite").chmod(0o600)
            state.database("grey").execute("INSERT INTO t VALUES (1)")
            assert state.database("grey") is state.database("grey")

        in_a_child(work)


def test_a_file_that_is_no_database_is_named(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "grey.sqlite").write_bytes(b"this is no database, " * 100)
    with pytest.raises(StateUnavailable, match=r"grey\.sqlite: file is not a database"):
        RedisOrFiles(FILES, directory).database("grey")


# Redis


def test_redis_py_is_imported_only_where_redis_is_configured(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from postroom.config import RedisSettings\n"
        "from postroom.services.state import open_state\n"
        f"state = open_state(RedisSettings(), Path({str(tmp_path)!r}))\n"
        "assert state.redis is None; state.database('x'); assert 'redis' not in sys.modules\n"
        f"open_state(RedisSettings(url='redis://127.0.0.1:1/0'), Path({str(tmp_path)!r}))\n"
        "assert 'redis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def settings(**changed: Any) -> RedisSettings:
    return RedisSettings(**{"timeout": Duration(0.3), **changed})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": "http://x"}, "no Redis URL"),
        ({"url": f"redis://:{SECRET}/x@h:6379/0"}, "no Redis URL"),
        ({"url": f"redis://:a:{SECRET}#b@h/0"}, "no Redis URL"),
        ({"url": "redis://"}, "no Redis URL"),
        ({"url": "unix://"}, "no Redis URL"),
        ({"url": f"redis://:{SECRET}@h:6379/1", "cluster": True}, "cluster"),
        ({"url": f"redis://:{SECRET}@h:6379/1", "tls_ca": Path(__file__)}, "rediss"),
        ({"url": f"rediss://:{SECRET}@h:6379/1", "tls_ca": Path("/nowhere")}, "no such file"),
        ({"sentinel": ("localhost",), "service": "x"}, "no sentinel"),
        ({"sentinel": ("localhost:99999",), "service": "x"}, "no sentinel"),
    ],
)
def test_what_cannot_work_stops_the_start_without_telling_the_password(
    tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as failure:
        open_state(settings(**wrong), tmp_path)
    assert SECRET not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__ or failure.value.__context__ is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"url": f"redis://user:{SECRET}@h.example:6380/0"}, "Redis at h.example:6380"),
        ({"url": f"redis://:{SECRET}@[::1]/0"}, "Redis at [::1]:6379"),
        ({"url": f"unix://:{SECRET}@/run/redis.sock"}, "Redis at /run/redis.sock"),
        ({"url": f"redis://:{SECRET}@h:1", "cluster": True}, "Redis Cluster at h:1"),
        ({"sentinel": ("a:1", "[::1]:2"), "service": "x"}, "Redis 'x' (sentinels a:1, [::1]:2)"),
    ],
)
def test_a_redis_is_named_without_its_password(given: dict[str, Any], shown: str) -> None:
    assert redis_client.place(settings(**given)) == shown


def test_the_pool_is_bounded_and_waits(tmp_path: Path, redis_server: RedisInstance) -> None:
    from redis.exceptions import ConnectionError as RedisConnectionError

    state = RedisOrFiles(settings(url=redis_server.url, connections=2), tmp_path)
    client = state.redis
    assert client is not None
    held = [client.connection_pool.get_connection() for _ in range(2)]
    with pytest.raises(RedisConnectionError, match="No connection available"):
        client.ping()
    threading.Timer(0.05, client.connection_pool.release, [held[0]]).start()
    assert client.ping()
    client.connection_pool.release(held[1])
    state.close()


def test_a_dead_redis_is_tried_at_most_twice(tmp_path: Path) -> None:
    from redis.exceptions import ConnectionError as RedisConnectionError

    state = RedisOrFiles(settings(url=f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"), tmp_path)
    client = state.redis
    assert client is not None
    assert client.connection_pool.connection_kwargs["retry"].get_retries() == 1
    with pytest.raises(RedisConnectionError) as failure:
        client.ping()
    assert SECRET not in str(failure.value) + repr(client) + repr(client.connection_pool)
    state.close()


def test_a_lost_connection_is_made_anew(tmp_path: Path, redis_server: RedisInstance) -> None:
    state = RedisOrFiles(settings(url=redis_server.url), tmp_path)
    client = state.redis
    assert client is not None
    client.ping()
    redis_server.command("CLIENT", "KILL", "TYPE", "normal")
    assert client.ping()
    state.close()


def test_one_client_a_process(tmp_path: Path, redis_server: RedisInstance) -> None:
    state = RedisOrFiles(settings(url=redis_server.url), tmp_path)
    parent = state.redis
    assert parent is not None
    assert parent is state.redis
    parent.ping()

    def work() -> None:
        mine = state.redis
        assert mine is not None
        assert mine is not parent
        assert mine is state.redis
        mine.ping()
        state.close()

    in_a_child(work)
    assert parent.ping()
    state.close()


def test_a_fork_while_another_thread_connects_leaves_no_lock(directory: Path, redis_server: RedisInstance) -> None:
    state = RedisOrFiles(settings(url=redis_server.url), directory)
    with state._lock:  # as another thread would hold it at that moment

        def work() -> None:
            assert state.redis is not None
            state.database("grey")

        in_a_child(work)
    state.close()


def test_another_process_never_takes_the_log_away_from_under_a_thread(directory: Path) -> None:
    """SQLite's locks are the process's: whoever else closes the file loses them, and with them what was written."""
    state = open_state(FILES, directory)
    state.database("kept").execute("CREATE TABLE t (number)")
    in_a_thread = threading.Thread(target=lambda: state.database("kept").execute("SELECT * FROM t").fetchall())
    in_a_thread.start()
    in_a_thread.join(30)
    ask = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM t').fetchone()[0])"
    command = [sys.executable, "-c", ask, str(directory / "kept.sqlite")]
    found = []
    for number in range(3):
        state.database("kept").execute("INSERT INTO t VALUES (?)", (number,))
        found.append(int(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout))
    assert found == [1, 2, 3]
