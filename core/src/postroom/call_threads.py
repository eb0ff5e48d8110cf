"""Runs a function with a deadline, and leaves it behind when it overruns.

A Python thread cannot be ended from outside. A call that overruns keeps its thread until it comes back by itself; its
answer is thrown away. How many may be left behind is bounded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from postroom.failure import FailureKind, HandlerFailed

T = TypeVar("T")

MAX_LEFT_BEHIND = 64
"""Threads that may hang in overrun calls at once in one process; past that, calls fail at once."""


def _raised() -> threading.Lock:
    """A lock that is held: `release` lets one waiter through (a quarter of what a Semaphore costs)."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Caller(threading.Thread):
    """One thread that makes one call at a time for whoever holds it."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"call-{number}", daemon=True)
        self._work, self._done = _raised(), _raised()
        self._function: Callable[[], Any] | None = None
        self._result: Any = None
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
                self._result = self._function()
            except BaseException as error:  # noqa: BLE001  # belongs to whoever asked for the call, SystemExit too
                self._error = error
            self._function = None
            with self._lock:
                if self._left_behind:
                    self.on_return()
                    return
                self._done.release()

    def call(self, function: Callable[[], Any], timeout: float) -> tuple[bool, Any, BaseException | None]:
        """(came back in time, result, error)."""
        self._function = function
        self._work.release()
        if not self._done.acquire(timeout=timeout):
            with self._lock:
                if not self._done.acquire(blocking=False):
                    self._left_behind = True
                    return False, None, None
        result, error, self._result, self._error = self._result, self._error, None, None
        return True, result, error

    def end(self) -> None:
        self._work.release()


class CallThreads:
    """Callers that are kept for re-use; as many as calls run at once."""

    def __init__(self) -> None:
        self._idle: deque[_Caller] = deque()
        self._count = 0
        self._left_behind = 0
        self._lock = threading.Lock()

    @property
    def left_behind(self) -> int:
        return self._left_behind

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """What `function` returns or raises; HandlerFailed when it is not back after `timeout` seconds."""
        if self._left_behind >= MAX_LEFT_BEHIND:
            raise HandlerFailed(FailureKind.TIMEOUT, f"{MAX_LEFT_BEHIND} earlier calls still hang")
        try:
            caller = self._idle.pop()
        except IndexError:
            self._count += 1
            caller = _Caller(self._count)
            caller.on_return = self._returned
        in_time, result, error = caller.call(function, max(0.0, timeout))
        if not in_time:
            with self._lock:
                self._left_behind += 1
            raise HandlerFailed(FailureKind.TIMEOUT, f"no answer after {timeout:.1f} s")
        self._idle.append(caller)
        if error is not None:
            raise error
        returned: T = result
        return returned

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().end()

    def _returned(self) -> None:
        with self._lock:
            self._left_behind -= 1
