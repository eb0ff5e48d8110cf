"""What happens to a mail at the LMTP front: for each recipient on its own, handlers, then delivery, then the reply."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from postroom.config import Config, DeliveryKind
from postroom.delivery import Delivery, Parcel
from postroom.delivery.report import DELIVERED, UNAVAILABLE, Report, from_disposition, loop
from postroom.delivery.trace import Hop, delivered_to, refusal, traced, without_pipe_trace
from postroom.fronts.conversation import Peer
from postroom.fronts.lmtp.authentication import Authentication
from postroom.fronts.lmtp.protocol import Transaction
from postroom.fronts.lmtp.targets import Targets, still_owed, targets_of
from postroom.fronts.traffic import traffic_class
from postroom.hookspecs import Clock, Logger
from postroom.mail import (
    AddRecipient,
    Address,
    Edit,
    Envelope,
    FileInto,
    Message,
    RemoveRecipient,
    ReplaceSender,
    Session,
    TrafficClass,
)
from postroom.pipeline import Pipeline
from postroom.quarantine import Quarantine, without_release_mark
from postroom.registration import Selection, Stage
from postroom.services.mark import seen_stages, without_marks
from postroom.verdict import Action, Disposition, Outcome

_WRONG_ROOT = Report("451", "4.3.5", "The mail root of the command line is not the configured one")


@dataclass(frozen=True)
class LmtpParts:
    """What one worker lends to all its sessions."""

    pipeline: Pipeline
    delivery: Delivery
    quarantine: Quarantine
    config: Config
    clock: Clock
    log: Logger


def session_factory(parts: LmtpParts) -> Callable[[Peer], LmtpSession]:
    """What the engine calls for each connection."""
    host_name = parts.config.host_name
    return lambda peer: LmtpSession(parts, peer, host_name)


class LmtpSession:
    """One connection's mails. The engine calls it in a worker thread, one call at a time."""

    def __init__(self, parts: LmtpParts, peer: Peer, host_name: str) -> None:
        self._parts, self._peer, self._host_name = parts, peer, host_name

    def check(self, transaction: Transaction, recipient: Address) -> Report | None:
        """The refusal of a recipient at RCPT, or None. Never raises."""
        try:
            root = self._root(transaction)
            if isinstance(root, Report):
                return root
            if not targets_of(recipient, self._parts.pipeline.directory).stays:
                return None  # an alias: nobody's mailbox
            return self._parts.delivery.check(recipient, root)
        except Exception as error:  # noqa: BLE001  # a directory plugin may raise anything; the mail must not be lost
            self._failed(error, transaction.forwarded.queue_id, recipient)
            return UNAVAILABLE

    def deliver(self, transaction: Transaction, message: Message, answer: Callable[[Report], bool]) -> None:
        """Answer for every recipient in order, as soon as each is known. Never raises.

        `answer` tells whether the client is still there: for whom it did not hear of, it will try again.
        """
        queue_id = transaction.forwarded.queue_id or f"L{secrets.token_hex(6).upper()}"
        for recipient in transaction.recipients:
            try:
                report = self._deliver_one(transaction, queue_id, message, recipient)
            except Exception as error:  # noqa: BLE001  # whatever went wrong, the mail must not be lost
                self._failed(error, queue_id, recipient)
                report = UNAVAILABLE
            if not answer(report):
                self._parts.log.warning("client went away before all recipients were answered for", queue_id=queue_id)
                return

    def _failed(self, error: Exception, queue_id: str, recipient: Address) -> None:
        self._parts.log.error(
            "local delivery failed",
            queue_id=queue_id,
            recipient=recipient.text,
            error=f"{type(error).__name__}: {error}",
        )

    def _root(self, transaction: Transaction) -> Path | Report | None:
        """Where this mail's Maildirs are; another root than ours is taken only from root and from our own user."""
        asked = transaction.forwarded.root
        settings = self._parts.config.delivery
        if not asked or settings.kind is not DeliveryKind.MAILDIR or Path(asked) == settings.root:
            return None
        if self._peer.uid is None or self._peer.uid not in (0, os.geteuid()) or not asked.startswith("/"):
            self._parts.log.error("mail root refused", asked=asked, configured=str(settings.root), uid=self._peer.uid)
            return _WRONG_ROOT
        return Path(asked)

    def _deliver_one(self, transaction: Transaction, queue_id: str, message: Message, recipient: Address) -> Report:
        root = self._root(transaction)
        if isinstance(root, Report):
            return root
        original = transaction.forwarded.original_recipient
        if transaction.forwarded.by_pipe:
            message, found = without_pipe_trace(message)
            original = original or found
        delivery = _OneDelivery(self._parts, transaction, self._envelope(transaction, queue_id, recipient), original)
        hop = Hop(
            by=self._host_name,
            peer_helo=transaction.peer_helo,
            peer_address=str(self._peer.address or ""),
            queue_id=queue_id,
            time=self._parts.clock.now(),
        )
        report = delivery.run(message, hop, root)
        self._parts.log.info(
            "delivered" if report.done else "not delivered",
            queue_id=queue_id,
            sender=transaction.sender.text,
            recipient=recipient.text,
            reply=report.line(),
        )
        return report

    def _envelope(self, transaction: Transaction, queue_id: str, recipient: Address) -> Envelope:
        told = transaction.forwarded
        session = Session(
            client_address=told.client_address,
            client_port=told.client_port,
            client_name=told.client_name,
            helo=told.helo,
            auth_user=told.login,
            server_name=transaction.peer_helo,
            submitted_locally=told.from_local_source and told.client_address is None,
        )
        if session.client_address or session.submitted_locally or session.auth_user:
            traffic = traffic_class(session, self._parts.config.host.networks)
        else:
            traffic = TrafficClass.INBOUND  # nobody told us anything: trust nothing
        return Envelope(session, transaction.sender, (recipient,), queue_id, traffic, transaction.declared_size)


