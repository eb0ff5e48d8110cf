"""Starts, awaits and ends the servers of tests, each in a process group of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from postroom.config import SocketAddress

START_LIMIT = 90.0  # seconds: only a server that never comes pays them, and a busy machine is slow
STOP_LIMIT = 30.0
_POLL = 0.01
_SERVER_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/postfix/sbin"


class ServerFailed(RuntimeError):
    """A server did not start, or ended when it should not; the text holds the end of its log."""


class ProgramMissing(RuntimeError):
    """A program that is needed is not installed; the text says which, and how to get it."""


def find_program(name: str) -> str | None:
    """The path of a program, looked for where servers are, too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SERVER_PATH}")


def need_program(name: str, package: str = "") -> str:
    """As find_program, or ProgramMissing."""
    found = find_program(name)
    if not found:
        raise ProgramMissing(f"{name} is not installed: apt-get install {package or name}")
    return found


@contextlib.contextmanager
def temporary_directory(name: str) -> Iterator[Path]:
    """A directory under /tmp that servers which give up root can search (pytest's own is for its user alone)."""
    path = Path(tempfile.mkdtemp(prefix=f"postroom-{name}-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def wait_until(condition: Callable[[], bool], what: str, limit: float = START_LIMIT) -> None:
    """Return when `condition` holds; ServerFailed after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise ServerFailed(f"waited {limit:g} s in vain: {what}")
        time.sleep(_POLL)


def runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended and waits for its parent is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went while it was looked at
        return False


def answers(address: SocketAddress) -> bool:
    """Whether something accepts connections there."""
    try:
        connect(address, timeout=1).close()
    except OSError:
        return False
    return True


def connect(address: SocketAddress, timeout: float = 10) -> socket.socket:
    if address.family == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(address.path)
        except OSError:
            connection.close()
            raise
        return connection
    return socket.create_connection((address.host, address.port), timeout=timeout)


class Child:
    """A server as our own child: it can be waited for, which nobody does for orphans in a container."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self.name = Path(arguments[0]).name
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **environment} if environment else None,
                start_new_session=True,  # signals to the group end what the server started, and only that
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, *addresses: SocketAddress, limit: float = START_LIMIT) -> None:
        """Return when every address accepts connections; ServerFailed when it ends or takes too long."""
        for address in addresses:
            self.wait_until(lambda address=address: answers(address), f"{self.name} at {address}", limit)  # type: ignore[misc]

    def wait_until(self, condition: Callable[[], bool], what: str, limit: float = START_LIMIT) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with status {self.process.returncode}:\n{self.log_end()}")
            return condition()

        try:
            wait_until(ready, what, limit)
        except ServerFailed as failure:
            self.stop()
            raise ServerFailed(f"{failure}\n{self.log_end()}") from None

    def log_end(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def stop(self, limit: float = STOP_LIMIT) -> int:
        """End it, politely first, and whatever is left of its group; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(limit)
            except subprocess.TimeoutExpired:
                pass
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.process.wait(limit)
