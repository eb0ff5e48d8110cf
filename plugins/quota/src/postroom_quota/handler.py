"""check-quota: mail for a full mailbox is refused before anybody is responsible for it."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.config import Duration
from postroom.hookspecs import (
    Diagnosis,
    HandlerInfo,
    Mailbox,
    Need,
    Placement,
    Services,
    StateStore,
    StateUnavailable,
    hookimpl,
)
from postroom.mail import NULL_SENDER, Address, Envelope, Message
from postroom.registration import Stage, Type
from postroom.verdict import Verdict, skipped

from postroom_quota.backends import open_store
from postroom_quota.decision import State, judge, verdict_of
from postroom_quota.ledger import Answer, Request, Terms
from postroom_quota.maildir import SIZE_FILE, Counter
from postroom_quota.measure import Measure, Measured, mailboxes_of
from postroom_quota.settings import QuotaSettings, Source, WhenFull
from postroom_quota.store import Store
from postroom_quota.warning import Facts, compose

if TYPE_CHECKING:
    import click

INFO = HandlerInfo(
    summary="Refuses mail for mailboxes that are full, and warns their owners before.",
    placements=(Placement(Stage.BEFORE_QUEUE, Type.GLOBAL, 10),),  # the reference's place
    settings=QuotaSettings,
    needs=Need.BODY,  # for its size
    timeout=Duration(20),
    refuses=True,
    uses_network=True,
)

MAX_WARNINGS = 4
"""Warnings that are sent at the same time; one more is sent with the next mail."""
MARGIN = 2.0
"""Seconds of a call that are kept for the answer."""


class QuotaHandler:
    """Between mails it keeps nothing but the way to its store, and what it has counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: StateStore | None = None
        self._store: Store | None = None
        self._counter = Counter()
        self._warning = threading.BoundedSemaphore(MAX_WARNINGS)
        self._senders: set[threading.Thread] = set()

    @hookimpl
    def describe(self) -> HandlerInfo:
        return INFO

    @hookimpl
    def before_data(self, envelope: Envelope, settings: QuotaSettings, services: Services) -> Verdict:
        """With the size that the client declared (RFC 1870), or as if the mail had none; nothing is reserved."""
        return self._check(envelope, envelope.declared_size or 0, settings, services, write=False)

    @hookimpl
    def before_queue(
        self, envelope: Envelope, message: Message, settings: QuotaSettings, services: Services
    ) -> Verdict:
        return self._check(envelope, message.size(), settings, services, write=True)

    @hookimpl
    def before_local(self, envelope: Envelope, settings: QuotaSettings, services: Services) -> Verdict:
        """The mail arrives: where the mailbox counts it by itself, the reservation ends soon."""
        mailbox = services.directory.mailbox(envelope.recipients[0])
        if mailbox is None or not envelope.queue_id:
            return skipped("no mailbox of ours")
        if settings.source is Source.DIRECTORY and not _is_recorded(mailbox):
            return skipped("the reservation ends by time")
        expires = round((services.clock.now() + settings.settle) * 1000)
        try:
            self._open(services).settle(mailbox.address.key, _reservation_of(envelope, services), expires)
        except StateUnavailable as error:  # no reason to keep mail from being delivered
            services.log.warning("reservation is left to end by time", error=str(error))
        return skipped("the reservation ends")

    @hookimpl
    def commands(self) -> click.Command:
        from postroom_quota.commands import quota  # click only where there is a command line

        return quota

    @hookimpl
    def diagnose(self, settings: QuotaSettings, services: Services) -> Iterable[Diagnosis]:
        from postroom_quota.diagnosis import diagnose

        return diagnose(settings, services)

    @hookimpl
    def stop(self) -> None:
        self._counter.close()
        for thread in tuple(self._senders):
            thread.join(5.0)
        with self._lock:
            self._state = self._store = None
            self._counter = Counter()

    def _check(
        self, envelope: Envelope, size: int, settings: QuotaSettings, services: Services, *, write: bool
    ) -> Verdict:
        begun = services.clock.monotonic()
        recipients = {each: mailboxes_of(each, services.directory) for each in envelope.recipients}
        boxes = {box.address.key: box for found in recipients.values() for box in found if box is not None}
        measure = Measure(envelope, settings, self._counter, services.deadline() - MARGIN, services.log)
        measured = {key: measure.measure(box, size, services.clock.monotonic() - begun) for key, box in boxes.items()}
        answers = self._reserve(envelope, measured, size, settings, services, write=write)
        cases = {key: judge(found, size, answers.get(key)) for key, found in measured.items()}
        for key, answer in answers.items():
            if answer.warn:
                self._warn(measured[key], answer.total + size, settings, services)
        return verdict_of(recipients, cases, size, settings, envelope.traffic)

    def _reserve(
        self,
        envelope: Envelope,
        measured: dict[str, Measured],
        size: int,
        settings: QuotaSettings,
        services: Services,
        *,
        write: bool,
    ) -> dict[str, Answer]:
        """One round trip for all mailboxes of the mail."""
        together = settings.when_full is WhenFull.DEFER
        if together and any(found.problem for found in measured.values()):
            write = False  # this mail comes again as another, whose room it must not have taken
        requests = [
            Request(found.key, found.used or 0, size, found.limit or 0)
            for found in measured.values()
            if found.can_reserve and judge(found, size, None).state is not State.TOO_LARGE
        ]
        if not requests:
            return {}
        now = services.clock.now()
        terms = Terms(
            now=round(now * 1000),
            id=_reservation_of(envelope, services) if envelope.queue_id else secrets.token_hex(8),
            expires=round((now + settings.reserve) * 1000),
            thresholds=tuple(sorted(settings.warn_at)),
            write=write,
            # One who is deferred defers the whole mail at most fronts: it comes again, and must not find itself.
            together=together,
        )
        answers = self._open(services).reserve(requests, terms)
        return {request.mailbox: answer for request, answer in zip(requests, answers, strict=True)}

    def _warn(self, found: Measured, used: int, settings: QuotaSettings, services: Services) -> None:
        """In the background: no mail waits for a warning."""
        if not self._warning.acquire(blocking=False):
            self._open(services).forget_warning(found.key)
            return
        facts = Facts(found.mailbox.address, used, found.limit or 0, found.mailbox.languages)
        work = (facts, settings, services, self._open(services))
        thread = threading.Thread(target=self._send, args=work, name="quota-warning", daemon=True)
        self._senders.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had: the next mail tries again
            self._senders.discard(thread)
            self._warning.release()
            self._open(services).forget_warning(found.key)

    def _send(self, facts: Facts, settings: QuotaSettings, services: Services, store: Store) -> None:
        try:
            mail = compose(facts, settings.warn_from, services.config.host_name, services.clock.now(), settings.texts)
            services.reinject.submit(NULL_SENDER, (Address(facts.address.text),), [mail])
            services.log.info("owner is warned", mailbox=str(facts.address), percent=facts.percent)
        except Exception as error:  # noqa: BLE001  # nobody is there to catch it, and the next mail tries again
            services.log.error("warning is not sent", mailbox=str(facts.address), error=f"{error}")
            try:
                store.forget_warning(facts.address.key)
            except StateUnavailable as unavailable:
                services.log.error("warning is lost", mailbox=str(facts.address), error=str(unavailable))
        finally:
            self._warning.release()
            self._senders.discard(threading.current_thread())

    def _open(self, services: Services) -> Store:
        with self._lock:
            if self._store is None or self._state is not services.state:
                self._store, self._state = open_store(services.state), services.state
            return self._store


def _reservation_of(envelope: Envelope, services: Services) -> str:
    """Hosts that share a Redis may give two mails the same queue id; together they would take one room."""
    return f"{services.config.host_name}:{envelope.queue_id}"


def _is_recorded(mailbox: Mailbox) -> bool:
    """Whether delivery keeps the usage true."""
    try:
        size_file = Path(mailbox.maildir) / SIZE_FILE
        return bool(mailbox.maildir) and size_file.is_file() and os.access(size_file, os.W_OK)
    except OSError:
        return False


handler = QuotaHandler()
