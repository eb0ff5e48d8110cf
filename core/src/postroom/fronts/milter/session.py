"""The state machine of one SMTP session, as the mail server tells it over the milter protocol.

Events in, answers out; it knows no socket and no library. What may wait is returned as `Work`, which the engine runs
in a thread of its own; the next event comes only after its answer.

A mail's way: `mail`, `rcpt`…, `data` (before-data), `header`…, `body`…, `end_of_message` (before-queue, then
before-remote for recipients that are not ours), `abort`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from postroom.authentication_results import without_forged
from postroom.config import BeforeData
from postroom.fronts.milter.answers import CONTINUE, Answer, Result, Verb, Work
from postroom.fronts.milter.client_facts import ClientFacts
from postroom.fronts.milter.conclusion import Conclusion, join, refuse_strictest
from postroom.fronts.milter.negotiation import Terms, agree
from postroom.fronts.milter.transaction import TOO_MANY_RECIPIENTS, Recipient, Transaction
from postroom.fronts.milter.wire import Command, Negotiation
from postroom.fronts.traffic import traffic_class
from postroom.hookspecs import Logger, Need
from postroom.mail import Address, Envelope, TrafficClass
from postroom.pipeline import Demand, Pipeline, PipelineUnavailable
from postroom.quarantine import Quarantine
from postroom.registration import Selection, Stage
from postroom.services.mark import is_mark

STAGES = (Stage.BEFORE_DATA, Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE)
"""The stages that a milter can serve."""

TEMPORARY = Answer(Verb.REFUSE, "451", "4.3.0", ("Service unavailable - try again later",))
"""For a failure of our own; the reference's words."""

RECONNECT = Answer(Verb.REFUSE, "421", "4.3.2", ("Service configuration changed - try again later",))
"""Closes the SMTP session: the next one negotiates what is needed now (docs/decisions/milter-live-changes.md)."""

_NOTHING = Selection(0)
_REMOTE_MAILERS = (b"smtp", b"relay", b"esmtp")
_HEADER_OR_BODY = (Need.HEADERS, Need.BODY)

T = TypeVar("T")


class OutOfOrder(Exception):
    """An event at a place where the protocol has none: close the connection."""


