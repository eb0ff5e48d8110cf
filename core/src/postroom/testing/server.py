"""`postroom serve` as a child process, with a configuration, sockets, state and a log of its own."""

from __future__ import annotations

import grp
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import tomlkit

from postroom.config import SocketAddress
from postroom.logline import LogLine, read_line
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, ServerFailed, temporary_directory, wait_until

MAIL_GROUP = "postfix"

Tables = Mapping[str, Mapping[str, Any]]


class PostroomServer:
    """A running server, for a with statement.

    `settings`: tables of the configuration, laid over defaults that work beside a private Postfix. `prepare` is called
    with the server before it starts, to register handlers for example.
    """

    def __init__(self, settings: Tables | None = None, prepare: Callable[[PostroomServer], None] | None = None) -> None:
        self.settings = settings or {}
        self.prepare = prepare
        self.milter_port = free_port()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.base = stack.enter_context(temporary_directory("server"))
            self.config_path, self.log_path = self.base / "postroom.toml", self.base / "postroom.log"
            for name in ("state", "run", "mail"):
                (self.base / name).mkdir(mode=0o755)
            self.write_settings(self.settings)
            if self.prepare:
                self.prepare(self)
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def milter(self) -> str:
        """As Postfix' smtpd_milters takes it."""
        return f"inet:{LOOPBACK}:{self.milter_port}"

    @property
    def lmtp(self) -> str:
        """As Postfix' virtual_transport takes it."""
        return f"lmtp:{self.lmtp_socket}"

    @property
    def lmtp_socket(self) -> str:
        return f"unix:{self.base}/run/lmtp.sock"

    @property
    def pid(self) -> int:
        return self._child.pid

    def write_settings(self, settings: Tables) -> None:
        """The configuration file; takes effect at the next `start` or `reload`."""
        tables: dict[str, dict[str, Any]] = {
            "paths": {"state": str(self.base / "state"), "run": str(self.base / "run")},
            "host": {"name": "mx.test.example", "domains": ["local.test"]},
            "server": {"housekeeping": 0},  # its process would come and go among `workers`
            "milter": {"listen": [self.milter], "workers": 1},
            "delivery": {"kind": "maildir", "root": str(self.base / "mail"), "create": True},
            "log": {"format": "json", "target": str(self.log_path), "level": "debug"},
        }
        if os.geteuid() == 0 and any(group.gr_name == MAIL_GROUP for group in grp.getgrall()):
            tables["server"]["group"] = MAIL_GROUP  # so that Postfix may use the unix sockets
        for name, table in settings.items():
            tables[name] = {**tables.get(name, {}), **table}
        self.config_path.write_text(tomlkit.dumps(tables))

    def start(self) -> None:
        self._child = Child([*self._program(), "serve"], self.base / "output")
        lmtp = SocketAddress("unix", path=str(self.base / "run" / "lmtp.sock"))
        self._child.wait_ready(SocketAddress("inet", LOOPBACK, self.milter_port), lmtp)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        return self._child.stop()

    def kill(self) -> None:
        """End the supervisor as a crash would; its workers find out by themselves."""
        self._child.process.kill()
        self._child.process.wait()

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def workers(self) -> list[int]:
        """The process ids of the supervisor's children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(word) for word in children.read_text().split()]

    def cli(self, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        """`postroom --config … ARGUMENTS`."""
        command = [*self._program(), *arguments]
        return subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=120)

    def succeed(self, *arguments: str) -> str:
        """As `cli`, for a command that has to work; what it printed."""
        done = self.cli(*arguments)
        if done.returncode:
            raise ServerFailed(f"postroom {' '.join(arguments)}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def output(self) -> str:
        """What the server printed; a healthy one prints nothing."""
        return self._child.log_end()

    def log_lines(self) -> list[LogLine]:
        if not self.log_path.exists():
            return []
        text = self.log_path.read_text(errors="surrogateescape")
        return [line for line in map(read_line, text.splitlines()) if line is not None]

    def wait_for_log(self, wanted: Callable[[LogLine], bool], limit: float = 60) -> LogLine:
        """The first line that is wanted, awaited."""
        wait_until(lambda: any(map(wanted, self.log_lines())), "a line in the server's log", limit)
        return next(filter(wanted, self.log_lines()))

    def mailbox(self, address: str) -> list[bytes]:
        """The mails that were put into somebody's Maildir, oldest first."""
        user, _, domain = address.partition("@")
        new = self.base / "mail" / domain / user / "Maildir" / "new"
        return [path.read_bytes() for path in sorted(new.glob("*"), key=lambda path: path.stat().st_mtime_ns)]

    def wait_for_mail(self, address: str, count: int = 1, limit: float = 60) -> list[bytes]:
        wait_until(lambda: len(self.mailbox(address)) >= count, f"mail number {count} for {address}", limit)
        return self.mailbox(address)

    def _program(self) -> list[str]:
        return [sys.executable, "-m", "postroom.cli.main", "--config", str(self.config_path)]
