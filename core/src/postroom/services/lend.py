"""Lends the worker's services to one call at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from postroom.config import Config
from postroom.hookspecs import Clock, Directory, Logger, Reinjector, Resolver, StateStore

T = TypeVar("T")


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
    reinject: Reinjector

    def lend(self, log: Logger, seconds: float, findings: Mapping[str, Any] | None = None) -> LentServices:
        return LentServices(
            self.config,
            self.clock,
            self.dns,
            self.state,
            self.directory,
            self.reinject,
            log,
            self.clock.monotonic() + seconds,
            findings or {},
        )
