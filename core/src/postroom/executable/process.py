"""A program as a process: started with its file owner's rights, fed and read together, ended with its children."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from postroom.failure import FailureKind, HandlerFailed

CHUNK = 1 << 16

Sink = Callable[[bytes], None]


def check_program(program: str) -> str:
    """Why the program could not be run, with the remedy; empty when it can."""
    if not program.startswith("/"):
        return f"{program!r} is no absolute path"
    path = Path(program)
    if not path.is_file():
        return f"{program} is not there: install it, or give another path"
    if not os.access(path, os.X_OK):
        return f"{program} is not executable: chmod +x {program}"
    return ""


@contextlib.contextmanager
def started(argv: list[bytes], environment: dict[bytes, bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a process group of its own, which does not outlive the block."""
    program = os.fsdecode(argv[0])
    try:
        owner = Path(program).stat()
        identity = _identity(owner)
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            start_new_session=True,
            close_fds=True,
            **identity,  # type: ignore[call-overload]  # user and group, or nothing
        )
    except (OSError, ValueError) as error:
        reason = _why_not_run(error, program)
        absent = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
        kind = FailureKind.ABSENT if absent else FailureKind.EXCEPTION
        raise HandlerFailed(kind, f"{program} cannot be run: {reason}") from None
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # grandchildren too, also after a normal end
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _why_not_run(error: OSError | ValueError, program: str) -> str:
    if not isinstance(error, OSError):
        return "an argument holds NUL"
    if error.errno == errno.ENOENT and Path(program).exists():
        return "the interpreter in its first line is not there"  # execve(2) names the program for that, too
    if error.errno == errno.ENOEXEC:
        return "it is no program: a script begins with #! and its interpreter"
    return error.strerror or str(error)


def _identity(owner: os.stat_result) -> dict[str, object]:
    """As root, a program runs with the rights of its file's owner, as in the reference."""
    if os.geteuid() != 0 or owner.st_uid == 0:
        return {}
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


def exchange(process: subprocess.Popen[bytes], given: Iterator[bytes], out: Sink, err: Sink, seconds: float) -> None:
    """Write stdin and read stdout and stderr together until the program ends; TimeoutError past `seconds`.

    A grandchild that keeps the pipes open is not waited for.
    """
    assert process.stdin
    assert process.stdout
    assert process.stderr
    ends_at = time.monotonic() + seconds
    pending = memoryview(next(given, b""))
    with selectors.DefaultSelector() as selector, _pidfd(process.pid) as ended:
        selector.register(ended, selectors.EVENT_READ)
        for stream, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stdout, selectors.EVENT_READ),
            (process.stderr, selectors.EVENT_READ),
        ):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, event)
        running = True
        while running or len(selector.get_map()) > 1:
            left = ends_at - time.monotonic()
            ready = selector.select(max(0.0, left) if running else 0)
            ready = [each for each in ready if running or each[0].fileobj is not ended]
            if not running and not ready:
                return
            if not ready or left <= 0:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is ended:
                    running = False
                elif key.fileobj is process.stdin:
                    pending, open_ = _feed(process.stdin.fileno(), pending, given)
                    if not open_:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                elif octets := os.read(key.fd, CHUNK):
                    (out if key.fileobj is process.stdout else err)(octets)
                else:
                    selector.unregister(key.fileobj)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A descriptor that becomes readable when the process ends (pidfd_open(2))."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _feed(descriptor: int, pending: memoryview, given: Iterator[bytes]) -> tuple[memoryview, bool]:
    """Write what fits; (what is left of the current chunk, whether stdin stays open)."""
    try:
        while True:
            while not pending:
                chunk = next(given, None)
                if chunk is None:
                    return pending, False
                pending = memoryview(chunk)
            pending = pending[os.write(descriptor, pending) :]
    except BlockingIOError:
        return pending, True
    except BrokenPipeError:
        return memoryview(b""), False  # it need not read the mail to the end
