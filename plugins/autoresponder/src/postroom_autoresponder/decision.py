"""Pure: whether a mail is answered, and why not (RFC 3834 2, RFC 5230 4.5 and 4.6)."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

from postroom.mail import Address, Envelope, TrafficClass

from postroom_autoresponder.facts import HeaderFacts
from postroom_autoresponder.responder import Part, Responder, Season
from postroom_autoresponder.settings import DAY, AutoresponderSettings

QMAIL_DOUBLE_BOUNCE = "#@[]"  # its sender, as the null sender is a bounce's (qmail-send(8))
HOUR_MS, DAY_MS = 3600_000, DAY * 1000


class Silence(enum.StrEnum):
    """Why a mail gets no reply."""

    OFF = "off"  # the responder is switched off
    BROKEN = "broken"  # what is stored cannot be used
    TEMPLATE = "template-error"  # subject or text cannot be filled in
    BEFORE_START = "before-start"
    AFTER_END = "after-end"
    NO_TEXT = "no-text"  # it only forwards
    NULL_SENDER = "null-sender"  # a bounce, or somebody's automatic reply
    NO_ADDRESS = "no-address"  # the sender is no address that a reply could be sent to
    SYSTEM_SENDER = "system-sender"  # MAILER-DAEMON, owner-list, list-request …
    OWN_ADDRESS = "own-address"  # from the mailbox to itself
    AUTOMATIC = "automatic"  # made by a program
    LIST_MAIL = "list"  # through a list, or bulk
    SUPPRESSED = "suppressed"  # the sender asks for no automatic reply
    SPAM = "spam"
    UNAUTHENTICATED = "unauthenticated"  # the sender may be forged
    NOT_ADDRESSED = "not-addressed"  # the mailbox is in no To, Cc or Bcc
    CONDITION = "condition"  # none of the responder's conditions holds
    ANSWERED = "answered"  # this very mail came before
    TOO_SOON = "too-soon"  # the sender had a reply within the interval
    DAILY_LIMIT = "daily-limit"
    MAILBOX_LIMIT = "mailbox-limit"  # of the mailbox in an hour, to whomever
    HOURLY_LIMIT = "hourly-limit"  # of the whole host
    NOT_SENT = "not-sent"  # the mail server did not take the reply


@dataclass(frozen=True)
class Mail:
    """All that is known of a mail and does not depend on the responder. `is_own` says of an address whether it is the
    mailbox: its own address, an alias, or one that the responder lists.
    """

    envelope: Envelope
    header: HeaderFacts
    vouched: bool = False
    spam: bool = False

    @property
    def sender(self) -> Address:
        return self.envelope.sender

    @property
    def is_spam(self) -> bool:
        return self.spam or self.header.spam

    @property
    def is_trusted(self) -> bool:
        """Clients that logged in and our own networks send what they say (`authenticated_only`)."""
        return self.vouched or self.envelope.traffic in (TrafficClass.AUTHENTICATED, TrafficClass.LOCAL)


IsOwn = Callable[[Address], bool]
Contains = Callable[[Part, str], bool]

_PROGRAMS = """
    mailer-daemon mailerdaemon mailer daemon postmaster root double-bounce uucp
    listserv listproc majordomo mailman sympa ezmlm bounce bounces
    auto-reply autoreply autoresponder auto-responder
