"""What is told of calls and mails: log lines for people, records for observers."""

from __future__ import annotations

from typing import Any

from postroom.hookspecs import CallRecord, Logger, MailRecord
from postroom.mail import Envelope
from postroom.plan import Plan
from postroom.plugins import Handlers
from postroom.verdict import Outcome

LOGGED_RECIPIENTS = 3


class Reporter:
    def __init__(self, handlers: Handlers, log: Logger) -> None:
        self._observers, self._log = handlers.observers, log

    def call(self, record: CallRecord, envelope: Envelope) -> None:
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

    def mail(self, plan: Plan, envelope: Envelope, outcome: Outcome, records: tuple[CallRecord, ...]) -> None:
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
        if self._observers:
            self._notify("after_mail", MailRecord(plan.stage, envelope, outcome, records))

    def _notify(self, name: str, record: object) -> None:
        for observer in self._observers:
            if hook := observer.hooks.get(name):
                try:
                    hook(record=record)
                except Exception as error:  # noqa: BLE001  # an observer changes nothing, whatever it raises
                    self._log.error("observer failed", observer=observer.name, error=f"{type(error).__name__}: {error}")
