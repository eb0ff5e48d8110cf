"""Makes the engines that the settings name, and asks them in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar, assert_never

from postroom.config import SocketAddress
from postroom.hookspecs import Clock, Logger

from postroom_spam.engine import Deadline, Engine, EngineKind, EngineTrouble
from postroom_spam.settings import SpamSettings

T = TypeVar("T")


class NoEngine(Exception):
    """No server could say anything: what each of them did instead, in one line."""


def engines_of(settings: SpamSettings) -> list[Engine]:
    connect_timeout = float(settings.connect_timeout)
    match settings.engine:
        case EngineKind.SPAMD:
            from postroom_spam.spamd import Spamd

            return [Spamd(address, connect_timeout) for address in settings.addresses]
        case EngineKind.RSPAMD:
            from postroom_spam.rspamd import Rspamd

            return [
                Rspamd(address, settings.controller, settings.password, connect_timeout)
                for address in settings.addresses
            ]
        case _:
            assert_never(settings.engine)


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


def ask(
    engines: Sequence[Engine],
    question: Callable[[Engine, Deadline], T],
    deadline: Deadline,
    failures: Failures,
    clock: Clock,
    log: Logger,
    *,
    pause: float,
    attempt: float,
) -> T:
    """The first answer; NoEngine with all that went wrong when there is none.

    A server after which another can be asked gets `attempt` seconds and no more than its share of the time left.
    """
    candidates = failures.order(engines, clock.monotonic(), pause)
    troubles: list[str] = []
    for position, engine in enumerate(candidates, 1):
        others = len(candidates) - position
        try:
            share = deadline.at_most(min(attempt, deadline.left() / (others + 1))) if others else deadline
            answer = question(engine, share)
        except (EngineTrouble, OSError) as error:  # TimeoutError is an OSError
            problem = describe(error)
        else:
            if failures.works(engine.address):
                log.info("spam filter works again", server=str(engine.address))
            return answer
        troubles.append(f"{engine.address} {problem}")
        if failures.failed(engine.address, clock.monotonic()):
            log.warning("spam filter fails", server=str(engine.address), problem=problem)
    raise NoEngine("; ".join(troubles))


def describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
