"""What a front asks: `demand` when a client connects, `select` once a mail, `run` for each stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from postroom.call_threads import CallThreads
from postroom.config import Config
from postroom.hookspecs import Directory, Logger, Reinjector
from postroom.mail import Envelope, Message
from postroom.pipeline.calling import Caller
from postroom.pipeline.chain import Chain
from postroom.pipeline.demand import Demand, Kinds, demand_of
from postroom.pipeline.reporting import Reporter
from postroom.plan import Plan, lookup_keys, make_plan
from postroom.plugins import Handlers
from postroom.registration import Selection, Stage, Type
from postroom.services.lend import Lender
from postroom.verdict import Outcome

T = TypeVar("T")


class PipelineUnavailable(Exception):
    """The registry cannot be asked: nobody knows what should act on this mail, so answer *temporary*."""


class RegistryReader(Protocol):
    """The part of the registry that mail needs."""

    @property
    def local(self) -> bool: ...
    def generation(self) -> int: ...
    def enabled(self) -> Kinds: ...
    def registered(self) -> Kinds: ...
    def matching(
        self, keys: Collection[tuple[Type, str]], stages: Collection[Stage], *, include_disabled: bool = False
    ) -> Selection: ...


class Pipeline:
    """Everything between a front and the handlers, in one worker process."""

    def __init__(self, registry: RegistryReader, handlers: Handlers, lender: Lender, log: Logger) -> None:
        self.config: Config = lender.config
        self.directory: Directory = lender.directory
        self.reinject: Reinjector = lender.reinject
        self.handlers = handlers
        self.registry_is_local = registry.local
        self._registry, self._lender, self._log = registry, lender, log
        self.clock = lender.clock
        self._threads = CallThreads()
        self._broken: dict[str, str] = {}
        self._caller = Caller(lender, log, self._broken)
        self._reporter = Reporter(handlers, log)
        self._demand = self._prospect = (Kinds(), Demand())

    # What a front asks

    def demand(self) -> Demand:
        """What enabled handlers need now. May wait for the database unless `registry_is_local`."""
        self._demand = self._current(self._demand, _ask(self._registry.enabled))
        return self._demand[1]

    def prospect(self) -> Demand:
        """What registered handlers would need if all were enabled: somebody may enable them at any moment."""
        self._prospect = self._current(self._prospect, _ask(self._registry.registered))
        return self._prospect[1]

    def _current(self, known: tuple[Kinds, Demand], kinds: Kinds) -> tuple[Kinds, Demand]:
        return known if known[0] == kinds else (kinds, demand_of(kinds, self.handlers))

    def select(self, envelope: Envelope, stages: Collection[Stage], *, include_disabled: bool = False) -> Selection:
        """The registrations that concern this mail, in one look-up; the mail keeps them to its end."""
        keys = lookup_keys(envelope, self.config.host.recipient_delimiter)
        return _ask(lambda: self._registry.matching(keys, stages, include_disabled=include_disabled))

    def plan(self, selection: Selection, stage: Stage, envelope: Envelope) -> Plan:
        return make_plan(stage, envelope, selection, self.handlers, self.config)

    def run(
        self,
        selection: Selection,
        stage: Stage,
        envelope: Envelope,
        message: Message | None,
        *,
        time_limit: float,
        findings: Mapping[str, Any] | None = None,
        one_copy: bool = False,
    ) -> Outcome:
        """Make the calls of one stage, within `time_limit` seconds together. Whatever a handler does, this returns.

        `one_copy`: all recipients will get the same mail, so an edit asked for some is made for all, and seen by all
        later calls.
        """
        plan = self.plan(selection, stage, envelope)
        chain = Chain(
            plan,
            envelope,
            message,
            ends_at=self.clock.monotonic() + time_limit,
            findings=dict(findings or {}),
            one_copy=one_copy,
            caller=self._caller,
            reporter=self._reporter,
            clock=self.clock,
        )
        if not plan.calls:
            return chain.outcome()
        chain.make_calls(self._threads)
        outcome = chain.outcome()
        self._reporter.mail(plan, envelope, outcome, tuple(chain.records))
        return outcome

    # The life of a worker

    def start_handlers(self) -> None:
        """Once, before the first mail; a handler whose `start` fails is failing from then on, not fatal."""
        for name, handler in self.handlers.by_name.items():
            if hook := handler.hooks.get("start"):
                try:
                    hook(services=self._lender.lend(self._log, handler.info.timeout))
                except Exception as error:  # noqa: BLE001  # a plugin may raise anything
                    self._broken[name] = f"its start failed: {type(error).__name__}: {error}"
                    self._log.error("handler could not start", handler=name, error=self._broken[name])

    def stop_handlers(self) -> None:
        for name, handler in self.handlers.by_name.items():
            if hook := handler.hooks.get("stop"):
                try:
                    hook()
                except Exception as error:  # noqa: BLE001  # a plugin may raise anything
                    self._log.error("handler could not stop", handler=name, error=f"{type(error).__name__}: {error}")
        self._threads.close()


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except Exception as error:
        raise PipelineUnavailable(f"the registry cannot be asked: {type(error).__name__}: {error}") from error
