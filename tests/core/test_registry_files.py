"""The registry's file: its rights, its locks across processes and forks, and what is said when it is no registry."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from postroom.registration import Registration, Stage, Type
from postroom.registry import Registry, RegistryError, RegistryUnavailable

GREY = Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, priority=5, enabled=True)

WRITE = """
import sys
from postroom.registration import Registration, Stage, Type
from postroom.registry import Registry
sys.stdin.readline()  # all at once
with Registry.open(sys.argv[1], 30) as registry:
    for number in range(10):
        registry.add(Registration(f"h{number}", Stage.BEFORE_DATA, Type.SENDER, f"{sys.argv[2]}@example.org"), who="x")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Registry:
    return Registry.open(f"sqlite:///{path}")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_file_is_for_owner_and_group_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Registry.open(f"sqlite:///{path}") as registry:
            registry.add(GREY, who="alice")
            registry.generation()
            made = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(made.values()) == {0o640}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
def test_roots_first_command_leaves_the_file_to_the_servers_user(path: Path) -> None:
    path.parent.mkdir()
    os.chown(path.parent, 12345, 54321)
    with Registry.open(f"sqlite:///{path}") as registry:
        registry.add(GREY, who="alice")
        owners = {(each.stat().st_uid, each.stat().st_gid) for each in path.parent.iterdir()}
    assert owners == {(12345, 54321)}


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    """The file is not there yet: they race for making it, too."""
    command = [sys.executable, "-c", WRITE, f"sqlite:///{path}"]
    children = [
        subprocess.Popen([*command, f"u{number}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.communicate(timeout=60)[1] == ""
        assert child.returncode == 0
    with Registry.open(f"sqlite:///{path}") as registry:
        assert len(list(registry.list())) == 40
        assert registry.generation() == 40
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_reading_needs_no_sqlalchemy(registry: Registry, path: Path) -> None:
    registry.add(GREY, who="alice")
    code = (
        "import sys; from postroom.registry import *; from postroom.registration import *\n"
        f"r = Registry.open('sqlite:///{path}', create=False)\n"
        "print(r.generation(), len(r.enabled()), len(r.matching([(Type.GLOBAL, '')], list(Stage)).registrations),"
        "len(list(r.list())), len(r.diff(0)), len(list(r.history())), 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1", "1", "1", "1", "False"]


def test_a_fork_carries_no_connection_over(registry: Registry) -> None:
    """SQLite's locks do not survive it: a connection that both sides hold can break the file."""
    registry.add(GREY, who="alice")
    ready, finish = threading.Event(), threading.Event()

    def look() -> None:
        registry.generation()
        ready.set()
        finish.wait(10)
        registry.generation()

    thread = threading.Thread(target=look)
    thread.start()
    assert ready.wait(10)
    assert registry.generation() == 1
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        inherited = [str(link.readlink()) for link in links if link.is_symlink()]  # listing has closed its own
        bad = any("registry.sqlite" in name for name in inherited)
        os.write(writing, b"bad" if bad else str(registry.generation()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"1"
    os.close(reading)
    os.close(writing)
    finish.set()
    thread.join()
    assert registry.add(Registration("spf", Stage.BEFORE_QUEUE, Type.GLOBAL), who="alice") == 2
    registry.close()


def test_a_locked_file_is_a_temporary_failure(path: Path) -> None:
    with Registry.open(f"sqlite:///{path}", timeout=0.1) as registry:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryUnavailable, match="try again") as caught:
            registry.add(GREY, who="alice")
        assert caught.value.exit_status == 75
        assert registry.generation() == 0  # readers do not notice
        other.execute("ROLLBACK")
        other.close()
        assert registry.add(GREY, who="alice") == 1


def test_a_long_list_holds_no_writer_up(path: Path) -> None:
    with Registry.open(f"sqlite:///{path}", timeout=0.1) as registry:
        registry.apply([replace(GREY, handler=f"h{number:04}") for number in range(2000)], who="alice")
        listed = registry.list()
        assert next(listed).handler == "h0000"
        registry.apply([], who="bob")
        assert len(list(listed)) == 1999  # as it was when the list began
        assert registry.generation() == 2


def test_no_registry_where_none_may_be_made(path: Path) -> None:
    with pytest.raises(RegistryError, match=r"registry\.sqlite: there is no registry; `postroom handlers add`"):
        Registry.open(f"sqlite:///{path}", create=False)
    assert not path.parent.exists()


def test_a_file_that_is_something_else(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"a letter, not a database\n" * 100)
    with pytest.raises(RegistryError, match=r"registry\.sqlite: is no registry; .*restore a backup"):
        Registry.open(f"sqlite:///{path}")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(RegistryError, match=r"cannot be made: Not a directory|cannot be made: File exists"):
        Registry.open(f"sqlite:///{tmp_path}/state/registry.sqlite")


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:///relative/path", "postgresql://x:y/z"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(RegistryError, match="url") as caught:
        Registry.open(url)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_deleted_and_made_again_is_an_error_not_a_crash(registry: Registry, path: Path) -> None:
    registry.add(GREY, who="alice")
    registry.close()
    path.unlink()
    with pytest.raises(RegistryError, match="there is no registry"):
        registry.generation()
