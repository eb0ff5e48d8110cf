"""One stage of one mail: its calls in order, and what they come to for each recipient."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from postroom.call_threads import CallThreads, TooManyLeftBehind
from postroom.failure import FailureKind, HandlerFailed
from postroom.hookspecs import CallRecord, Clock
from postroom.mail import Address, Edit, Envelope, Message
from postroom.pipeline.calling import Caller, Piece
from postroom.pipeline.reporting import Reporter
from postroom.plan import Plan
from postroom.registration import Mode, OnError, Registration
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

GRACE = 0.25
"""Seconds past its deadline that a call gets to come back by itself, before its thread is left behind."""

FIRST_PIECE = 30.0
"""Seconds for the first call to be worked out; far more than it takes."""

_VERDICT_ON_ERROR: Mapping[OnError, Callable[[str], Verdict]] = {
    OnError.DEFER: deferred,
    OnError.REJECT: rejected,
    OnError.SKIP: skipped,
    OnError.QUARANTINE: quarantined,
}


@dataclass
class _Recipient:
    """One recipient on its way through a plan."""

    disposition: Disposition = GOES_ON
    edits: tuple[Edit, ...] = ()


class Chain:
    """One stage of one mail.

    The calls are made one after the other in a thread of their own, while the caller's thread waits. When a call
    overruns, the waiting thread settles it as failed, leaves that thread behind, and has the rest made in another.
    """

    def __init__(
        self,
        plan: Plan,
        envelope: Envelope,
        message: Message | None,
        *,
        ends_at: float,
        findings: dict[str, Any],
        one_copy: bool,
        caller: Caller,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        """`ends_at`: of the clock's monotonic time; `one_copy`: as `Pipeline.run` has it."""
        self._plan, self._envelope, self._message = plan, envelope, message
        self._ends_at, self._findings, self._one_copy = ends_at, findings, one_copy
        self._caller, self._reporter, self._clock = caller, reporter, clock
        self._recipients = {recipient: _Recipient() for recipient in envelope.recipients}
        self._views: dict[tuple[Edit, ...], Message | None] = {(): message}
        self.records: list[CallRecord] = []
        self._lock = threading.Lock()
        self._pieces = self._plan_pieces()
        self._current: Piece | None = None
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
                answer = self._caller.answer(piece, self._plan.stage, self._findings)
            except HandlerFailed as failure:
                answer = failure
            with self._lock:
                if thread != self._thread:
                    return  # it was settled without us
                self._settle(piece, answer)
                self._current = None

    def _plan_pieces(self) -> Iterator[Piece]:
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
                yield Piece(call, envelope, self._view(edits), min(call.timeout, self._ends_at - now), now)

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

    def _settle(self, piece: Piece, answer: Verdict | HandlerFailed) -> None:
        call, error, consequence = piece.call, "", ""
        if isinstance(answer, HandlerFailed):
            verdict = _VERDICT_ON_ERROR[call.on_error](f"{call.name} failed ({answer.kind}): {answer}")
            error, consequence = str(answer.kind), str(call.on_error)
            self._caller.account(call, answer)
        else:
            verdict = answer
            self._caller.account(call, None)
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
            self._reporter.call(record, piece.envelope)
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
