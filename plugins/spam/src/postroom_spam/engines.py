"""Makes the engines that the settings name, and asks them in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, assert_never

from postroom.backends.deadline import Deadline
from postroom.backends.failover import Failover
from postroom.hookspecs import Services

from postroom_spam.engine import Engine, EngineKind
from postroom_spam.settings import SpamSettings

T = TypeVar("T")


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


def ask(
    settings: SpamSettings,
    question: Callable[[Engine, Deadline], T],
    deadline: Deadline,
    failover: Failover,
    services: Services,
) -> T:
    """The first engine's answer; NoAnswer when there is none."""
    return failover.ask(
        engines_of(settings),
        question,
        deadline,
        services,
        pause=float(settings.retry_after),
        attempt=float(settings.attempt_timeout),
    )
