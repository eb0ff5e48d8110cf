"""One mail's way through a mailbox's responder: decide, claim, reply, forward."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property

from postroom.authentication_results import FINDING, Results
from postroom.hookspecs import Services, StateUnavailable
from postroom.mail import NULL_SENDER, Address, Envelope, Message

from postroom_autoresponder.authentication import DkimFound, SpfFound, is_vouched
from postroom_autoresponder.content import Content
from postroom_autoresponder.decision import Decision, Mail, Silence, decide, remembered_as, terms_of
from postroom_autoresponder.facts import header_facts
from postroom_autoresponder.forward import copy_of, copy_sender, goes_round
from postroom_autoresponder.reply import Head, Wording, build_reply, values_of, with_plain_domain, word
from postroom_autoresponder.responder import BrokenResponder, Responder, responder_from_json, responder_name
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.store import Claim, Granted, Stale, Store, StoredResponder, digest
from postroom_autoresponder.template import TemplateError

MAX_CACHED = 1000
MAX_CACHED_SIZE = 32 << 20
"""Responders, and octets of them, that a worker keeps; one more costs its mail a second round trip."""
MAX_ROUNDS = 5
"""Times that a responder may change while one mail is decided."""
MAX_EXPANDED = 50
"""Addresses of one mail that the directory is asked about."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one mail. `problem` is for the log."""

    silence: Silence | None
    forwarded: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A responder as a worker knows it; `problem` says why there is none although one is stored."""

    version: str = ""
    responder: Responder | None = None
    problem: str = ""


UNKNOWN = Known()


class Autoresponder:
    """Shared by the threads of a worker. It keeps responders by version; each claim checks the version anew."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cache = ResponderCache()

    def handle(
        self, envelope: Envelope, message: Message, settings: AutoresponderSettings, services: Services
    ) -> Done | None:
        """One round trip, unless the responder has changed since the worker last saw it. None: there is none."""
        mail = _Incoming(envelope, message, settings, services)
        for _ in range(MAX_ROUNDS):
            known = self._cache.get(mail.name)
            prepared = prepare(mail, known, settings, services)
            answer = self.store.claim(prepared.claim)
            if isinstance(answer, Stale):
                self._cache.put(mail.name, answer.responder)
                continue
            if prepared.responder is None:
                return Done(Silence.BROKEN, problem=known.problem) if known.problem else None
            return self._act(mail, prepared, answer, services)
        raise StateUnavailable(f"somebody keeps changing the responder of {mail.name}: try again")

    def _act(self, mail: _Incoming, prepared: _Prepared, granted: Granted, services: Services) -> Done:
        silence, forwarded, problems = granted.silence, False, [prepared.problem]
        if silence is None:
            try:
                reply = mail.reply(prepared, services)
            except Exception as error:  # noqa: BLE001  # a library that fails at what a peer wrote costs no mail
                silence = Silence.NOT_SENT
                problems.append(f"the reply could not be made: {type(error).__name__}: {error}")
            else:
                silence = self._send(mail, reply, problems, services)
            if silence is not None:
                self.store.release(prepared.claim, granted, silence)
        if granted.forwards:
            assert prepared.responder is not None
            try:
                sender = copy_sender(mail.envelope.sender, mail.mailbox)
                copy = copy_of(mail.message, mail.mailbox)
                services.reinject.submit(sender, (Address(prepared.responder.forward),), copy)
                forwarded = True
            except OSError as error:
                problems.append(f"the mail server did not take the copy for {prepared.responder.forward}: {error}")
        return Done(silence, forwarded, "; ".join(filter(None, problems)))

    def _send(self, mail: _Incoming, reply: bytes, problems: list[str], services: Services) -> Silence | None:
        try:
            services.reinject.submit(NULL_SENDER, (with_plain_domain(mail.envelope.sender),), (reply,))
        except OSError as error:  # by contract the mail server has not taken it
            problems.append(f"the mail server did not take the reply: {error}")
            return Silence.NOT_SENT
        return None


@dataclass(frozen=True)
class _Prepared:
    claim: Claim
    responder: Responder | None
    wording: Wording | None = None
    problem: str = ""