class _OneDelivery:
    """One mail for one recipient."""

    def __init__(self, parts: LmtpParts, transaction: Transaction, envelope: Envelope, original: str) -> None:
        self._parts, self._transaction, self._envelope, self._original = parts, transaction, envelope, original
        self._recipient = envelope.recipients[0]
        self._targets = Targets()

    def run(self, message: Message, hop: Hop, root: Path | None) -> Report:
        final = self._parts.delivery.final(self._recipient)
        if found := refusal(message, self._recipient, final=final):
            return found
        authentication = Authentication(self._parts.config.authserv_id, message)
        released = self._parts.quarantine.released(message, Stage.BEFORE_LOCAL, self._recipient)
        seen = seen_stages(self._parts.config.paths.state, message, self._envelope, self._parts.clock.now())
        original = without_marks(without_release_mark(authentication.trusted))
        directory = self._parts.pipeline.directory
        targets = targets_of(self._recipient, directory)
        self._targets = Targets(targets.stays, still_owed(targets, self._recipient, message, directory))
        if not targets.stays and not self._targets.others:
            return loop(self._recipient.text)
        is_mailbox = targets.stays or directory.mailbox(self._recipient) is not None
        if Stage.BEFORE_LOCAL in seen or not is_mailbox:  # behind an alias, handlers act for each mailbox
            return self._hand_on(original, (), hop, root)
        outcome = self._handle(original, authentication, released.handlers if released else frozenset())
        disposition = outcome.dispositions[self._recipient]
        match disposition.action:
            case Action.PASS | Action.SKIP:
                edits = outcome.edits.get(self._recipient, ())
                handled = outcome.messages.get(self._recipient) or original
                report = self._hand_on(authentication.written(handled, edits), edits, hop, root)
            case Action.STOP:
                report = Report("250", "2.0.0", "Taken over")
            case Action.QUARANTINE:
                report = self._keep(original, disposition)
            case Action.DEFER | Action.REJECT:
                report = from_disposition(disposition)
        if released and report.done:
            self._parts.quarantine.arrived(released, self._recipient)
        return report

    def _handle(self, message: Message, authentication: Authentication, left_out: frozenset[str]) -> Outcome:
        pipeline = self._parts.pipeline
        selection = pipeline.select(self._envelope, {Stage.BEFORE_LOCAL})
        if left_out:  # a mail that was released is not held again by whom it was held before
            kept = tuple(each for each in selection.registrations if each.handler not in left_out)
            selection = Selection(selection.generation, kept)
        return pipeline.run(
            selection,
            Stage.BEFORE_LOCAL,
            self._envelope,
            message,
            time_limit=self._parts.config.lmtp.handler_timeout,
            findings=authentication.findings,
        )

    def _hand_on(self, message: Message, edits: tuple[Edit, ...], hop: Hop, root: Path | None) -> Report:
        sender = self._envelope.sender
        added, stays = list(self._targets.others), self._targets.stays
        folder = ""
        for edit in edits:
            match edit:
                case ReplaceSender(replacement):
                    sender = replacement
                case AddRecipient(address) if address.key == self._recipient.key:
                    stays = True
                case AddRecipient(address):
                    added.append(address)
                case RemoveRecipient(address):
                    stays = stays and address.key != self._recipient.key
                    added = [each for each in added if each.key != address.key]
                case FileInto(asked):
                    folder = asked
                case _:
                    pass
        if stays and (found := self._parts.delivery.check(self._recipient, root)):
            return found  # before anybody else gets a copy: a retry would send another
        if added and (problem := self._send_copies(message, sender, added)):
            return problem
        if not stays:
            return Report("250", "2.0.0", "Forwarded") if added else DELIVERED
        final = self._parts.delivery.final(self._recipient)
        parcel = Parcel(
            dataclasses.replace(self._envelope, sender=sender),
            traced(message, sender, self._recipient, self._original, hop, final=final),
            smtputf8=self._transaction.smtputf8,
            root=root,
            folder=folder,
        )
        return self._parts.delivery.deliver(parcel)

    def _send_copies(self, message: Message, sender: Address, added: list[Address]) -> Report | None:
        """To the recipients that handlers added, marked so that a copy that comes back here is seen to be a loop."""
        copy = dataclasses.replace(message, fields=(delivered_to(self._recipient), *message.fields))
        try:
            self._parts.pipeline.reinject.submit(sender, tuple(dict.fromkeys(added)), copy.chunks())
        except OSError as error:
            self._parts.log.error(
                "copy for added recipients could not be handed over",
                queue_id=self._envelope.queue_id,
                recipients=[each.text for each in added],
                error=str(error),
            )
            return UNAVAILABLE
        return None

    def _keep(self, message: Message, disposition: Disposition) -> Report:
        try:
            kept = self._parts.quarantine.keep(
                self._envelope, Stage.BEFORE_LOCAL, message, disposition.reason, disposition.handler
            )
        except OSError as error:
            self._parts.log.error(
                "quarantine cannot be written",
                queue_id=self._envelope.queue_id,
                error=error.strerror or str(error),
                path=str(error.filename or ""),
            )
            return UNAVAILABLE
        self._parts.log.info(
            "held in quarantine",
            queue_id=self._envelope.queue_id,
            recipient=self._recipient.text,
            id=kept,
            handler=disposition.handler,
            reason=disposition.reason,
        )
        return Report("250", "2.0.0", "Held")
