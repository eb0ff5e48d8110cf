"""Lends the worker's services to one call at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from postroom.config import Config
from postroom.hookspecs import Clock, Directory, Logger, Reinjector, Resolver, StateStore
from postroom.registration import Stage

T = TypeVar("T")


class StageReinjector(Reinjector, Protocol):
    """A re-injector that can keep its mail away from stages that have seen it."""

    def for_stages(self, stages: Collection[Stage]) -> Reinjector: ...


@dataclass(slots=True)
class LentServices:
    """What one call is given; implements hookspecs.Services."""

    config: Config
    clock: Clock
    dns: Resolver
    state: StateStore
    directory: Directory
    reinject: Reinjector
    log: Logger
    ends_at: float  # of clock.monotonic()
    findings: Mapping[str, Any]

    def deadline(self) -> float:
        return max(0.0, self.ends_at - self.clock.monotonic())

    def finding(self, handler: str, kind: type[T]) -> T | None:
        found = self.findings.get(handler)
        return found if isinstance(found, kind) else None


@dataclass(frozen=True)
class Lender:
    """The services of one worker process."""

    config: Config
    clock: Clock
    dns: Resolver
    state: StateStore
    directory: Directory
    reinject: StageReinjector

    def lend(
        self, log: Logger, seconds: float, findings: Mapping[str, Any] | None = None, stage: Stage | None = None
    ) -> LentServices:
        """For one call; what it sends is not seen again by `stage`, so that no handler feeds itself for ever."""
        return LentServices(
            self.config,
            self.clock,
            self.dns,
            self.state,
            self.directory,
            self.reinject.for_stages({stage}) if stage else self.reinject,
            log,
            self.clock.monotonic() + seconds,
            findings or {},
        )
