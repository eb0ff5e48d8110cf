"""Worker processes as the supervisor sees them: forked, ready, told to leave, gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from postroom.config import Config
from postroom.server import Assignment, RunWorker, WorkerKind

RETIRE = signal.SIGUSR2
"""To a worker: a newer one serves; finish the connections in hand, with `reload_grace`."""

QUICK_DEATH = 10.0  # seconds; a worker that lives longer was no failed start
LONGEST_PAUSE = 30.0  # seconds between two starts in a crash loop
FIRST_PAUSE = 0.5
EXIT_CRASHED = 70  # EX_SOFTWARE, sysexits(3)


@dataclass
class Child:
    """One worker process. `ready_fd` is the pipe on which it says that it takes mail; -1 when it has, or is gone."""

    pid: int
    kind: WorkerKind
    generation: int
    born: float
    ready_fd: int
    ready: bool = False
    kill_at: float | None = None  # told to leave; when patience ends

    @property
    def leaving(self) -> bool:
        return self.kill_at is not None

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def hear(self) -> bool:
        """Read its pipe: True once, when it says that it is ready."""
        said = os.read(self.ready_fd, 1)
        os.close(self.ready_fd)
        self.ready_fd = -1
        self.ready = bool(said)
        return self.ready

    def forget(self) -> None:
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1


@dataclass
class Pause:
    """Back-off for workers of one kind that die as soon as they are started."""

    deaths: int = 0
    until: float = 0.0

    def died(self, lived: float, now: float) -> float:
        """Note a death; seconds to wait before the next start."""
        self.deaths = self.deaths + 1 if lived < QUICK_DEATH else 0
        # The first death is most often a kill from outside: replaced at once.
        wait = 0.0 if self.deaths <= 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self.deaths - 2))
        self.until = max(self.until, now + wait) if wait else self.until
        return wait

    def reset(self) -> None:
        self.deaths, self.until = 0, 0.0


@dataclass
class Lifeline:
    """A pipe whose writing end only the supervisor has: a worker that reads end of file is alone."""

    reading: int = -1
    writing: int = -1
    private: set[int] = field(default_factory=set)  # other descriptors that a worker must not keep

    def open(self) -> None:
        self.reading, self.writing = os.pipe()
        self.private.add(self.writing)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def fork_worker(
    kind: WorkerKind,
    config: Config,
    sockets: Sequence[socket.socket],
    run_worker: RunWorker,
    lifeline: Lifeline,
    *,
    others: Collection[int],
    crashed: Callable[[BaseException], None],
    borrowed: bool = False,
) -> tuple[int, int]:
    """A new worker's pid, and the descriptor on which it will say that it is ready.

    `others` are descriptors of other workers that this one must not hold open.
    """
    reading, writing = os.pipe()

    def ready() -> None:
        with contextlib.suppress(BrokenPipeError):  # the supervisor is gone: the lifeline says so, too
            os.write(writing, b"1")
        os.close(writing)

    pid = fork_process(
        lambda: run_worker(Assignment(kind, config, sockets, lifeline.reading, ready, borrowed)),
        closing=(*lifeline.private, *others, reading),
        crashed=crashed,
    )
    os.close(writing)
    return pid, reading


def fork_process(run: Callable[[], None], *, closing: Collection[int], crashed: Callable[[BaseException], None]) -> int:
    """The pid of a new process that runs this and ends; the supervisor's signals and `closing` are none of its own."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # none may meet the parent's handlers
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid
    status = EXIT_CRASHED
    try:
        _become_worker()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for descriptor in closing:
            os.close(descriptor)
        run()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else EXIT_CRASHED
    except BaseException as error:  # noqa: BLE001  # whatever it was, the parent's code must not go on here
        crashed(error)
    finally:
        os._exit(status)


def _become_worker() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT, RETIRE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole terminal; the supervisor tells us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
