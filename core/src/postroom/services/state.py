"""The state store: where handlers keep what has to outlive a mail.

Redis when configured (shared by all hosts), else SQLite files of this host. Both are safe after fork: a worker never
uses what its parent opened.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.config import RedisSettings
from postroom.hookspecs import StateStore, StateUnavailable
from postroom.stores.sqlite import use_write_ahead_log

if TYPE_CHECKING:
    import redis

PREFIX = "postroom:"
BUSY_TIMEOUT = 5.0
"""Seconds that a thread waits for another one's write lock."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class _Connection:
    """One thread's connection; closed when the thread is gone, and never in a process that did not open it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._process = os.getpid()

    def close(self) -> None:
        if os.getpid() == self._process:
            self.connection.close()

    def __del__(self) -> None:
        self.close()


class _Connections(threading.local):
    """One thread's connections, by name of the database. The end of the thread drops, and so closes them."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.by_name: dict[str, _Connection] = {}


class RedisOrFiles:
    """Implements hookspecs.StateStore; use `open_state` to make one."""

    def __init__(self, settings: RedisSettings, directory: Path) -> None:
        self._settings, self._directory = settings, directory
        self._redis: redis.Redis | None = None
        self._redis_process = 0
        self._lock = threading.Lock()
        self._here = _Connections()
        self._opened: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._inherited: list[object] = []  # a parent's connections: kept, because closing them would touch its files
        # A thread of the parent may hold the lock at the moment of a fork, and is not there to release it.
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _renew(reference))

    @property
    def prefix(self) -> str:
        return PREFIX

    @property
    def redis(self) -> redis.Redis | None:
        if not self._settings.configured:
            return None
        if self._redis is None or self._redis_process != os.getpid():
            with self._lock:
                if self._redis is None or self._redis_process != os.getpid():
                    from postroom.services import redis_client  # redis-py: 200 ms that a host without it saves

                    self._inherited.append(self._redis)
                    self._redis = redis_client.connect(self._settings)
                    self._redis_process = os.getpid()
        return self._redis

    def database(self, name: str) -> sqlite3.Connection:
        """This thread's connection to `NAME.sqlite` in the state directory."""
        here = self._here
        if here.process != os.getpid():
            self._inherited.extend(here.by_name.values())
            here.by_name, here.process = {}, os.getpid()
        held = here.by_name.get(name)
        if held is None:
            held = here.by_name[name] = _Connection(self._open(name))
            with self._lock:
                self._opened.add(held)
        return held.connection

    def close(self) -> None:
        """At the end of a process: let go of everything that this process opened."""
        with self._lock:
            opened, self._opened = list(self._opened), weakref.WeakSet()
            client, self._redis = self._redis, None
        for held in opened:
            held.close()
        self._here.by_name.clear()
        if client is not None and self._redis_process == os.getpid():
            client.close()

    def _open(self, name: str) -> sqlite3.Connection:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no database name: lower-case letters, digits and hyphens")
        path = self._directory / f"{name}.sqlite"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                _create(path)
            # SQLite would open it for reading without a word, and the whole process could not write it until it ends.
            if not os.access(path, os.W_OK, effective_ids=True):
                raise StateUnavailable(
                    f"{path}: cannot be written; see [paths] state: its file system, owner and rights"
                )
            # Closed by the garbage collector in any thread, used in this one only.
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StateUnavailable(f"{path}: cannot be opened: {reason}; see [paths] state and its rights") from None
        try:
            use_write_ahead_log(connection, BUSY_TIMEOUT)
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            connection.close()
            raise StateUnavailable(f"{path}: {error}; move the file away to begin anew") from None
        return connection


def _renew(reference: weakref.ref[RedisOrFiles]) -> None:
    store = reference()
    if store is not None:
        store._lock = threading.Lock()


def _create(path: Path) -> None:
    """For its owner only; -wal and -shm take mode and owner from it. Where root is first, a command for instance, the
    file belongs to the directory's owner all the same, or the server could not write it.

    A file that is there is not touched: the end of any descriptor of it would take this process's locks from SQLite,
    and another process would then throw away what has been written (fcntl(2); sqlite.org/howtocorrupt.html 2.2).
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        if os.geteuid() == 0:
            directory = path.parent.stat()
            os.fchown(descriptor, directory.st_uid, directory.st_gid)
    finally:
        os.close(descriptor)


def open_state(settings: RedisSettings, directory: Path) -> StateStore:
    """The state store of one host. Nothing is connected or made before it is used.

    ConfigError when Redis is configured in a way that cannot work.
    """
    if settings.configured:
        from postroom.services import redis_client

        redis_client.check(settings)
    return RedisOrFiles(settings, directory)
