"""A real supervisor in a process of its own, whose workers answer each line with their pid.

Run as a program: `server_process.py CONFIG`. Lines: `hello` is answered, `slow` is answered when the file named by
$SLOW_UNTIL exists, `crash` kills the worker, `quit` closes.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from postroom.config import Config, SocketAddress, load_config, parse_socket
from postroom.hookspecs import Logger
from postroom.log import configure, get_logger
from postroom.logline import LogLine, read_line
from postroom.server import WorkerKind
from postroom.server.housekeeping import tidy
from postroom.server.supervisor import Supervisor
from postroom.server.worker import Engine, Parts, Worker
from postroom.services.clock import SystemClock

LIMIT = 60.0
MILTER = '[milter]\nlisten = ["inet:127.0.0.1:0"]\nworkers = 2\n'


class EchoEngine:
    """A thread a connection; just enough of a front to see what becomes of connections."""

    def __init__(self, kind: WorkerKind, config: Config, sockets: Sequence[socket.socket]) -> None:
        self._kind, self._config, self._sockets = kind, config, sockets
        self._waking, self._writing = os.pipe()
        self._ends_at = float("inf")
        self._draining = False
        self._connections: set[threading.Thread] = set()

    def run(self) -> None:
        waiting: list[int | socket.socket] = [self._waking, *self._sockets]
        while not self._draining:
            readable, _, _ = select.select(waiting, [], [])
            for listening in self._sockets:
                if listening in readable:
                    try:
                        connection, _ = listening.accept()
                    except OSError:  # another worker was quicker, or the socket is shut down
                        continue
                    thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                    self._connections.add(thread)
                    thread.start()
        for listening in self._sockets:
            listening.close()
        while any(thread.is_alive() for thread in self._connections) and time.monotonic() < self._ends_at:
            select.select([], [], [], 0.01)

    def drain(self, grace: float, idle: float | None = None) -> None:
        self._ends_at = time.monotonic() + grace
        self._draining = True
        os.write(self._writing, b"x")

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as lines:
            for line in lines:
                word = line.strip()
                if word == b"quit":
                    return
                if word == b"crash":
                    os.abort()
                if word == b"slow":
                    while not Path(os.environ["SLOW_UNTIL"]).exists():
                        select.select([], [], [], 0.01)
                lines.write(b"%d %s %s\n" % (os.getpid(), self._kind.encode(), self._config.host.name.encode()))
                lines.flush()


class NoParts:
    def start_handlers(self) -> None:
        if Path(os.environ.get("FAIL_WHEN", "/nonexistent")).exists():
            raise RuntimeError("this plugin cannot start")

    def stop_handlers(self) -> None:
        pass


class Server:
    """The process, its log, and its sockets."""

    def __init__(
        self,
        directory: Path,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        *,
        passed: Sequence[int] = (),
        log_path: Path | None = None,
    ) -> None:
        self.directory, self.config_path = directory, directory / "postroom.toml"
        self.log_path, self.slow_until = log_path or directory / "log", directory / "slow-until"
        self.fail_when = directory / "fail-when"
        self.write_config(config)
        environment = {"SLOW_UNTIL": str(self.slow_until), "FAIL_WHEN": str(self.fail_when), **(environment or {})}
        with (directory / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(self.config_path)],
                env={**os.environ, **environment},
                pass_fds=passed,
                stderr=stderr,
            )

    def write_config(self, text: str) -> None:
        base = f"""
[paths]
state = "{self.directory}/state"
run = "{self.directory}/run"
[log]
target = "{self.log_path}"
"""
        self.config_path.write_text(base + (text or MILTER))

    def lines(self, event: str) -> list[LogLine]:
        try:
            text = self.log_path.read_text()
        except FileNotFoundError:
            return []
        read = [read_line(line) for line in text.splitlines()]
        return [line for line in read if line is not None and line.event == event]

    def wait_line(self, event: str, count: int = 1) -> LogLine:
        """The line with that event, the nth of it."""
        self.wait(lambda: len(self.lines(event)) >= count, f"{event} x{count}")
        return self.lines(event)[count - 1]

    def wait(self, condition: object, what: str) -> None:
        assert callable(condition)
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                log = self.log_path.read_text() if self.log_path.exists() else ""
                stderr = (self.directory / "stderr").read_text()
                raise AssertionError(f"waited for {what}, status {self.process.poll()}:\n{log}\n{stderr}")
            time.sleep(0.01)

    def wait_serving(self, count: int = 1) -> None:
        self.wait_line("serving", count)

    def address(self, kind: WorkerKind = WorkerKind.MILTER) -> SocketAddress:
        [line] = [line for line in self.lines("listening") if line.facts["kind"] == kind][-1:]
        return parse_socket(line.facts["address"])

    def connect(self, kind: WorkerKind = WorkerKind.MILTER) -> Client:
        return Client(self.address(kind))

    def worker_pids(self) -> set[int]:
        return {int(line.facts["worker"]) for line in self.lines("worker ready")}

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class Client:
    def __init__(self, address: SocketAddress) -> None:
        if address.family == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(LIMIT)
            try:
                self.socket.connect(address.path)
            except OSError:
                self.socket.close()
                raise
        else:
            self.socket = socket.create_connection((address.host, address.port), LIMIT)
        self._lines = self.socket.makefile("rwb")

    def say(self, word: str) -> None:
        self._lines.write(word.encode() + b"\n")
        self._lines.flush()

    def hear(self) -> list[str]:
        """The answer: the worker's pid, its kind, the host name of its configuration. EOFError when it is gone."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        return line.decode().rstrip("\n").split(" ")

    def ask(self, word: str = "hello") -> list[str]:
        self.say(word)
        return self.hear()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def main() -> int:
    def open_log(config: Config) -> Logger:
        configure(config.log)
        return get_logger()

    def build_engine(kind: WorkerKind, config: Config, parts: Parts, sockets: Sequence[socket.socket]) -> Engine:
        return EchoEngine(kind, config, sockets)

    def housekeep(config: Config) -> None:
        match os.environ.get("HOUSEKEEPING"):
            case "tidy":
                tidy(config, SystemClock(), open_log(config))
            case "stuck":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                open_log(config).info("stuck", nice=os.nice(0), process=os.getpid())
                while True:
                    time.sleep(LIMIT)
            case "broken":
                raise RuntimeError("no broom")
            case _:
                pass

    worker = Worker(lambda config: NoParts(), build_engine, open_log)
    return Supervisor(lambda: load_config(sys.argv[1]), worker, open_log, housekeep=housekeep).run()


if __name__ == "__main__":
    if passed := os.environ.pop("PASSED_SOCKET", ""):  # as systemd does: descriptor 3, and the pid it is meant for
        os.dup2(int(passed), 3)
        os.environ["LISTEN_PID"] = str(os.getpid())
    sys.exit(main())
