"""Owns the sockets and keeps workers alive; never sees a mail, never imports a plugin.

The listening sockets stay open as long as the supervisor lives, and every worker shares them: whatever happens to
workers, a client that connects waits in the kernel's queue and is not refused.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from postroom.config import Config, ConfigError, SocketAddress
from postroom.hookspecs import Logger
from postroom.server import RunWorker, WorkerKind
from postroom.server.children import RETIRE, Child, Lifeline, Pause, fork_worker
from postroom.server.housekeeper import Housekeep, Housekeeper
from postroom.server.notify import Notifier
from postroom.server.orphans import Orphans
from postroom.server.pid_file import PidFile
from postroom.server.privileges import Identity, identity
from postroom.server.sockets import (
    Listener,
    SocketError,
    SocketTaken,
    assign_passed,
    make_directory,
    open_listener,
    passed_sockets,
)

KILL_MARGIN = 5.0  # seconds past its grace that a worker gets before it is killed
CLOSE_DELAY = 1.0  # seconds for retired workers to leave accept(), before a socket goes that is no longer wanted
HURRY = 1.0  # the same after a second SIGTERM
PREDECESSOR = 20.0  # seconds for the workers of a killed supervisor to notice, and to let go of its sockets
STEP = 0.05  # seconds between two looks whether they have
UMASK = 0o027

_STOP = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_STOP, signal.SIGHUP, signal.SIGCHLD)


class OpenLog(Protocol):
    def __call__(self, config: Config) -> Logger:
        """Set up this process's logs as the configuration says. ConfigError when they cannot be opened."""


