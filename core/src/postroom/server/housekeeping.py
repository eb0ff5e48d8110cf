"""What is too old goes: what was held, by `[quarantine] keep`, and former registrations, by `[registry] history`."""

from __future__ import annotations

from postroom.config import Config
from postroom.hookspecs import Clock, Logger
from postroom.quarantine import Expired, open_quarantine
from postroom.registry import Pruning, Registry, RegistryError


def tidy(config: Config, clock: Clock, log: Logger) -> None:
    """Delete what the settings call too old. What cannot be done is logged, and the rest goes on.

    Safe beside mail, and beside other hosts and processes that do the same.
    """
    began = clock.monotonic()
    expired, pruned = Expired(), Pruning(0)
    try:
        expired = _expire(config, clock)
    except OSError as error:
        log.error("quarantine is not tidied", why=f"{error.filename or config.paths.state}: {error.strerror}")
    try:
        pruned = _prune(config, clock)
    except RegistryError as error:
        log.error("history is not pruned", why=str(error))
    say = log.info if expired.mails or pruned else log.debug
    say(
        "housekeeping",
        mails=expired.mails,
        octets=expired.octets,
        generations=pruned.generations,
        registrations=pruned.registrations,
        ms=round((clock.monotonic() - began) * 1000),
    )


def _expire(config: Config, clock: Clock) -> Expired:
    keep = config.quarantine.keep
    return open_quarantine(config, clock).expire(keep) if keep else Expired()


def _prune(config: Config, clock: Clock) -> Pruning:
    history, settings = config.registry.history, config.registry
    if not history:
        return Pruning(0)
    with Registry.open(config.registry_url, float(settings.timeout), create=False, clock=clock.now) as registry:
        return registry.prune(history)
