"""Several servers in order of preference; those that just failed come last for a while."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from postroom.config import SocketAddress
from postroom.hookspecs import Clock, Logger

from postroom_antivirus.engine import Deadline, Engine, EngineTrouble, Octets, ScanResult, Status


class Failures:
    """Which servers failed lately, as seen from this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed_at: dict[SocketAddress, float] = {}

    def order(self, engines: Sequence[Engine], now: float, pause: float) -> list[Engine]:
        """As configured, but those that failed in the last `pause` seconds at the end, longest ago first."""
        with self._lock:
            failed = {address: moment for address, moment in self._failed_at.items() if now - moment < pause}
        return sorted(engines, key=lambda engine: failed.get(engine.address, float("-inf")))  # stable

    def failed(self, address: SocketAddress, now: float) -> bool:
        """Whether this is news."""
        with self._lock:
            known = address in self._failed_at
            self._failed_at[address] = now
        return not known

    def works(self, address: SocketAddress) -> bool:
        """Whether this is news."""
        if address not in self._failed_at:
            return False
        with self._lock:
            return self._failed_at.pop(address, None) is not None

    def snapshot(self) -> Mapping[SocketAddress, float]:
        with self._lock:
            return dict(self._failed_at)


def scan(engine: Engine, mail: Octets, deadline: Deadline) -> ScanResult:
    """One server's result, whatever happens to it."""
    server = str(engine.address)
    try:
        return engine.scan(mail, deadline)
    except TimeoutError as error:
        detail = str(error) if str(error) in _OWN_WORDS else "does not answer in time"
        return ScanResult(Status.TIMEOUT, detail=detail, server=server, answered=False)
    except EngineTrouble as error:
        return ScanResult(Status.ERROR, detail=str(error), server=server, answered=False)
    except OSError as error:
        return ScanResult(Status.ERROR, detail=error.strerror or str(error), server=server, answered=False)


_OWN_WORDS = ("does not take the connection", "no time left")


def scan_with_failover(
    engines: Sequence[Engine],
    mail: Octets,
    deadline: Deadline,
    failures: Failures,
    clock: Clock,
    log: Logger,
    *,
    pause: float,
    attempt: float,
) -> ScanResult:
    """The first result that is one; else the last failure, with all that went wrong in its detail.

    A server after which another can be asked gets `attempt` seconds and no more than its share of the time left.
    """
    candidates = failures.order(engines, clock.monotonic(), pause)
    troubles: list[str] = []
    statuses: set[Status] = set()
    for position, engine in enumerate(candidates, 1):
        try:
            left = deadline.left()
        except TimeoutError:
            break
        others = len(candidates) - position
        share = deadline.at_most(min(attempt, left / (others + 1))) if others else deadline
        result = scan(engine, mail, share)
        if not result.answered and failures.failed(engine.address, clock.monotonic()):
            log.warning("scanner fails", server=result.server, status=str(result.status), problem=result.detail)
        if result.answered and failures.works(engine.address):
            log.info("scanner works again", server=result.server)
        if result.status not in (Status.ERROR, Status.TIMEOUT):
            return result
        troubles.append(f"{result.server}: {result.detail}")
        statuses.add(result.status)
    status = Status.TIMEOUT if Status.ERROR not in statuses else Status.ERROR
    return ScanResult(status, detail="; ".join(troubles) or "no time left", answered=False)
