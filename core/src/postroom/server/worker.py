"""What one worker process does, from the fork to its end.

The front's engine runs in a second thread. The main thread waits for signals and for the supervisor's death, because
an engine that blocks in C never lets Python see a signal.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import select
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from postroom.config import Config, ConfigError
from postroom.hookspecs import Logger
from postroom.server import Assignment, WorkerKind
from postroom.server.children import RETIRE

_HEARD = (signal.SIGTERM, RETIRE)
EXIT_FAILED = 70  # EX_SOFTWARE, sysexits(3)


class Engine(Protocol):
    """Serves the listening sockets that it was made with."""

    def run(self) -> None:
        """Serve; return when `drain` is done. Called once, in a thread that is not the main thread."""

    def drain(self, grace: float, idle: float | None = None) -> None:
        """Take no more connections; let `run` return when those in hand have ended, after `grace` seconds at most.

        A connection without a mail in hand may be closed after `idle` seconds (None: `grace`). Called from another
        thread than `run`, returns at once, and may be called again with less time.
        """


class Parts(Protocol):
    """What is behind the front, as far as its life goes; `pipeline.Pipeline` is one."""

    def start_handlers(self) -> None: ...
    def stop_handlers(self) -> None: ...


P = TypeVar("P", bound=Parts)


class Worker(Generic[P]):
    """Called by the supervisor in each new process. `compose` imports the plugins: here, never in the supervisor."""

    def __init__(
        self,
        compose: Callable[[Config], P],
        build_engine: Callable[[WorkerKind, Config, P, Sequence[socket.socket]], Engine],
        open_log: Callable[[Config], Logger],
    ) -> None:
        self._compose, self._build_engine, self._open_log = compose, build_engine, open_log

    def __call__(self, assignment: Assignment) -> None:
        faulthandler.enable()
        config = assignment.config
        log = self._logger(config)
        threading.excepthook = lambda failed: log.error(
            "thread died", thread=failed.thread.name if failed.thread else "", exc_info=failed.exc_value
        )
        _raise_file_limit()
        _spool_to_state(config, log)
        with _heard_signals() as heard:
            parts = self._compose(config)
            parts.start_handlers()
            engine = self._build_engine(assignment.kind, config, parts, assignment.sockets)
            _settle()
            try:
                failed = _serve(engine, assignment, heard, log)
            finally:
                parts.stop_handlers()
        if failed:
            raise SystemExit(EXIT_FAILED)

    def _logger(self, config: Config) -> Logger:
        """Standard error when the log cannot be opened: mail goes on without it."""
        try:
            return self._open_log(config)
        except (ConfigError, OSError) as error:
            log = self._open_log(replace(config, log=replace(config.log, target="stderr")))
            log.error("logging to stderr", why=str(error))
            return log


def _spool_to_state(config: Config, log: Logger) -> None:
    """Large bodies go beside our databases, not to a /tmp that is often kept in memory."""
    spool = config.paths.state / "spool"
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.error("spooling to the system's directory for temporary files", why=f"{spool}: {error.strerror}")
        return
    tempfile.tempdir = str(spool)


class _Heard:
    """Signals that arrived, readable on a descriptor."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(self.writing, False)

    def take(self) -> list[int]:
        try:
            return list(os.read(self.reading, 512))
        except BlockingIOError:
            return []


@contextlib.contextmanager
def _heard_signals() -> Iterator[_Heard]:
    heard = _Heard()
    signal.set_wakeup_fd(heard.writing, warn_on_full_buffer=False)
    for number in _HEARD:
        signal.signal(number, lambda *_: None)  # the number comes through the descriptor
    yield heard


def _serve(engine: Engine, assignment: Assignment, heard: _Heard, log: Logger) -> bool:
    """Run the engine to its end; whether it failed."""
    ended_reading, ended_writing = os.pipe()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            engine.run()
        except BaseException as error:  # noqa: BLE001  # logged below; a worker without its engine is of no use
            failures.append(error)
        finally:
            os.close(ended_writing)

    thread = threading.Thread(target=run, name="engine", daemon=True)
    thread.start()
    assignment.ready()
    lifeline, leaving, server = [assignment.lifeline], False, assignment.config.server
    while True:
        readable, _, _ = select.select([ended_reading, heard.reading, *lifeline], [], [])
        if ended_reading in readable:
            break
        for number in heard.take():
            if number == signal.SIGTERM:
                engine.drain(0 if leaving else server.grace, 0)
                leaving = True
            elif number == RETIRE:
                engine.drain(server.reload_grace)
        if lifeline and assignment.lifeline in readable:
            lifeline = []
            log.error("the supervisor is gone, finishing the mails in hand", kind=assignment.kind)
            engine.drain(server.grace, 0)
            if not assignment.borrowed:
                _shut(assignment.sockets)
    thread.join()
    for failure in failures:
        log.error("engine failed", kind=assignment.kind, exc_info=failure)
    return bool(failures)


def _shut(listening: Sequence[socket.socket]) -> None:
    """So that the mail server is turned away at once, and the next server may listen there while we finish."""
    for each in listening:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _settle() -> None:
    """Everything imported and composed stays for good: later collections need not look at it."""
    gc.collect()
    gc.freeze()


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
