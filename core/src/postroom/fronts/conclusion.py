"""One mail's way through stages whose answer is for the whole mail: what of it every such front has in common.

Recipients that end with STOP or QUARANTINE while others go on are out; DEFER and REJECT are for the front to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from postroom.authentication_results import NAME, claims, format_value
from postroom.hookspecs import Logger
from postroom.mail import (
    AddRecipient,
    Address,
    AuthenticationResult,
    Edit,
    Envelope,
    Field,
    Message,
    RemoveRecipient,
    ReplaceSender,
)
from postroom.pipeline import Pipeline
from postroom.quarantine import Quarantine, Release, without_release_mark
from postroom.registration import Selection, Stage
from postroom.verdict import Action, Disposition, Outcome


class OutOfTime(Exception):
    """Nobody waits for the answer any more, or the time of the stages is used up."""


class Fates(Protocol):
    """Whom the mail is not for any more, and what handlers found out; kept from one stage to the next."""

    stopped: dict[Address, Disposition]
    held: dict[Address, Disposition]
    findings: dict[str, object]


@dataclass
class OneMail:
    """The fates of a mail for which a front keeps nothing else."""

    stopped: dict[Address, Disposition] = field(default_factory=dict)
    held: dict[Address, Disposition] = field(default_factory=dict)
    findings: dict[str, object] = field(default_factory=dict)


def join(fates: Fates, outcome: Outcome) -> None:
    """Note who is out, and what handlers left on the mail."""
    fates.findings.update(outcome.findings)
    for recipient, disposition in outcome.dispositions.items():
        if disposition.action is Action.STOP:
            fates.stopped[recipient] = disposition
        elif disposition.action is Action.QUARANTINE:
            fates.held[recipient] = disposition


@dataclass(kw_only=True)
class StageRun:
    """Runs stages one after the other, in a worker thread, and keeps what handlers asked for.

    `edits` are all that were asked for, `sender`, `added` and `removed` what they make of the envelope.
    """

    pipeline: Pipeline
    log: Logger
    quarantine: Quarantine | None
    envelope: Envelope
    selection: Selection
    remaining: Callable[[], float]
    fates: Fates = field(default_factory=OneMail)
    edits: list[Edit] = field(default_factory=list)
    results: list[AuthenticationResult] = field(default_factory=list)
    sender: Address | None = None
    added: dict[Address, None] = field(default_factory=dict)
    removed: dict[Address, None] = field(default_factory=dict)
    releases: dict[Address, Release] = field(default_factory=dict)

    def run(self, stage: Stage, recipients: tuple[Address, ...], message: Message | None) -> Outcome | None:
        """None: nothing to do at this stage. OutOfTime when it is too late for it."""
        if not recipients or not any(registration.stage is stage for registration in self.selection.registrations):
            return None
        time_limit = self.remaining()
        if time_limit <= 0:
            self.log.warning("no time left for a stage", queue_id=self.envelope.queue_id, stage=str(stage))
            raise OutOfTime
        envelope = self.envelope.with_recipients(recipients)
        return self.pipeline.run(
            self.selection,
            stage,
            envelope,
            message,
            time_limit=time_limit,
            findings=self.fates.findings,
            one_copy=True,
        )

    def take(self, outcome: Outcome, message: Message) -> Message:
        """The mail as the handlers of one stage want it."""
        join(self.fates, outcome)
        asked = outcome.merged_edits()
        self.edits.extend(asked)
        self._take_envelope_edits(asked)
        return self.with_results(message.with_edits(asked), asked)

    def released(self, message: Message, recipients: Sequence[Address]) -> Message:
        """A mail that was released from quarantine passes whoever held it, and loses its permit here."""
        if self.quarantine is None or not message.fields:
            return message
        for address in recipients:
            if found := self.quarantine.released(message, Stage.BEFORE_QUEUE, address):
                self.releases[address] = found
        if len(self.releases) < len(recipients):  # never let it pass for somebody it was not released for
            self.releases.clear()
            return message
        if self.releases:
            self.without(frozenset.intersection(*(release.handlers for release in self.releases.values())))
        return without_release_mark(message)

    def without(self, handlers: frozenset[str]) -> None:
        """Those handlers have had their say about this mail."""
        kept = tuple(each for each in self.selection.registrations if each.handler not in handlers)
        self.selection = Selection(self.selection.generation, kept)

    def arrived(self) -> None:
        """The permits of a released mail are used up."""
        for address, release in self.releases.items():
            assert self.quarantine is not None
            self.quarantine.arrived(release, address)

    def with_results(self, message: Message, edits: Sequence[Edit]) -> Message:
        """The mail with all results so far in one field on top."""
        new = [edit for edit in edits if isinstance(edit, AuthenticationResult)]
        if not new:
            return message
        self.results += new
        ours = self.pipeline.config.authserv_id
        rest = tuple(found for found in message.fields if not _is_ours_result(found, ours))
        return Message((Field(NAME, format_value(ours, self.results)), *rest), message.body)

    def _take_envelope_edits(self, edits: Iterable[Edit]) -> None:
        for edit in edits:
            match edit:
                case ReplaceSender(sender):
                    self.sender = sender
                    self.envelope = replace(self.envelope, sender=sender)
                case AddRecipient(recipient):
                    self.added[recipient] = None
                    self.removed.pop(recipient, None)
                case RemoveRecipient(recipient):
                    self.removed[recipient] = None
                    self.added.pop(recipient, None)
                case _:
                    pass


def _is_ours_result(found: Field, ours: str) -> bool:
    return found.origin < 0 and found.name == NAME and claims(found.value, ours)
