"""The time of this host."""

from __future__ import annotations

import time


class SystemClock:
    """Implements hookspecs.Clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
