"""A circuit breaker: what keeps failing is left alone for a while, then probed by one call."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from postroom.hookspecs import Clock

FAILURES_TO_OPEN = 5
SECONDS_OPEN = 30.0


@dataclass
class _Circuit:
    failures: int = 0
    open_until: float = 0.0


class Breaker:
    """One circuit for each name; kept in one process, as the back-end's trouble is seen from here."""

    def __init__(self, clock: Clock, failures: int = FAILURES_TO_OPEN, seconds: float = SECONDS_OPEN) -> None:
        self._clock, self._failures, self._seconds = clock, failures, seconds
        self._circuits: dict[str, _Circuit] = {}
        self._lock = threading.Lock()

    def allows(self, name: str) -> bool:
        """Whether to call at all. Of the callers after the pause just one goes through, as the probe.

        A probe that nobody hears of again, since its call was not made after all, costs one more pause and no more.
        """
        circuit = self._circuits.get(name)
        if circuit is None or circuit.failures < self._failures:
            return True
        with self._lock:
            now = self._clock.monotonic()
            if now < circuit.open_until:
                return circuit.failures < self._failures
            circuit.open_until = now + self._seconds
            return True

    def succeeded(self, name: str) -> bool:
        """Whether this closes an open circuit."""
        if name not in self._circuits:
            return False
        with self._lock:
            circuit = self._circuits.pop(name, None)
            return circuit is not None and circuit.failures >= self._failures

    def failed(self, name: str) -> bool:
        """Whether this opens the circuit."""
        with self._lock:
            circuit = self._circuits.setdefault(name, _Circuit())
            circuit.failures += 1
            if circuit.failures < self._failures:
                return False
            circuit.open_until = self._clock.monotonic() + self._seconds
            return circuit.failures == self._failures