class Supervisor:
    """`run` returns the exit status of the process.

    `load_config` is called at the start and at every SIGHUP; `run_worker` in each worker process, right after the fork;
    `housekeep` now and then, in a process of its own.
    """

    def __init__(
        self,
        load_config: Callable[[], Config],
        run_worker: RunWorker,
        open_log: OpenLog,
        *,
        housekeep: Housekeep | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_config, self._run_worker, self._open_log = load_config, run_worker, open_log
        self._now = monotonic
        self._housekeeper = Housekeeper(housekeep, monotonic)
        self._config = load_config()
        self._log = open_log(self._config)
        self._notifier = Notifier()
        self._listeners: dict[SocketAddress, Listener] = {}
        self._passed: dict[WorkerKind, list[Listener]] = {}
        self._served: dict[WorkerKind, list[Listener]] = {kind: [] for kind in WorkerKind}
        self._children: dict[int, Child] = {}
        self._closing: dict[SocketAddress, float] = {}
        self._pauses = {kind: Pause() for kind in WorkerKind}
        self._lifeline = Lifeline()
        self._pid_file = PidFile(self._config.paths.run)
        self._orphans = Orphans()
        self._signals: list[int] = []
        self._generation = 1
        self._stopping = self._hurried = self._announced = False
        self._alive_at = 0.0

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. SocketError and ConfigError when it cannot start."""
        os.umask(UMASK)
        waking, writing = os.pipe()
        os.set_blocking(waking, False)
        os.set_blocking(writing, False)
        self._lifeline.open()
        self._lifeline.private |= {waking, writing}
        previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._note) for number in _HEARD}
        try:
            self._orphans.adopt()
            self._open()  # who can connect may also tell us to stop
            self._start_missing()
            while not (self._stopping and not self._children and not self._housekeeper.pid):
                self._wait(waking)
                self._obey()
                self._reap()
                self._start_missing()
                self._retire_old()
                self._kill_overdue()
                self._keep_house()
                if self._stopping:
                    self._served = {kind: [] for kind in WorkerKind}
                    self._close_unserved()
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close(waking, writing)
        self._log.info("server stopped")
        return 0

    # Opening and closing

    def _open(self) -> None:
        who = identity(self._config)
        passed = passed_sockets()
        self._passed = assign_passed(passed, {kind: kind.addresses(self._config) for kind in WorkerKind})
        try:
            self._make_directories(who)
            self._take_over_listeners(who.gid)
            if self._config.log.target.startswith("/"):
                who.own(Path(self._config.log.target))
            who.assume()
        except BaseException:
            for listener in self._listeners.values():
                listener.close()
            raise
        self._write_pid_file()

    def _take_over_listeners(self, group: int) -> None:
        """Where the last supervisor was killed, its workers listen until they notice."""
        patience: float | None = None
        while True:
            try:
                return self._take_listeners(self._config, group)
            except SocketTaken as taken:
                if patience is None and self._pid_file.tells_of_the_dead():
                    patience = self._now() + PREDECESSOR
                    self._log.warning("waiting for workers of a killed server to let go", why=str(taken))
                if patience is None or self._signals or self._now() >= patience:
                    raise
            time.sleep(STEP)

    def _make_directories(self, who: Identity) -> None:
        run = self._config.paths.run
        shared = any(Path(each.path).is_relative_to(run) for each in self._config.handover.listen)
        for path in (run, self._config.paths.state):
            try:
                make_directory(path, owner=who.uid, group=who.gid, for_everybody=shared and path == run)
            except OSError as error:
                raise SocketError(
                    f"cannot make {path}: {error.strerror}; make it yourself, or change [paths]"
                ) from None

    def _take_listeners(self, config: Config, group: int = -1) -> None:
        """Open what `config` wants and is not open yet; all of it, or nothing changes."""
        opened: dict[SocketAddress, Listener] = {}
        served: dict[WorkerKind, list[Listener]] = {}
        try:
            for kind in WorkerKind:
                if kind in self._passed:
                    served[kind] = self._passed[kind]
                    continue
                served[kind] = []
                for address in dict.fromkeys(kind.addresses(config)):
                    listener = self._listeners.get(address) or opened.get(address)
                    if listener is None:
                        listener = opened[address] = open_listener(
                            address, group=group, for_everybody=kind.is_for_everybody
                        )
                    served[kind].append(listener)
        except SocketError:
            for listener in opened.values():
                listener.close()
            raise
        self._listeners |= opened
        self._served = served
        for kind, listeners in served.items():
            for listener in listeners:
                if listener.address in opened:
                    self._log.info("listening", kind=kind, address=listener.actual)

    def _close_unserved(self) -> None:
        """Sockets that the configuration names no more, once no worker of the old one takes connections."""
        wanted = {listener.address for listeners in self._served.values() for listener in listeners}
        for address in self._listeners.keys() - wanted:
            self._closing.setdefault(address, self._now() + CLOSE_DELAY)
        for address in [address for address, due in self._closing.items() if address in wanted or self._now() >= due]:
            del self._closing[address]
            if address not in wanted:
                self._log.info("no longer listening", address=str(address))
                self._listeners.pop(address).close()

    def _close(self, *descriptors: int) -> None:
        for listener in self._listeners.values():
            listener.close()
        for listeners in self._passed.values():
            for listener in listeners:
                listener.close()
        self._lifeline.close()
        for descriptor in descriptors:
            os.close(descriptor)
        self._pid_file.remove()

    def _write_pid_file(self) -> None:
        try:
            self._pid_file.write()
        except OSError as error:
            self._log.warning("no pid file", path=str(self._pid_file.path), why=error.strerror)

    # Signals

    def _note(self, number: int, frame: object) -> None:  # noqa: ARG002  # a signal handler's signature
        self._signals.append(number)

    def _wait(self, waking: int) -> None:
        """Until a signal, a worker's word, or something that is due."""
        listening = [child.ready_fd for child in self._children.values() if child.ready_fd >= 0]
        readable, _, _ = select.select([waking, *listening], [], [], self._patience())
        if waking in readable:
            try:
                while os.read(waking, 512):
                    pass
            except BlockingIOError:
                pass
        for child in self._children.values():
            if child.ready_fd in readable and child.hear():
                self._log.info("worker ready", kind=child.kind, worker=child.pid, worker_generation=child.generation)
        if self._notifier.watchdog and self._now() >= self._alive_at:
            self._notifier.alive()
            self._alive_at = self._now() + self._notifier.watchdog

    def _patience(self) -> float | None:
        due = [*self._closing.values()]
        due += [child.kill_at for child in self._children.values() if child.kill_at is not None]
        due += [at for at in (self._housekeeper.kill_at, self._housekeeping_due()) if at is not None]
        if not self._stopping:
            due += [pause.until for kind, pause in self._pauses.items() if self._missing(kind)]
        if self._notifier.watchdog:
            due.append(self._alive_at)
        return max(0.0, min(due) - self._now()) if due else None

    def _obey(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in _STOP:
                self._stop()
            elif number == signal.SIGHUP and not self._stopping:
                self._reload()

    def _stop(self) -> None:
        if self._stopping:
            patience = HURRY
            if not self._hurried:
                self._log.warning("asked to stop again, not waiting for the mails in hand")
            self._hurried = True
        else:
            patience = self._config.server.grace + KILL_MARGIN
            self._log.info("stopping", grace=self._config.server.grace)
            self._notifier.stopping()
        self._stopping = True
        self._housekeeper.stop(HURRY)
        for child in self._children.values():
            child.signal(signal.SIGTERM)
            child.kill_at = min(child.kill_at or float("inf"), self._now() + patience)

    def _reload(self) -> None:
        """Re-read the configuration and start workers with it; the old ones serve until those are ready."""
        self._notifier.reloading()
        try:
            config = self._load_config()
            log = self._open_log(config) if config.log != self._config.log else self._log
            self._take_listeners(config)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the new one, the old one is good
            kind = "" if isinstance(error, ConfigError | SocketError) else f"{type(error).__name__}: "
            self._log.error("reload failed, the old configuration stays", why=f"{kind}{error}")
            self._notifier.ready("reload failed, the old configuration stays: see the log")
            return
        self._config, self._log = config, log
        self._generation += 1
        self._announced = False
        for pause in self._pauses.values():
            pause.reset()
        self._log.info("reloading", source=config.source, worker_generation=self._generation)

    # Workers

    def _missing(self, kind: WorkerKind) -> int:
        """How many workers of the present generation are to be started."""
        wanted = kind.processes(self._config) or len(self._passed.get(kind, ())[:1])
        return wanted - sum(
            child.kind is kind and child.generation == self._generation and not child.leaving
            for child in self._children.values()
        )

    def _start_missing(self) -> None:
        if self._stopping:
            return
        for kind in WorkerKind:
            while self._missing(kind) > 0 and self._now() >= self._pauses[kind].until:
                self._start(kind)
        self._announce()

    def _start(self, kind: WorkerKind) -> None:
        gc.freeze()  # what is here now is shared with the worker, and no collection there shall touch its pages
        pid, ready_fd = fork_worker(
            kind,
            self._config,
            [listener.socket for listener in self._served[kind]],
            self._run_worker,
            self._lifeline,
            others=self._not_for(kind),
            crashed=lambda error: self._log.error("worker crashed", kind=kind, exc_info=error),
            borrowed=kind in self._passed,
        )
        self._children[pid] = Child(pid, kind, self._generation, self._now(), ready_fd)

    def _not_for(self, kind: WorkerKind) -> list[int]:
        """Descriptors that a worker of that kind must not keep: a listener stays open as long as anybody has it."""
        own = {listener.socket.fileno() for listener in self._served[kind]}
        listening = [*self._listeners.values(), *(each for group in self._passed.values() for each in group)]
        return [
            *(child.ready_fd for child in self._children.values() if child.ready_fd >= 0),
            *{listener.socket.fileno() for listener in listening} - own,
        ]

    def _reap(self) -> None:
        self._orphans.look(self._own_processes())
        died = False
        for child in list(self._children.values()):
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0  # somebody else's wait took it
            if pid:
                died |= not self._bury(child, status)
        self._housekeeper.reap()
        if not died:
            self._orphans.spare()
        elif ended := self._orphans.end(self._own_processes()):
            self._log.warning("programs of a dead worker are ended", processes=ended)
        self._orphans.reap(self._own_processes())

    def _own_processes(self) -> set[int]:
        return {self._housekeeper.pid, *self._children}

    def _bury(self, child: Child, status: int) -> bool:
        """Note its end; True when it was told to leave and did."""
        del self._children[child.pid]
        child.forget()
        code = os.waitstatus_to_exitcode(status)
        how = {"signal": signal.Signals(-code).name} if code < 0 else {"status": code}
        if child.leaving and code == 0:
            self._log.info("worker left", kind=child.kind, worker=child.pid)
            return True
        facts = {"kind": child.kind, "worker": child.pid, "lived": round(self._now() - child.born, 1), **how}
        if not child.leaving and child.generation == self._generation:
            facts["pause"] = self._pauses[child.kind].died(self._now() - child.born, self._now())
        self._log.error("worker died", **facts)
        return False

    def _current_are_ready(self, kind: WorkerKind) -> bool:
        current = [
            child for child in self._children.values() if child.kind is kind and child.generation == self._generation
        ]
        return self._missing(kind) <= 0 and all(child.ready for child in current)

    def _announce(self) -> None:
        if not self._announced and all(map(self._current_are_ready, WorkerKind)):
            self._announced = True
            self._notifier.ready(f"{len(self._children)} workers, configuration {self._config.source}")
            self._log.info("serving", workers=len(self._children), source=self._config.source)

    def _retire_old(self) -> None:
        """Send workers of earlier generations away, as soon as all of the present one take mail."""
        if self._stopping or not all(map(self._current_are_ready, WorkerKind)):
            return
        for child in self._children.values():
            if child.generation < self._generation and not child.leaving:
                child.kill_at = self._now() + self._config.server.reload_grace + KILL_MARGIN
                child.signal(RETIRE)
        self._close_unserved()

    def _kill_overdue(self) -> None:
        for child in self._children.values():
            if child.kill_at is not None and self._now() >= child.kill_at:
                self._log.error("worker did not leave in time and is killed", kind=child.kind, worker=child.pid)
                child.signal(signal.SIGKILL)
                child.kill_at = self._now() + KILL_MARGIN
        self._housekeeper.kill_when_overdue()

    # Housekeeping

    def _housekeeping_due(self) -> float | None:
        """Not before mail is taken, and not while workers are changed."""
        return None if self._stopping or not self._announced else self._housekeeper.due(self._config)

    def _keep_house(self) -> None:
        due = self._housekeeping_due()
        if due is not None and self._now() >= due:
            listening = [*self._listeners.values(), *(each for group in self._passed.values() for each in group)]
            waiting = [child.ready_fd for child in self._children.values() if child.ready_fd >= 0]
            self._housekeeper.start(
                self._config,
                closing={*self._lifeline.private, *waiting, *(each.socket.fileno() for each in listening)},
                crashed=lambda error: self._log.error("housekeeping failed", exc_info=error),
            )
