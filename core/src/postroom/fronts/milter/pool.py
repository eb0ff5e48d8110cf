"""Threads for work that may wait, started as they are needed, up to a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class ThreadPool:
    """Jobs beyond the bound wait in line. A job must not raise. The threads die with the process."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit, self._name = threads, name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished = 0

    def submit(self, job: Job) -> None:
        with self._lock:
            self._unfinished += 1
            start = self._unfinished > self._started and self._started < self._limit
            if start:
                self._started += 1
                number = self._started
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True).start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                with self._lock:
                    self._unfinished -= 1

    def close(self) -> None:
        """Let every thread end after its job; does not wait."""
        for _ in range(self._started):
            self._jobs.put(None)
