"""Runs calls in a thread that is left behind when one of them overruns its deadline.

A Python thread cannot be ended from outside. A thread whose call overruns is on its own until the call comes back; what
it brings then is thrown away. How many may be left behind is bounded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

LOOK_EVERY = 0.1
"""Seconds between two looks at a deadline, which may have moved to an earlier time."""

MAX_LEFT_BEHIND = 64
"""Threads that may hang in overrun calls at once in one process; past that, calls fail at once."""


def _raised() -> threading.Lock:
    """A lock that is held: `release` lets one waiter through (a quarter of what a Semaphore costs)."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Caller(threading.Thread):
    """One thread that does one thing at a time for whoever holds it."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"call-{number}", daemon=True)
        self._work, self._done = _raised(), _raised()
        self._function: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._left_behind = False
        self._lock = threading.Lock()
        self.on_return: Callable[[], None] = lambda: None
        self.start()

    def run(self) -> None:
        while True:
            self._work.acquire()
            if self._function is None:
                return
            try:
                self._function()
            except BaseException as error:  # noqa: BLE001  # belongs to whoever asked for the call, SystemExit too
                self._error = error
            self._function = None
            with self._lock:
                if self._left_behind:
                    self.on_return()
                    return
                self._done.release()

    def call(self, function: Callable[[], None], ends_at: Callable[[], float]) -> bool:
        """Whether it came back before time.monotonic() reached `ends_at()`, which may move while it runs."""
        self._function = function
        self._work.release()
        while not self._done.acquire(timeout=min(LOOK_EVERY, max(0.0, ends_at() - time.monotonic()))):
            if ends_at() > time.monotonic():
                continue
            with self._lock:
                if not self._done.acquire(blocking=False):
                    self._left_behind = True
                    return False
                break
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def end(self) -> None:
        self._work.release()


class TooManyLeftBehind(Exception):
    """Nothing more is begun until some of them come back."""


class CallThreads:
    """Threads that are kept for re-use; as many as run at once."""

    def __init__(self) -> None:
        self._idle: deque[_Caller] = deque()
        self._count = 0
        self._left_behind = 0
        self._lock = threading.Lock()

    @property
    def left_behind(self) -> int:
        return self._left_behind

    def run(self, function: Callable[[], None], ends_at: Callable[[], float]) -> bool:
        """Run `function`; False when time.monotonic() reaches `ends_at()` first. What it raises is raised here.

        TooManyLeftBehind when so many earlier ones still hang that nothing is begun.
        """
        if self._left_behind >= MAX_LEFT_BEHIND:
            raise TooManyLeftBehind(f"{MAX_LEFT_BEHIND} earlier calls still hang")
        try:
            caller = self._idle.pop()
        except IndexError:
            self._count += 1
            caller = _Caller(self._count)
            caller.on_return = self._returned
        try:
            in_time = caller.call(function, ends_at)
        except BaseException:
            self._idle.append(caller)
            raise
        if in_time:
            self._idle.append(caller)
            return True
        with self._lock:
            self._left_behind += 1
        return False

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().end()

    def _returned(self) -> None:
        with self._lock:
            self._left_behind -= 1