"""
_SYSTEM = frozenset(_PROGRAMS.split())
_SYSTEM_PATTERN = re.compile(
    r"owner-.*|.*-owner|.*-request|.*-relay|.*-bounces?|bounces?[+=-].*|.*-bounces?[+=].*|.*-return-.*"
    r"|(?:.*[-_.+])?(?:no|do[-_.]?not)[-_.]?reply(?:[-_.+=].*)?",
    re.DOTALL,
)


def is_system_sender(local_part: str) -> bool:
    """RFC 3834 2, RFC 5230 4.6: a local part that stands for a program."""
    local = local_part.lower().strip('"')
    return local.partition("+")[0] in _SYSTEM or bool(_SYSTEM_PATTERN.fullmatch(local))


_OUR_REPLY = re.compile(r"<autoreply\.[0-9a-f]{24}@(.+)>")


def is_our_reply(message_id: str, domain: str) -> bool:
    """Whether a mailbox of that domain sent it as an automatic reply."""
    return (found := _OUR_REPLY.fullmatch(message_id)) is not None and found[1].lower() == domain


_BATV = re.compile(r"prvs=[0-9a-z]{6,16}=(.+)", re.DOTALL)  # draft-levine-smtp-batv 3
_SRS = re.compile(r"srs(?:0[=+-]|1[=+-][^=]*=[^=]*==?)[^=]*=[^=]*=([^=]+)=(.+)", re.DOTALL)


def lasting(sender: Address) -> str:
    """The sender in a form that does not change from day to day, as signed return paths do (BATV, SRS)."""
    local = sender.key.rpartition("@")[0]
    if (found := _SRS.fullmatch(local)) is not None:
        return f"{found[2]}@{found[1]}"
    if (found := _BATV.fullmatch(local)) is not None:
        return f"{found[1]}@{sender.domain}"
    return sender.key


def remembered_as(sender: Address) -> str:
    """Whom a reply is remembered for. A program that writes under a new tag each time is still one."""
    local, _, domain = lasting(sender).rpartition("@")
    person, tag, _ = local.partition("+")
    return f"{person}@{domain}" if tag and person and not local.startswith('"') else f"{local}@{domain}"


def is_made_for(sender: Address, recipient: Address) -> bool:
    """Whether the recipient's address is part of the sender's: who sends to many knows bounces apart by it (VERP)."""
    local, _, domain = recipient.key.rpartition("@")
    return f"{local}={domain}" in sender.key.rpartition("@")[0]


def is_answerable(sender: Address) -> bool:
    """Whether it can be the recipient of a mail: a local part and a domain, and octets that are UTF-8."""
    local, at, domain = sender.text.rpartition("@")
    if not at or not local or domain in ("", "[]") or not all(character.isprintable() for character in sender.text):
        return False  # isprintable is false for surrogates, which stand for octets that are no UTF-8
    return len(sender.text) <= 320 and not any(character in sender.text for character in "<>\r\n")  # RFC 5321 4.5.3.1


def silent_by_mail(mail: Mail, settings: AutoresponderSettings, is_own: IsOwn) -> Silence | None:
    """What the mail itself says against a reply, the surest first."""
    sender, recipient, header = mail.sender, mail.envelope.recipients[0], mail.header
    if not sender or sender.text == QMAIL_DOUBLE_BOUNCE:
        return Silence.NULL_SENDER
    if is_system_sender(lasting(sender).rpartition("@")[0]) or is_made_for(sender, recipient):
        return Silence.SYSTEM_SENDER
    if not is_answerable(sender):
        return Silence.NO_ADDRESS
    # Senders of notices often have a return path that is made anew for each of them, and say who they are in From.
    if any(is_system_sender(writer.local_part) for writer in header.writers):
        return Silence.SYSTEM_SENDER
    if is_own(sender) or any(is_own(author) for author in header.authors):
        return Silence.OWN_ADDRESS
    # Who answers our replies from an address that is new each time would be answered for ever.
    if header.automatic or is_our_reply(header.parent, recipient.domain):
        return Silence.AUTOMATIC
    if header.list_mail:
        return Silence.LIST_MAIL
    if header.suppressed:
        return Silence.SUPPRESSED
    if mail.is_spam and not settings.answer_spam:
        return Silence.SPAM
    if settings.authenticated_only and not mail.is_trusted:
        return Silence.UNAUTHENTICATED
    if settings.addressed_only and not any(is_own(address) for address in header.recipients):
        return Silence.NOT_ADDRESSED
    return None


def silent_by_responder(
    responder: Responder, settings: AutoresponderSettings, now: float, contains: Contains
) -> Silence | None:
    """What the responder says against acting on the mail at all."""
    if not responder.enabled:
        return Silence.OFF
    match responder.season(settings, now):
        case Season.BEFORE:
            return Silence.BEFORE_START
        case Season.AFTER:
            return Silence.AFTER_END
        case Season.WITHIN:
            pass
    if responder.conditions and not any(contains(each.part, each.text) for each in responder.conditions):
        return Silence.CONDITION
    return None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done as far as nothing remembered is asked: reply when `silence` is None, and a copy or none."""

    silence: Silence | None
    forwards: bool = False


def decide(
    mail: Mail,
    responder: Responder,
    settings: AutoresponderSettings,
    now: float,
    is_own: IsOwn,
    contains: Contains,
) -> Decision:
    """Whether to reply and whether to forward; what is remembered has the last word (`judge`)."""
    if (silence := silent_by_responder(responder, settings, now, contains)) is not None:
        return Decision(silence)
    forwards = bool(responder.forward) and not mail.is_spam  # a copy of spam would be ours
    if not responder.answers:
        return Decision(Silence.NO_TEXT, forwards)
    return Decision(silent_by_mail(mail, settings, is_own), forwards)


# What is remembered. Times in milliseconds since the epoch. claim.lua says the same where the records are.


@dataclass(frozen=True, slots=True)
class Terms:
    """How often one sender, and everybody together, gets a reply; `interval` in milliseconds."""

    interval: int
    daily_limit: int
    remembered: int
    mailbox_limit: int
    hourly_limit: int

    @property
    def memory(self) -> int:
        """How long a reply has to be remembered, at least."""
        return max(self.interval, DAY_MS)


@dataclass(frozen=True, slots=True)
class Answered:
    """One sender's replies: when the last one was, and how many there were since the day began."""

    last: int
    day: int
    count: int


@dataclass(frozen=True, slots=True)
class Hour:
    """Replies of a mailbox, or of the whole host, since the hour began."""

    start: int = 0
    count: int = 0

    def has_room(self, limit: int, now: int) -> bool:
        return now >= self.start + HOUR_MS or self.count < limit

    def and_one(self, now: int) -> Hour:
        return Hour(now, 1) if now >= self.start + HOUR_MS else Hour(self.start, self.count + 1)


def judge(
    known: Answered | None, mailbox: Hour, host: Hour, terms: Terms, now: int
) -> Silence | tuple[Answered, Hour, Hour]:
    """Whether one more reply may be sent now, and what is remembered then."""
    if known is not None and now < known.last + terms.interval:
        return Silence.TOO_SOON
    same_day = known is not None and now < known.day + DAY_MS
    count = known.count if known is not None and same_day else 0
    if count >= terms.daily_limit:
        return Silence.DAILY_LIMIT
    if not mailbox.has_room(terms.mailbox_limit, now):
        return Silence.MAILBOX_LIMIT
    if not host.has_room(terms.hourly_limit, now):
        return Silence.HOURLY_LIMIT
    answered = Answered(now, known.day if known is not None and same_day else now, count + 1)
    return answered, mailbox.and_one(now), host.and_one(now)


def terms_of(responder: Responder, settings: AutoresponderSettings) -> Terms:
    interval = settings.interval if responder.interval is None else responder.interval
    daily = settings.daily_limit if responder.daily_limit is None else responder.daily_limit
    return Terms(round(interval * 1000), daily, settings.remembered, settings.mailbox_limit, settings.hourly_limit)