class Session:
    """Give `inline=False` where the thread that brings events may not ask the registry itself."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Logger,
        *,
        inline: bool | None = None,
        quarantine: Quarantine | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._log, self._monotonic = pipeline, log, monotonic
        self.inline = pipeline.registry_is_local if inline is None else inline
        self._config = pipeline.config
        self._settings = pipeline.config.milter
        self._quarantine = quarantine
        self._facts = ClientFacts()
        self._mail_macros: dict[bytes, bytes] = {}
        self._mail: Transaction | None = None
        self.terms: Terms | None = None

    @property
    def mail_in_hand(self) -> bool:
        return self._mail is not None

    @property
    def submitted_locally(self) -> bool:
        return self._facts.submitted_locally

    # Connection

    def negotiate(self, offer: Negotiation) -> Negotiation | Work:
        def settle(_: Work | None = None) -> Negotiation:
            try:
                demand, prospect = self._pipeline.demand(), self._pipeline.prospect()
            except PipelineUnavailable as error:
                # the mails themselves will be answered *temporary*
                self._log.error("registry unavailable", error=str(error))
                demand = prospect = Demand()
            self.terms = agree(offer, demand, prospect, self._settings.before_data)
            return self.terms.answer

        return settle() if self.inline else Work(settle)

    def macros(self, command: int, macros: Mapping[bytes, bytes]) -> None:
        """Values that hold for the command that follows; those of CONNECT and HELO for the whole session."""
        if command in (Command.CONNECT, Command.HELO):
            self._facts.macros.update(macros)
        elif command == Command.MAIL:
            self._mail_macros = dict(macros)
        elif command == Command.RCPT:
            self._mail_macros.pop(b"{rcpt_mailer}", None)
            self._mail_macros.pop(b"{rcpt_addr}", None)
            self._mail_macros.update(macros)
        else:
            self._mail_macros.update(macros)

    def connect(self, name: bytes, port: int, address: bytes) -> Result:
        self._facts.connected(name, port, address)
        return CONTINUE if self._terms().answers_connect else None

    def helo(self, name: bytes) -> Result:
        """Again for each EHLO, also in mid-transaction."""
        self._facts.greeted(name)
        return CONTINUE if self._terms().answers_helo else None

    def unknown(self) -> Result:
        return CONTINUE if self._terms().answers_unknown else None

    def abort(self) -> None:
        """The mail is over: refused, given up, or accepted."""
        self._mail = None
        self._mail_macros = {}

    def next_client(self) -> None:
        """Another SMTP session follows on the same connection."""
        self.abort()
        self._facts = ClientFacts()

    # Envelope

    def mail(self, arguments: list[bytes]) -> Result:
        self._mail = Transaction(arguments, self._settings, self._mail_macros.get(b"{mail_addr}", b""))
        return CONTINUE if self._terms().answers_mail else None

    def rcpt(self, arguments: list[bytes]) -> Result:
        """Also after a refused DATA: Postfix keeps the transaction open then."""
        mail, answers = self._transaction(), self._terms().answers_rcpt
        if not arguments:
            raise OutOfOrder("RCPT without an address")
        mailer = self._mail_macros.get(b"{rcpt_mailer}", b"")
        if mailer == b"error":  # refused by the mail server, and only told
            return CONTINUE if answers else None
        recipient = mail.add_recipient(arguments[0], mailer, self._mail_macros.get(b"{rcpt_addr}", b""))
        if recipient is None:
            if answers:
                return TOO_MANY_RECIPIENTS
            mail.refusal = mail.refusal or TOO_MANY_RECIPIENTS
            return None
        if not answers:
            return None
        if self._settings.before_data is not BeforeData.RCPT or self._facts.submitted_locally:
            return CONTINUE  # Postfix retries a local submission for ever when a recipient is refused
        return self._decide(mail, lambda work: self._check_recipient(mail, recipient, work))

    def _check_recipient(self, mail: Transaction, recipient: Recipient, work: Work | None) -> Answer | None:
        envelope = self._envelope(mail, (recipient,))
        demand = self._pipeline.demand()
        if not demand.wants(Stage.BEFORE_DATA):
            return CONTINUE
        selection = self._pipeline.select(envelope, (Stage.BEFORE_DATA,))
        if not selection.registrations:
            recipient.checked = True
            return CONTINUE
        if work is None:
            return None
        outcome = self._pipeline.run(
            selection, Stage.BEFORE_DATA, envelope, None, time_limit=float(self._settings.stage_timeout)
        )
        recipient.checked = True
        answer = refuse_strictest(outcome)
        if answer is None:
            join(mail, outcome)
            return CONTINUE
        mail.recipients.remove(recipient)
        return answer

    def data(self) -> Result:
        """Again after a refused one, perhaps with more recipients: then all are asked again."""
        mail = self._transaction()
        mail.data_seen = True
        if not self._terms().answers_data:
            return None
        if mail.refusal:
            return mail.refusal
        if self._settings.before_data is BeforeData.RCPT:
            return CONTINUE  # answered at RCPT, or at end of message
        mail.selection = None
        mail.stopped.clear()
        mail.held.clear()
        return self._decide(mail, lambda work: self._check_envelope(mail, work))

    def _check_envelope(self, mail: Transaction, work: Work | None) -> Answer | None:
        selection = mail.selection or self._select(mail)
        if self._must_reconnect(selection):
            return RECONNECT
        if not _acts(selection, Stage.BEFORE_DATA):
            return CONTINUE
        if work is None:
            return None
        deadline = self._monotonic() + float(self._settings.stage_timeout)
        return self._conclusion(mail, selection, work, deadline).before_data() or CONTINUE

    # Content

    def header(self, name: bytes, value: bytes) -> Result:
        terms = self._terms()
        if terms.headers:
            self._transaction().add_field(name, value, terms.leading_space)
        return CONTINUE if terms.answers_headers else None

    def end_of_header(self) -> Result:
        return CONTINUE if self._terms().answers_end_of_header else None

    def body(self, chunk: bytes) -> Result:
        terms = self._terms()
        if terms.body:
            self._transaction().add_body(chunk)
        return CONTINUE if terms.answers_body else None

    def end_of_message(self) -> Result:
        mail = self._transaction()
        mail.end_body()
        if mail.refusal:
            self._log.info(
                "mail refused by a limit", queue_id=self._queue_id(mail), reply=mail.refusal.reply_text().decode()
            )
            return mail.refusal
        return self._decide(mail, lambda work: self._finish(mail, work))

    def _finish(self, mail: Transaction, work: Work | None) -> Answer | None:
        """None: there is something to do that may wait, and no work in which to do it."""
        selection = mail.selection or self._select(mail)
        if self._must_reconnect(selection):
            return RECONNECT
        forged = bool(mail.fields) and len(without_forged(mail.fields, self._config.authserv_id)) != len(mail.fields)
        marked = any(map(is_mark, mail.fields))
        if not (selection.registrations or forged or marked or mail.stopped or mail.held):
            return CONTINUE
        if work is None:
            return None
        deadline = self._monotonic() + float(self._settings.content_timeout)
        return self._conclusion(mail, selection, work, deadline).end_of_message()

    # What they share

    def _decide(self, mail: Transaction, decide: Callable[[Work | None], Answer | None]) -> Answer | Work:
        """At once when nothing has to wait, else as work."""

        def guarded(work: Work | None) -> Answer | None:
            try:
                return decide(work)
            except PipelineUnavailable as error:
                self._log.error("registry unavailable", queue_id=self._queue_id(mail), error=str(error))
            except Exception as error:  # noqa: BLE001  # our own fault: the mail must come again, and the log must say why
                trace = "".join(traceback.format_exception(error))
                self._log.error("milter session failed", queue_id=self._queue_id(mail), error=repr(error), trace=trace)
            return TEMPORARY

        answer = guarded(None) if self.inline else None
        return Work(lambda work: guarded(work) or TEMPORARY) if answer is None else answer

    def _select(self, mail: Transaction) -> Selection:
        """The one look-up of a mail: what is enabled now, whatever was enabled when the client connected."""
        demand = self._pipeline.demand()
        stages = [stage for stage in STAGES if demand.wants(stage)]
        if stages and mail.recipients:
            mail.selection = self._pipeline.select(self._envelope(mail, mail.recipients), stages)
        else:
            mail.selection = _NOTHING
        return mail.selection

    def _must_reconnect(self, selection: Selection) -> bool:
        """Whether something acts on this mail that has to see what this connection never asked for."""
        terms = self._terms()
        if terms.body or not selection.registrations:
            return False
        needs = self._pipeline.demand().needs
        for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE):
            need = needs.get(stage, Need.ENVELOPE)
            lacking = need is Need.BODY or (need is Need.HEADERS and not terms.headers)
            if lacking and _acts(selection, stage):
                return True
        return False

    def _conclusion(self, mail: Transaction, selection: Selection, work: Work, deadline: float) -> Conclusion:
        terms = self._terms()
        return Conclusion(
            pipeline=self._pipeline,
            log=self._log,
            quarantine=self._quarantine,
            mail=mail,
            envelope=self._envelope(mail, mail.recipients),
            selection=selection,
            terms=terms,
            work=work,
            remaining=lambda: deadline - self._monotonic(),
            is_ours=self._is_ours,
        )

    def _is_ours(self, address: Address, mailer: bytes) -> bool:
        """The directory knows. Where nobody told it, the mail server's transport is a hint: it is chosen before
        aliases are expanded, and absent for local submissions. What stays unknown counts as ours.
        """
        told = self._pipeline.directory.is_local(address)
        if told is not None:
            return told
        if mailer.decode("utf-8", "replace") in self._config.host.local_transports:
            return True
        return not mailer.lower().startswith(_REMOTE_MAILERS)

    def _envelope(self, mail: Transaction, recipients: Iterable[Recipient]) -> Envelope:
        macros = self._mail_macros
        if user := macros.get(b"{auth_authen}"):
            mail.auth_user = user.decode("utf-8", "surrogateescape")
            mail.auth_type = macros.get(b"{auth_type}", b"").decode("utf-8", "surrogateescape")
        session = self._facts.session(mail.auth_user, mail.auth_type)
        if session.client_address is None and not session.submitted_locally and not session.auth_user:
            traffic = TrafficClass.INBOUND  # a client of whom nothing is known deserves no trust
        else:
            traffic = traffic_class(session, self._config.host.networks)
        return Envelope(
            session=session,
            sender=mail.sender,
            recipients=tuple(dict.fromkeys(recipient.address for recipient in recipients)),
            queue_id=self._queue_id(mail),
            traffic=traffic,
            declared_size=mail.declared_size,
        )

    def _queue_id(self, mail: Transaction) -> str:
        """{i} is absent at MAIL and at the first RCPT."""
        if found := self._mail_macros.get(b"i"):
            mail.queue_id = found.decode("utf-8", "surrogateescape")
        return mail.queue_id

    def _transaction(self) -> Transaction:
        if self._mail is None:
            raise OutOfOrder("an event of a mail before MAIL")
        return self._mail

    def _terms(self) -> Terms:
        if self.terms is None:
            raise OutOfOrder("an event before the negotiation")
        return self.terms


def _acts(selection: Selection, stage: Stage) -> bool:
    return any(registration.stage is stage for registration in selection.registrations)
