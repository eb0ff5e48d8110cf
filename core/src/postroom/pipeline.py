"""Runs a plan: makes the calls in order, contains what fails, and joins the verdicts to an outcome.

A front asks in this order: `demand` when a client connects, `select` once a mail, `run` for each stage.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from postroom.breaker import Breaker
from postroom.call_threads import CallThreads, TooManyLeftBehind
from postroom.config import Config
from postroom.edit_rules import check_edits
from postroom.executable import run_program
from postroom.failure import FailureKind, HandlerFailed
from postroom.hookspecs import STAGE_HOOKS, CallRecord, Directory, Logger, MailRecord, Need, Reinjector
from postroom.mail import Address, Edit, Envelope, Message
from postroom.plan import Call, Plan, lookup_keys, make_plan
from postroom.plugins import Handlers
from postroom.registration import Mode, OnError, Registration, Selection, Stage, Type
from postroom.services.lend import Lender
from postroom.verdict import (
    GOES_ON,
    Action,
    Disposition,
    Outcome,
    Verdict,
    deferred,
    quarantined,
    rejected,
    skipped,
)

T = TypeVar("T")

GRACE = 0.25
"""Seconds past its deadline that a call gets to come back by itself, before its thread is left behind."""

FIRST_PIECE = 30.0
"""Seconds for the first call to be worked out; far more than it takes."""

LOGGED_RECIPIENTS = 3


class PipelineUnavailable(Exception):
    """The registry cannot be asked: nobody knows what should act on this mail, so answer *temporary*."""


Kinds = frozenset[tuple[str, Stage, str]]
"""(handler, stage, executable)."""


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


_ORDER = (Need.ENVELOPE, Need.HEADERS, Need.BODY)


@dataclass(frozen=True)
class Demand:
    """What the enabled handlers have to see, by stage; a stage that is not there has nothing enabled."""

    needs: Mapping[Stage, Need] = field(default_factory=dict)

    def wants(self, stage: Stage) -> bool:
        return stage in self.needs

    @property
    def headers(self) -> bool:
        """Whether a front that sees the mail pass by must look at its header.

        A handler at before-local that reads the header may trust results of earlier stages: a front that sees the
        mail first has to take forged ones out (RFC 8601 5).
        """
        early = (self.needs.get(stage, Need.ENVELOPE) for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE))
        return any(need is not Need.ENVELOPE for need in early) or (
            self.needs.get(Stage.BEFORE_LOCAL, Need.ENVELOPE) is not Need.ENVELOPE
        )

    @property
    def body(self) -> bool:
        return any(self.needs.get(stage) is Need.BODY for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE))


@dataclass
class _Recipient:
    """One recipient on its way through a plan."""

    disposition: Disposition = GOES_ON
    edits: tuple[Edit, ...] = ()


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
        self._breaker = Breaker(lender.clock)
        self._threads = CallThreads()
        self._broken: dict[str, str] = {}
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
        return known if known[0] == kinds else (kinds, _demand_of(kinds, self.handlers))

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
        ends_at = self.clock.monotonic() + time_limit
        run = _Run(self, plan, envelope, message, ends_at, dict(findings or {}), one_copy)
        if plan.calls:
            run.make_calls(self._threads)
        outcome = run.outcome()
        if plan.calls:
            self._report(plan, envelope, outcome, tuple(run.records))
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

    # One call

    def answer(self, piece: _Piece, stage: Stage, findings: Any) -> Verdict:
        """The handler's verdict, or HandlerFailed. Runs in a thread that is left behind when it takes too long."""
        call = piece.call
        if problem := call.problem or self._broken.get(call.name, ""):
            raise HandlerFailed(FailureKind.ABSENT if call.handler is None else FailureKind.SETTINGS, problem)
        if not self._breaker.allows(call.circuit):
            raise HandlerFailed(FailureKind.BREAKER, "failed too often just now; it is left alone for a while")
        if piece.seconds <= 0:
            raise HandlerFailed(FailureKind.STARVED, "earlier handlers have used up the time of this stage")
        return self._invoke(call, stage, piece.envelope, piece.message, piece.seconds, findings)

    def account(self, call: Call, failure: HandlerFailed | None) -> None:
        """Tell the breaker how a call ended that was really made."""
        if failure is None:
            if self._breaker.succeeded(call.circuit):
                self._log.info("handler works again", handler=call.name)
        elif failure.kind not in _NOT_MADE and self._breaker.failed(call.circuit):
            self._log.error("handler keeps failing and is left alone for a while", handler=call.name)

    def _invoke(
        self, call: Call, stage: Stage, envelope: Envelope, message: Message | None, seconds: float, findings: Any
    ) -> Verdict:
        log = _bound(self._log, call, stage, envelope)
        if call.registration.executable:
            program, context = call.registration.executable, call.registration.context
            return run_program(program, context, stage, envelope, message, seconds, log)
        assert call.handler is not None
        hook = call.handler.hooks[STAGE_HOOKS[stage]]
        services = self._lender.lend(log, seconds, findings, stage)

        try:
            verdict = hook(envelope=envelope, message=message, settings=call.settings, services=services)
        except BaseException as error:  # noqa: BLE001  # a plugin may raise anything, SystemExit too
            log.error("handler raised", error=f"{type(error).__name__}: {error}", trace=_trace(error))
            raise HandlerFailed(FailureKind.EXCEPTION, f"{type(error).__name__}: {error}") from None
        if not isinstance(verdict, Verdict):
            raise HandlerFailed(FailureKind.ANSWER, f"answered {type(verdict).__name__}, not a Verdict")
        if problem := _wrong_recipients(verdict, envelope):
            raise HandlerFailed(FailureKind.ANSWER, problem)
        one_by_one = {each: _checked(own, stage, log) for each, own in verdict.for_recipients.items()}
        return dataclasses.replace(_checked(verdict, stage, log), for_recipients=one_by_one)

    # What is told

    def report_call(self, record: CallRecord, envelope: Envelope) -> None:
        facts: dict[str, Any] = {
            "queue_id": envelope.queue_id,
            "stage": str(record.stage),
            "handler": record.handler,
            "sender": str(envelope.sender),
            "recipients": [str(each) for each in record.recipients[:LOGGED_RECIPIENTS]],
            "recipient_count": len(record.recipients),
            "ms": round(record.seconds * 1000, 1),
            "generation": record.generation,
        }
        verdict = record.verdict
        if verdict.reason:
            facts["reason"] = verdict.reason
        if verdict.reply and not verdict.action.goes_on:
            facts["reply"] = verdict.reply.line(verdict.action)
        if record.shadow:
            facts["mode"] = "shadow"
        if record.error:
            facts |= {"error": record.error, "consequence": record.consequence}
        event = f"{verdict.action} during call '{record.handler}' handler"
        (self._log.warning if record.error else self._log.info)(event, **facts)
        self._notify("after_call", record)

    def _report(self, plan: Plan, envelope: Envelope, outcome: Outcome, records: tuple[CallRecord, ...]) -> None:
        counts: dict[str, int] = {}
        for disposition in outcome.dispositions.values():
            counts[str(disposition.action)] = counts.get(str(disposition.action), 0) + 1
        self._log.info(
            "mail handled",
            queue_id=envelope.queue_id,
            stage=str(plan.stage),
            sender=str(envelope.sender),
            recipient_count=len(envelope.recipients),
            traffic=str(envelope.traffic),
            client=str(envelope.session.client_address or "local"),
            calls=len(records),
            generation=plan.generation,
            outcome=",".join(f"{action}:{count}" for action, count in sorted(counts.items())),
        )
        if self.handlers.observers:
            self._notify("after_mail", MailRecord(plan.stage, envelope, outcome, records))

    def _notify(self, name: str, record: object) -> None:
        for observer in self.handlers.observers:
            if hook := observer.hooks.get(name):
                try:
                    hook(record=record)
                except Exception as error:  # noqa: BLE001  # an observer changes nothing, whatever it raises
                    self._log.error("observer failed", observer=observer.name, error=f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A call for those of its recipients that see the same mail; `seconds` are left for it."""

    call: Call
    envelope: Envelope
    message: Message | None
    seconds: float
    started: float  # of the pipeline's clock


class _Run:
    """One stage of one mail.

    The calls are made one after the other in a thread of their own, while the caller's thread waits. When a call
    overruns, the waiting thread settles it as failed, leaves that thread behind, and has the rest made in another.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: Plan,
        envelope: Envelope,
        message: Message | None,
        ends_at: float,
        findings: dict[str, Any],
        one_copy: bool,
    ) -> None:
        self._one_copy = one_copy
        self._pipeline, self._plan, self._envelope, self._message = pipeline, plan, envelope, message
        self._ends_at, self._findings = ends_at, findings
        self._clock = pipeline.clock
        self._recipients = {recipient: _Recipient() for recipient in envelope.recipients}
        self._views: dict[tuple[Edit, ...], Message | None] = {(): message}
        self.records: list[CallRecord] = []
        self._lock = threading.Lock()
        self._pieces = self._plan_pieces()
        self._current: _Piece | None = None
        self._overruns_at = 0.0  # of time.monotonic(): what hangs does not care for the pipeline's clock
        self._thread = 0  # the number of the thread that makes the calls now

    def make_calls(self, threads: CallThreads) -> None:
        while True:
            self._thread += 1
            self._overruns_at = time.monotonic() + FIRST_PIECE
            try:
                if threads.run(functools.partial(self._make_in_order, self._thread), lambda: self._overruns_at):
                    return
            except TooManyLeftBehind as error:
                for piece in self._pieces:
                    self._settle(piece, HandlerFailed(FailureKind.STARVED, str(error)))
                return
            with self._lock:
                self._thread += 1  # what comes back now is late
                if self._current is not None:
                    seconds = self._current.seconds
                    self._settle(self._current, HandlerFailed(FailureKind.TIMEOUT, f"no answer after {seconds:.1f} s"))
                    self._current = None

    def _make_in_order(self, thread: int) -> None:
        while True:
            with self._lock:
                if thread != self._thread:
                    return
                self._current = piece = next(self._pieces, None)
                if piece is None:
                    return
                self._overruns_at = time.monotonic() + max(0.0, piece.seconds) + GRACE
            answer: Verdict | HandlerFailed
            try:
                answer = self._pipeline.answer(piece, self._plan.stage, self._findings)
            except HandlerFailed as failure:
                answer = failure
            with self._lock:
                if thread != self._thread:
                    return  # it was settled without us
                self._settle(piece, answer)
                self._current = None

    def _plan_pieces(self) -> Iterator[_Piece]:
        """Each call once for each group of recipients whose mail is the same; once as long as nobody's mail differs.

        What a piece is depends on how the ones before it were settled: ask for the next one only then.
        """
        for call in self._plan.calls:
            groups: dict[tuple[Edit, ...], list[Address]] = {}
            for recipient in call.recipients:
                state = self._recipients[recipient]
                if state.disposition.action is Action.PASS:
                    groups.setdefault(state.edits, []).append(recipient)
            for edits, recipients in groups.items():
                now = self._clock.monotonic()
                envelope = self._envelope
                if len(recipients) != len(self._recipients):
                    envelope = envelope.with_recipients(recipients)
                yield _Piece(call, envelope, self._view(edits), min(call.timeout, self._ends_at - now), now)

    def outcome(self) -> Outcome:
        going_on = {each: state for each, state in self._recipients.items() if state.disposition.action is Action.PASS}
        return Outcome(
            dispositions={each: state.disposition for each, state in self._recipients.items()},
            edits={each: state.edits for each, state in going_on.items()},
            messages={each: self._view(state.edits) for each, state in going_on.items()},
            findings=self._findings,
        )

    def _view(self, edits: tuple[Edit, ...]) -> Message | None:
        if edits not in self._views:
            assert self._message is not None
            self._views[edits] = self._message.with_edits(edits)
        return self._views[edits]

    def _settle(self, piece: _Piece, answer: Verdict | HandlerFailed) -> None:
        call, error, consequence = piece.call, "", ""
        if isinstance(answer, HandlerFailed):
            verdict = _VERDICT_ON_ERROR[call.on_error](f"{call.name} failed ({answer.kind}): {answer}")
            error, consequence = str(answer.kind), str(call.on_error)
            self._pipeline.account(call, answer)
        else:
            verdict = answer
            self._pipeline.account(call, None)
        shadow = call.registration.mode is Mode.SHADOW
        seconds = self._clock.monotonic() - piece.started
        for own, answered in _by_verdict(verdict, piece.envelope.recipients):
            record = CallRecord(
                handler=call.name,
                stage=self._plan.stage,
                verdict=own,
                seconds=seconds,
                registration=call.registration,
                generation=self._plan.generation,
                recipients=answered,
                shadow=shadow,
                error=error,
                consequence=consequence,
            )
            self.records.append(record)
            self._pipeline.report_call(record, piece.envelope)
            if not shadow:
                self._take(call.registration, answered, own)
        if verdict.finding is not None and not shadow:
            self._findings[call.registration.handler] = verdict.finding

    def _take(self, registration: Registration, recipients: tuple[Address, ...], verdict: Verdict) -> None:
        if verdict.action.goes_on:
            if verdict.edits:
                combined = self._recipients[recipients[0]].edits + verdict.edits  # all of a group have the same
                for recipient in self._recipients if self._one_copy else recipients:
                    self._recipients[recipient].edits = combined
            return
        disposition = Disposition(verdict.action, verdict.reply, verdict.reason, registration.handler, verdict.category)
        for recipient in recipients:
            self._recipients[recipient].disposition = disposition


