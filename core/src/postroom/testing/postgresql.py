"""A private PostgreSQL: a cluster of its own that listens on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg

from postroom.testing.processes import Child, ProgramMissing, temporary_directory

MAX_CONNECTIONS = 60


class PostgresInstance:
    """A running cluster, for a with statement; as root it gives up root, which PostgreSQL insists on."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._programs = find_programs()
            self.base = stack.enter_context(temporary_directory("postgresql"))
            if os.geteuid() == 0:
                shutil.chown(self.base, "postgres", "postgres")
            initdb = [str(self._programs / "initdb"), "-D", str(self.base / "data"), "-U", "postgres"]
            command = as_postgres([*initdb, "--auth=trust", "--encoding=UTF8", "--no-sync"])
            subprocess.run(command, check=True, capture_output=True, cwd=self.base, timeout=60)
            self.start()
            stack.callback(lambda: self._child.stop())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        command = [str(self._programs / "postgres"), "-D", str(self.base / "data"), "-k", str(self.base)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"max_connections={MAX_CONNECTIONS}"]
        self._child = Child(as_postgres(command), self.base / "postgres.log", cwd=self.base)
        self._child.wait_until(self._answers, "PostgreSQL answers")

    def stop(self) -> None:
        self._child.stop()

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.base), user="postgres", dbname=database, autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.base}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"t{uuid.uuid4().hex}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def find_programs() -> Path:
    """The directory of the newest server's programs; ProgramMissing when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise ProgramMissing("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


def as_postgres(command: list[str]) -> list[str]:
    if os.geteuid() != 0:
        return command
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        raise ProgramMissing("there is no user postgres: apt-get install postgresql") from None
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", *command]
