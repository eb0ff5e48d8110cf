"""From the outcomes of the stages to one answer for the mail, with the modifications that go with it.

A milter can give one answer for all recipients: DEFER over REJECT over the rest. Recipients that end with STOP or
QUARANTINE while others go on are removed from the mail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from postroom.authentication_results import NAME, format_value, without_forged
from postroom.fronts.conclusion import OutOfTime, StageRun
from postroom.fronts.conclusion import join as join
from postroom.fronts.milter.answers import (
    CONTINUE,
    DISCARD,
    AddHeader,
    AddTo,
    Answer,
    Hold,
    InsertHeader,
    Operation,
    RemoveFrom,
    SetBody,
    SetSender,
    Verb,
    Work,
    clean_line,
    needed_action,
    refusal,
)
from postroom.fronts.milter.edits import REST, operations, same_body, to_wire
from postroom.fronts.milter.negotiation import Terms
from postroom.fronts.milter.transaction import Transaction
from postroom.mail import Address, Edit, Field, Message, header_value
from postroom.registration import Stage
from postroom.services.mark import seen_stages, without_marks
from postroom.verdict import DEFER_REPLY, REJECT_REPLY, Action, Disposition, Outcome

QUARANTINE_FIELD = b"X-Postroom-Quarantine"
"""Why the mail server holds this mail, and for whom: Postfix forgets the reason that it is given."""

MAX_REASON = 400

_BUSY = Answer(Verb.REFUSE, "451", "4.3.2", ("Service busy - try again later",))
_CANNOT = Answer(Verb.REFUSE, "451", "4.3.5", ("Service unavailable - try again later",))


def refuse_strictest(outcome: Outcome) -> Answer | None:
    """The refusal for all, when any recipient is deferred or rejected."""
    strictest = outcome.strictest()
    match strictest.action:
        case Action.DEFER:
            return refusal(Action.DEFER, strictest.reply or DEFER_REPLY)
        case Action.REJECT:
            return refusal(Action.REJECT, strictest.reply or REJECT_REPLY)
        case _:
            return None


@dataclass(kw_only=True)
class Conclusion(StageRun):
    """One mail's stages at a milter."""

    mail: Transaction
    terms: Terms
    work: Work
    is_ours: Callable[[Address, bytes], bool]

    def __post_init__(self) -> None:
        self.fates = self.mail
        remaining = self.remaining
        self.remaining = lambda: 0.0 if self.work.abandoned else remaining()

    def before_data(self) -> Answer | None:
        """None: the mail may come."""
        owed = [recipient for recipient in self.mail.recipients if not recipient.checked]
        addresses = tuple(dict.fromkeys(recipient.address for recipient in owed))
        try:
            outcome = self.run(Stage.BEFORE_DATA, addresses, None)
        except OutOfTime:
            return _BUSY
        if outcome and (answer := refuse_strictest(outcome)):
            return answer
        if outcome:
            join(self.mail, outcome)
        for recipient in owed:
            recipient.checked = True
        return None if self.mail.remaining() or self.mail.held else DISCARD

    def end_of_message(self) -> Answer:
        original = self.mail.message()
        ours = self.pipeline.config.authserv_id
        trusted = Message(without_forged(original.fields, ours), original.body)
        seen = seen_stages(self.pipeline.config.paths.state, trusted, self.envelope, self.pipeline.clock.now())
        message = self.released(trusted, self.mail.remaining())
        if Stage.BEFORE_LOCAL not in seen:  # else local delivery wants to see the mark, too
            message = without_marks(message)
        if answer := self.before_data():
            return answer
        try:
            answer = self._handle(original, message, seen)
        except OutOfTime:
            return _BUSY
        if answer.verb is not Verb.REFUSE:
            self.arrived()
        return answer

    def _handle(self, original: Message, message: Message, seen: Collection[Stage]) -> Answer:
        """Without the stages that have seen the mail before, which one of our own handlers has sent."""
        edited = message
        for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE):
            if stage in seen:
                continue
            recipients = self.mail.remaining() if stage is Stage.BEFORE_QUEUE else self._remote()
            outcome = self.run(stage, recipients, edited)
            if outcome is None:
                continue
            if answer := refuse_strictest(outcome):
                return answer
            edited = self.take(outcome, edited)
        return self._answer(original, edited, self.edits)

    def _remote(self) -> tuple[Address, ...]:
        mailers = {recipient.address: recipient.mailer for recipient in self.mail.recipients}
        going = dict.fromkeys((*self.mail.remaining(), *self.added))
        return tuple(
            address
            for address in going
            if address not in self.removed and not self.is_ours(address, mailers.get(address, b""))
        )

    # The answer

    def _answer(self, original: Message, edited: Message, edits: Sequence[Edit]) -> Answer:
        mail = self.mail
        remaining = tuple(address for address in mail.remaining() if address not in self.removed)
        if mail.held and not self._stored(edited):
            return self._held_by_mail_server(original, edited, edits)
        if not remaining and not self.added:
            return DISCARD
        gone = (*mail.stopped, *mail.held, *self.removed)
        return self._permitted([*self._content(original, edited, edits), *self._envelope_operations(gone)])

    def _stored(self, message: Message) -> bool:
        """Whether our own quarantine has the mail; it cannot, without having seen all of it."""
        if self.quarantine is None or not (self.terms.headers and self.terms.body):
            return False
        try:
            self.quarantine.hold(self.envelope.with_recipients(self.mail.held), message, self.mail.held)
        except OSError as error:
            self.log.error("quarantine failed", queue_id=self.envelope.queue_id, error=str(error))
            return False
        return True

    def _held_by_mail_server(self, original: Message, edited: Message, edits: Sequence[Edit]) -> Answer:
        """The whole mail into the hold queue, whoever else it is for: nothing is lost, and the mail says why."""
        changes = self._content(original, edited, edits)
        insertions = [
            InsertHeader(0, QUARANTINE_FIELD, to_wire(_quarantine_value(address, held), self.terms.leading_space))
            for address, held in _by_reason(self.mail.held)
        ]
        reason = next(iter(self.mail.held.values())).reason
        gone = (*self.mail.stopped, *self.removed)
        return self._permitted(
            [*changes, *insertions, *self._envelope_operations(gone), Hold(clean_line(reason) or b"quarantine")]
        )

    def _content(self, original: Message, edited: Message, edits: Sequence[Edit]) -> list[Operation]:
        spaced = self.terms.leading_space
        if self.terms.headers:
            made = operations(original.fields, edited.fields, leading_space=spaced)
            made = _results_on_top(made)
        else:
            shown = Message((REST,)).with_edits(edits)
            made = operations((REST,), self._with_own_results(shown).fields, leading_space=spaced)
        if not same_body(original.body, edited.body):
            made.append(SetBody(edited.body))
        return made

    def _with_own_results(self, message: Message) -> Message:
        if not self.results:
            return message
        value = format_value(self.pipeline.config.authserv_id, self.results)
        return Message((Field(NAME, value), *message.fields), message.body)

    def _envelope_operations(self, gone: Collection[Address]) -> list[Operation]:
        made: list[Operation] = []
        if self.sender is not None and self.sender != self.mail.sender:
            made.append(SetSender(_octets(self.sender)))
        made += [AddTo(_octets(address)) for address in self.added]
        given: dict[Address, list[bytes]] = {}
        for recipient in self.mail.recipients:
            given.setdefault(recipient.address, []).append(recipient.raw)
        for address in dict.fromkeys(gone):
            spellings = dict.fromkeys(given.get(address, ()))
            if any(raw.strip(b" <>") != _octets(address) for raw in spellings):
                # Postfix finds it by the words that came, which it does not always keep, or by what it made of them.
                spellings[b"<%b>" % _octets(address)] = None
            made += [RemoveFrom(raw) for raw in spellings]
        return made

    def _permitted(self, made: Sequence[Operation]) -> Answer:
        """The mail goes on with these operations; not at all when the mail server cannot make one of them."""
        for operation in made:
            if not needed_action(operation) & self.terms.actions:
                self.log.error(
                    "the mail server does not offer what a handler asks for",
                    queue_id=self.envelope.queue_id,
                    operation=type(operation).__name__,
                )
                return _CANNOT
        return Answer(Verb.CONTINUE, operations=tuple(made)) if made else CONTINUE


def _octets(address: Address) -> bytes:
    return address.text.encode("utf-8", "surrogateescape")


def _results_on_top(made: list[Operation]) -> list[Operation]:
    """In a mail that came without a header every new field is added at the end, but not this one."""
    return [
        InsertHeader(0, operation.name, operation.value)
        if isinstance(operation, AddHeader) and operation.name == NAME
        else operation
        for operation in made
    ]


def _by_reason(held: Mapping[Address, Disposition]) -> list[tuple[str, Disposition]]:
    """One entry for each reason, with the addresses that it is for."""
    grouped: dict[tuple[str, str], tuple[list[str], Disposition]] = {}
    for address, disposition in held.items():
        key = (disposition.handler, disposition.reason)
        grouped.setdefault(key, ([], disposition))[0].append(str(address))
    return [(", ".join(addresses), disposition) for addresses, disposition in grouped.values()]


def _quarantine_value(addresses: str, disposition: Disposition) -> bytes:
    text = f"handler={disposition.handler or 'unknown'}; for={addresses}"
    return header_value(f"{text[:MAX_REASON]}; reason={disposition.reason[:MAX_REASON]}")
