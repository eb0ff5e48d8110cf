"""One moment for all that a call waits for."""

from __future__ import annotations

import time

from postroom.backends.trouble import BackendLate


class Deadline:
    """A moment that nothing may pass. On the real clock, because sockets wait on that one."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def left(self, problem: str = "no time left") -> float:
        """Seconds left, more than none; else BackendLate with this problem."""
        seconds = self._ends_at - time.monotonic()
        if seconds <= 0:
            raise BackendLate(problem)
        return seconds

    def at_most(self, seconds: float) -> Deadline:
        """An earlier one."""
        return Deadline(min(seconds, self._ends_at - time.monotonic()))
