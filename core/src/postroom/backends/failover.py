"""Several servers in order of preference; those that just failed come last for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from postroom.backends.deadline import Deadline
from postroom.backends.trouble import BackendDeclined, BackendLate, BackendTrouble
from postroom.config import SocketAddress
from postroom.hookspecs import Services, Unavailable


class Backend(Protocol):
    """One server, and the way to talk to it."""

    @property
    def address(self) -> SocketAddress: ...


B = TypeVar("B", bound=Backend)
T = TypeVar("T")


class NoAnswer(Unavailable):
    """None of the servers could say anything: what each of them did instead, in one line.

    `late`: nothing was wrong but that no answer came in time. `of_this_mail`: a server was well, and declined.
    """

    def __init__(self, troubles: Sequence[tuple[SocketAddress, BackendTrouble]]) -> None:
        super().__init__("; ".join(f"{address}: {trouble}" for address, trouble in troubles) or "no time left")
        self.late = all(isinstance(trouble, BackendLate) for _, trouble in troubles)
        self.of_this_mail = any(isinstance(trouble, BackendDeclined) for _, trouble in troubles)


class Failover:
    """Knows which servers failed lately, as seen from this process: all that a handler keeps of them between mails.

    `kind`: what the servers are, for the log: `KIND fails`, `KIND works again`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._failed_at: dict[SocketAddress, float] = {}

    def ask(
        self,
        backends: Sequence[B],
        question: Callable[[B, Deadline], T],
        deadline: Deadline,
        services: Services,
        *,
        pause: float,
        attempt: float,
    ) -> T:
        """The first answer; NoAnswer when there is none. A `question` tells of failure by a BackendTrouble.

        A server after which another can be asked gets `attempt` seconds and no more than its share of the time left.
        One that failed is asked last for `pause` seconds.
        """
        candidates = self._in_order(backends, services.clock.monotonic(), pause)
        troubles: list[tuple[SocketAddress, BackendTrouble]] = []
        for others, backend in zip(reversed(range(len(candidates))), candidates, strict=True):
            try:
                left = deadline.left()
            except BackendLate:
                break
            share = deadline.at_most(min(attempt, left / (others + 1))) if others else deadline
            try:
                answer = question(backend, share)
            except BackendTrouble as trouble:
                troubles.append((backend.address, trouble))
                self._note(backend.address, trouble, services)
            else:
                self._note(backend.address, None, services)
                return answer
        raise NoAnswer(troubles)

    def _in_order(self, backends: Sequence[B], now: float, pause: float) -> list[B]:
        """As configured, but those that failed in the last `pause` seconds at the end, longest ago first."""
        with self._lock:
            failed = {address: moment for address, moment in self._failed_at.items() if now - moment < pause}
        return sorted(backends, key=lambda backend: failed.get(backend.address, float("-inf")))  # stable

    def _note(self, address: SocketAddress, trouble: BackendTrouble | None, services: Services) -> None:
        """Remember how it went, and log what is news."""
        if trouble is None or isinstance(trouble, BackendDeclined):
            if address in self._failed_at and self._forget(address):
                services.log.info(f"{self._kind} works again", server=str(address))
            return
        with self._lock:
            is_known = address in self._failed_at
            self._failed_at[address] = services.clock.monotonic()
        if not is_known:
            status = "timeout" if isinstance(trouble, BackendLate) else "error"
            services.log.warning(f"{self._kind} fails", server=str(address), status=status, problem=str(trouble))

    def _forget(self, address: SocketAddress) -> bool:
        """Whether it was known: of several threads one logs it."""
        with self._lock:
            return self._failed_at.pop(address, None) is not None
