"""The process that tidies up now and then: one at a time, beside the workers, so that no mail waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from postroom.config import Config
from postroom.server.children import fork_process

NICENESS = 10  # nice(1): mail first

Housekeep = Callable[[Config], None]
"""Called in a process of its own, which ends with it and may be stopped at any moment."""


class Housekeeper:
    """The supervisor's side: one process at most, at the start, then `[server] housekeeping` after the last one."""

    def __init__(self, housekeep: Housekeep | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._housekeep, self._now = housekeep, monotonic
        self._began: float | None = None
        self.pid = 0
        self.kill_at: float | None = None

    def due(self, config: Config) -> float | None:
        """When the next one is to be started, of the monotonic clock; None: there is one, or there shall be none."""
        if self.pid or self._housekeep is None or not config.server.housekeeping:
            return None
        return self._now() if self._began is None else self._began + config.server.housekeeping

    def start(self, config: Config, *, closing: Collection[int], crashed: Callable[[BaseException], None]) -> None:
        """`closing`: descriptors that it must not keep."""
        housekeep = self._housekeep
        assert housekeep is not None, "nothing is ever due"

        def run() -> None:
            with suppress(OSError):
                os.nice(NICENESS)
            housekeep(config)

        self._began = self._now()
        self.pid = fork_process(run, closing=closing, crashed=crashed)

    def stop(self, patience: float) -> None:
        if self.pid:
            self._signal(signal.SIGTERM)
            self.kill_at = self._now() + patience

    def kill_when_overdue(self) -> None:
        if self.pid and self.kill_at is not None and self._now() >= self.kill_at:
            self._signal(signal.SIGKILL)
            self.kill_at = self._now() + 1.0

    def reap(self) -> None:
        if not self.pid:
            return
        try:
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid = self.pid  # somebody else's wait took it
        if pid:
            self.pid, self.kill_at = 0, None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