_NOT_MADE = frozenset(
    {FailureKind.ABSENT, FailureKind.SETTINGS, FailureKind.BREAKER, FailureKind.STARVED, FailureKind.LIMIT}
)
"""Failures that say nothing about the handler's back-end."""

_VERDICT_ON_ERROR: Mapping[OnError, Callable[[str], Verdict]] = {
    OnError.DEFER: deferred,
    OnError.REJECT: rejected,
    OnError.SKIP: skipped,
    OnError.QUARANTINE: quarantined,
}


def _wrong_recipients(verdict: Verdict, envelope: Envelope) -> str:
    """What is wrong with answers for single recipients, if anything."""
    for recipient, own in verdict.for_recipients.items():
        if recipient not in envelope.recipients:
            return f"answered for {recipient}, whom it was not asked about"
        if not isinstance(own, Verdict) or own.for_recipients or own.finding is not None:
            return f"its answer for {recipient} is no Verdict of one recipient"
    return ""


def _checked(verdict: Verdict, stage: Stage, log: Logger) -> Verdict:
    if problem := check_edits(verdict.edits, stage):
        raise HandlerFailed(FailureKind.ANSWER, problem)
    if verdict.edits and verdict.action is not Action.PASS:
        log.warning("edits are made with PASS alone; these are left out", verdict=str(verdict.action))
        return dataclasses.replace(verdict, edits=())
    return verdict