class _Incoming:
    """A mail, with what is known of it; nothing is looked up before it is asked for."""

    def __init__(
        self, envelope: Envelope, message: Message, settings: AutoresponderSettings, services: Services
    ) -> None:
        self.envelope, self.message = envelope, message
        self._services = services
        self._delimiter = services.config.host.recipient_delimiter
        self.recipient = envelope.recipients[0]
        self.name = responder_name(settings.responder or self.recipient.text, self._delimiter)
        self.content = Content(message)
        self._asked = 0

    @cached_property
    def mailbox(self) -> Address:
        """The recipient without its tag."""
        if self.recipient.without_tag(self._delimiter) == self.recipient.key:
            return self.recipient
        local = self.recipient.local_part.partition(self._delimiter)[0]
        return Address(f"{local}@{self.recipient.text.rpartition('@')[2]}")

    @cached_property
    def mail(self) -> Mail:
        results = self._services.finding(FINDING, Results)
        vouched = is_vouched(
            self.envelope.sender,
            results.results if results else (),
            self._services.finding("spf", SpfFound),  # type: ignore[type-abstract]  # a shape: isinstance works
            self._services.finding("dk_check", DkimFound),  # type: ignore[type-abstract]
        )
        found = self._services.finding("spam", object)
        return Mail(self.envelope, header_facts(self.message), vouched, bool(getattr(found, "is_spam", False)))

    def is_own(self, address: Address, responder: Responder) -> bool:
        key = address.without_tag(self._delimiter)
        ours = {self.recipient.without_tag(self._delimiter), *map(self._key, responder.addresses)}
        if key in ours or address.key in ours:
            return True
        if self._asked >= MAX_EXPANDED or self._services.directory.is_local(address) is False:
            return False
        self._asked += 1
        return any(self._key(target.text) in ours for target in self._services.directory.expand(address))

    def known_as(self, responder: Responder) -> Address:
        """Whom a reply is from: the one of the owner's addresses that the sender wrote to (RFC 3834 3.1.2). Mail from
        a domain that is not ours would be taken for a forgery.
        """
        named = {address.without_tag(self._delimiter) for address in self.mail.header.recipients}
        if self.mailbox.key not in named:
            for listed in map(Address, responder.addresses):
                ours = listed.domain == self.mailbox.domain or self._services.directory.is_local(listed) is True
                if listed.without_tag(self._delimiter) in named and ours:
                    return listed
        return self.mailbox

    def _key(self, text: str) -> str:
        return Address(text).without_tag(self._delimiter)

    def digest(self) -> bytes:
        """The same for every attempt to deliver this mail and for whatever way it comes, and for no other mail."""
        has_name = bool(self.message.get(b"Message-ID"))
        facts = [self.envelope.sender.key, "" if has_name else self.envelope.queue_id]
        facts += [self.message.get(name) or "" for name in (b"Message-ID", b"Date", b"Subject")]
        return digest(*facts)

    def reply(self, prepared: _Prepared, services: Services) -> bytes:
        assert prepared.responder is not None
        assert prepared.wording is not None
        domain = self.mailbox.domain if self.mailbox.domain.isascii() else services.config.host_name
        head = Head(
            mailbox=self.known_as(prepared.responder),
            name=prepared.responder.name,
            to=self.envelope.sender,
            reply_to=prepared.responder.reply_to,
            message_id=f"<autoreply.{secrets.token_hex(12)}@{domain}>",
            date=services.clock.now(),
            answered=self.mail.header,
        )
        return build_reply(head, prepared.wording, prepared.responder.attachments)


def prepare(mail: _Incoming, known: Known, settings: AutoresponderSettings, services: Services) -> _Prepared:
    """What the mail wants, as far as this is known before the store is asked."""
    responder, now = known.responder, services.clock.now()
    if responder is None and not known.version and settings.text:
        responder = Responder(text=settings.text)
    decision, wording, problem = Decision(Silence.OFF), None, known.problem
    if responder is not None:
        decision, wording, problem = _decide(mail, responder, settings, now)
    elif known.problem:
        decision = Decision(Silence.BROKEN)
    claim = Claim(
        responder=mail.name,
        mailbox=responder_name(mail.recipient.text, services.config.host.recipient_delimiter),
        known=known.version,
        now=round(now * 1000),
        silence=decision.silence,
        forwards=decision.forwards,
        sender=sender_digest(mail.envelope.sender, responder),
        mail=mail.digest(),
        terms=terms_of(responder or Responder(), settings),
        counts=bool(known.version) or responder is not None,
    )
    return _Prepared(claim, responder, wording, problem)


def prepare_preview(
    envelope: Envelope, message: Message, known: Known, settings: AutoresponderSettings, services: Services
) -> tuple[Silence | None, bytes, str]:
    """What would be done with a mail if nothing were remembered: the reason for silence, or else the reply."""
    mail = _Incoming(envelope, message, settings, services)
    prepared = prepare(mail, known, settings, services)
    silence = prepared.claim.silence
    return silence, b"" if silence is not None else mail.reply(prepared, services), prepared.problem


def sender_digest(sender: Address, responder: Responder | None) -> bytes:
    """Whom a reply goes to, and what it says: another text is another reply (RFC 5230 4.2)."""
    # The domain, too: who forwards may write any author into a return path, and takes nobody's reply away by it.
    return digest(remembered_as(sender), sender.domain, responder.edition if responder else b"")


def _decide(
    mail: _Incoming, responder: Responder, settings: AutoresponderSettings, now: float
) -> tuple[Decision, Wording | None, str]:
    try:
        decision = decide(
            mail.mail, responder, settings, now, lambda each: mail.is_own(each, responder), mail.content.contains
        )
    except (ValueError, KeyError, OSError) as error:  # a time zone or a date that was good when it was set
        return Decision(Silence.BROKEN), None, f"start or end cannot be used: {error}"
    if decision.forwards and goes_round(mail.message, mail.mailbox):
        decision = replace(decision, forwards=False)
    if decision.silence is not None:
        return decision, None, ""
    try:
        values = values_of(mail.envelope.sender, mail.mail.header, mail.mailbox.text, responder)
        return decision, word(responder, settings, values), ""
    except TemplateError as error:
        return replace(decision, silence=Silence.TEMPLATE), None, str(error)


class ResponderCache:
    """The responders that a worker has seen, with their versions, up to a size."""

    def __init__(self, most: int = MAX_CACHED, size: int = MAX_CACHED_SIZE) -> None:
        self._most, self._size, self._used = most, size, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Known, int]] = OrderedDict()

    def get(self, name: str) -> Known:
        with self._lock:
            if name not in self._kept:
                return UNKNOWN
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def put(self, name: str, stored: StoredResponder) -> None:
        known = read(stored)
        with self._lock:
            self._used -= self._kept.pop(name, (known, 0))[1]
            if stored.version:
                self._kept[name] = (known, len(stored.document))
                self._used += len(stored.document)
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._used > self._size):
                self._used -= self._kept.popitem(last=False)[1][1]


def read(stored: StoredResponder) -> Known:
    if not stored.version:
        return UNKNOWN
    try:
        return Known(stored.version, responder_from_json(stored.document))
    except BrokenResponder as error:
        return Known(stored.version, problem=str(error))
