"""One call of one handler: the verdict that it gave, checked, or the failure that it was."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postroom.breaker import Breaker
from postroom.edit_rules import check_edits
from postroom.executable import run_program
from postroom.failure import FailureKind, HandlerFailed
from postroom.hookspecs import STAGE_HOOKS, Logger, Unavailable
from postroom.mail import Envelope, Message
from postroom.plan import Call
from postroom.registration import Stage
from postroom.services.lend import Lender
from postroom.verdict import Action, Verdict

_NOT_MADE = frozenset(
    {FailureKind.ABSENT, FailureKind.SETTINGS, FailureKind.BREAKER, FailureKind.STARVED, FailureKind.LIMIT}
)
"""Failures that say nothing about the handler's back-end."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A call for those of its recipients that see the same mail; `seconds` are left for it."""

    call: Call
    envelope: Envelope
    message: Message | None
    seconds: float
    started: float  # of the pipeline's clock


class Caller:
    """Makes the calls of a worker process; the breaker is theirs together."""

    def __init__(self, lender: Lender, log: Logger, broken: Mapping[str, str]) -> None:
        """`broken`: why a handler cannot be called at all, by its name; read anew with each call."""
        self._lender, self._log, self._broken = lender, log, broken
        self._breaker = Breaker(lender.clock)

    def answer(self, piece: Piece, stage: Stage, findings: Any) -> Verdict:
        """The handler's verdict, or HandlerFailed. Runs in a thread that is left behind when it takes too long."""
        call = piece.call
        if problem := call.problem or self._broken.get(call.name, ""):
            raise HandlerFailed(FailureKind.ABSENT if call.handler is None else FailureKind.SETTINGS, problem)
        if piece.seconds <= 0:
            raise HandlerFailed(FailureKind.STARVED, "earlier handlers have used up the time of this stage")
        if not self._breaker.allows(call.circuit):
            raise HandlerFailed(FailureKind.BREAKER, "failed too often just now; it is left alone for a while")
        return self._invoke(call, stage, piece.envelope, piece.message, piece.seconds, findings)

    def account(self, call: Call, failure: HandlerFailed | None) -> None:
        """Tell the breaker how a call ended that was really made."""
        if failure is None or failure.kind is FailureKind.DECLINED:
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
        except Unavailable as error:
            kind = FailureKind.DECLINED if error.of_this_mail else FailureKind.UNAVAILABLE
            raise HandlerFailed(kind, str(error)) from None
        except BaseException as error:  # noqa: BLE001  # a plugin may raise anything, SystemExit too
            log.error("handler raised", error=f"{type(error).__name__}: {error}", trace=_trace(error))
            raise HandlerFailed(FailureKind.EXCEPTION, f"{type(error).__name__}: {error}") from None
        if not isinstance(verdict, Verdict):
            raise HandlerFailed(FailureKind.ANSWER, f"answered {type(verdict).__name__}, not a Verdict")
        if problem := _wrong_recipients(verdict, envelope):
            raise HandlerFailed(FailureKind.ANSWER, problem)
        one_by_one = {each: _checked(own, stage, log) for each, own in verdict.for_recipients.items()}
        return dataclasses.replace(_checked(verdict, stage, log), for_recipients=one_by_one)


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


def _bound(log: Logger, call: Call, stage: Stage, envelope: Envelope) -> Logger:
    bind = getattr(log, "bind", None)
    if bind is None:
        return log
    bound: Logger = bind(queue_id=envelope.queue_id, stage=str(stage), handler=call.name)
    return bound


def _trace(error: BaseException) -> str:
    return " | ".join(line.strip() for line in traceback.format_exception(error)[-3:])
