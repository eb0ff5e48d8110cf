"""What is too old goes: what was held, by `[quarantine] keep`, and former registrations, by `[registry] history`."""

from __future__ import annotations

import time

from postroom.config import Config
from postroom.hookspecs import Clock, Logger
from postroom.quarantine import Expired, open_quarantine
from postroom.registry import Pruning, Registry, RegistryError
from postroom.server.steady_clock import LONGEST_STEP, steady_at


def tidy(config: Config, clock: Clock, log: Logger) -> None:
    """Delete what the settings call too old. What cannot be done is logged, and the rest goes on.

    Safe beside mail, and beside other hosts and processes that do the same; nothing goes by a clock that was just set.
    """
    began = clock.monotonic()
    if not _may_go_by(clock, config, log):
        return
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


def _may_go_by(clock: Clock, config: Config, log: Logger) -> bool:
    now, path = clock.now(), config.paths.state / "housekeeping.json"
    try:
        steady = steady_at(path, now, max(LONGEST_STEP, 2 * float(config.server.housekeeping)))
    except OSError as error:
        log.error("housekeeping fails", why=f"{path}: {error.strerror}")
        return False
    if steady <= now:
        return True
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(steady))
    log.debug("housekeeping waits", until=until, why="the server is new or was away, or the clock was set")
    return False


def _expire(config: Config, clock: Clock) -> Expired:
    keep = config.quarantine.keep
    return open_quarantine(config, clock).expire(keep) if keep else Expired()


def _prune(config: Config, clock: Clock) -> Pruning:
    history, settings = config.registry.history, config.registry
    if not history:
        return Pruning(0)
    with Registry.open(config.registry_url, float(settings.timeout), create=False, clock=clock.now) as registry:
        return registry.prune(history)