def _by_verdict(verdict: Verdict, recipients: tuple[Address, ...]) -> list[tuple[Verdict, tuple[Address, ...]]]:
    """The recipients that have the same answer, together; nearly always one group of all."""
    if not verdict.for_recipients:
        return [(verdict, recipients)]
    common = dataclasses.replace(verdict, for_recipients={})
    groups: list[tuple[Verdict, list[Address]]] = []
    for recipient in recipients:
        own = verdict.for_recipients.get(recipient, common)
        for known, members in groups:
            if known == own:
                members.append(recipient)
                break
        else:
            groups.append((own, [recipient]))
    return [(own, tuple(members)) for own, members in groups]


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except Exception as error:
        raise PipelineUnavailable(f"the registry cannot be asked: {type(error).__name__}: {error}") from error


def _demand_of(kinds: Kinds, handlers: Handlers) -> Demand:
    needs: dict[Stage, Need] = {}
    for name, stage, executable in kinds:
        handler = None if executable else handlers.get(name)
        need = Need.BODY if executable else handler.info.needs if handler else Need.ENVELOPE
        if stage is Stage.BEFORE_DATA:
            need = Need.ENVELOPE
        needs[stage] = max(need, needs.get(stage, Need.ENVELOPE), key=_ORDER.index)
    return Demand(needs)


def _bound(log: Logger, call: Call, stage: Stage, envelope: Envelope) -> Logger:
    bind = getattr(log, "bind", None)
    if bind is None:
        return log
    bound: Logger = bind(queue_id=envelope.queue_id, stage=str(stage), handler=call.name)
    return bound


def _trace(error: BaseException) -> str:
    return " | ".join(line.strip() for line in traceback.format_exception(error)[-3:])
