"""One mailbox's responder: what it answers, when, and to what. Stored as JSON; changed by commands."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

from postroom.config import Duration
from postroom.mail import Address
from postroom.registration import InvalidRegistration, Type, check_address

from postroom_autoresponder.calendar import begins_at, check_moment, check_zone, ends_at
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.template import check_subject, check_text

MAX_NAME = 200
MAX_CONDITIONS = 100
MAX_ADDRESSES = 1000


class BrokenResponder(ValueError):
    """What is stored cannot be used: why, in one line."""


class Part(enum.StrEnum):
    """Where a condition looks."""

    SUBJECT = "subject"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds where that part of the mail contains the text, whatever the case."""

    part: Part
    text: str

    def __str__(self) -> str:
        return f"{self.part} contains {self.text!r}"


@dataclass(frozen=True, slots=True)
class Attachment:
    name: str
    content_type: str
    octets: bytes


class Season(enum.Enum):
    """Where now is, seen from start and end."""

    BEFORE = enum.auto()
    WITHIN = enum.auto()
    AFTER = enum.auto()


@dataclass(frozen=True)
class Responder:
    """Empty text: as the handler's settings say. `conditions`: any of them; none: always. `interval` and `daily_limit`
    None: as the handler's settings say. `addresses` are further ones of the mailbox.
    """

    enabled: bool = True
    subject: str = ""
    text: str = ""
    html: str = ""
    name: str = ""
    reply_to: str = ""
    addresses: tuple[str, ...] = ()
    start: str = ""
    end: str = ""
    time_zone: str = ""
    conditions: tuple[Condition, ...] = ()
    interval: Duration | None = None
    daily_limit: int | None = None
    forward: str = ""
    attachments: tuple[Attachment, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether it has anything to say; one without text forwards only."""
        return bool(self.text or self.html)

    @cached_property
    def edition(self) -> bytes:
        """Changes with what a reply says: who has had another text gets this one (RFC 5230 4.2)."""
        said = dataclasses.replace(self, enabled=True, addresses=(), conditions=(), interval=None, daily_limit=None)
        said = dataclasses.replace(said, forward="")
        return blake2b(said.to_json().encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def zone(self, settings: AutoresponderSettings) -> str:
        return self.time_zone or settings.time_zone

    def season(self, settings: AutoresponderSettings, now: float) -> Season:
        zone = self.zone(settings)
        if self.start and now < begins_at(self.start, zone):
            return Season.BEFORE
        if self.end and now >= ends_at(self.end, zone):
            return Season.AFTER
        return Season.WITHIN

    def to_json(self) -> str:
        table: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        if self.conditions:
            table["conditions"] = [[str(each.part), each.text] for each in self.conditions]
        if self.attachments:
            table["attachments"] = [
                [each.name, each.content_type, base64.b64encode(each.octets).decode("ascii")]
                for each in self.attachments
            ]
        return json.dumps(table, separators=(",", ":"), sort_keys=True)


def responder_from_json(document: str) -> Responder:
    """BrokenResponder when it is none; texts are not looked at."""
    try:
        table = json.loads(document)
        known = {field.name for field in dataclasses.fields(Responder)}
        table = {name: value for name, value in table.items() if name in known}  # a newer release may write more
        if "addresses" in table:
            table["addresses"] = tuple(map(str, table["addresses"]))
        if "conditions" in table:
            table["conditions"] = tuple(Condition(Part(part), str(text)) for part, text in table["conditions"])
        if "interval" in table:
            table["interval"] = Duration(table["interval"])
        if "attachments" in table:
            table["attachments"] = tuple(
                Attachment(str(name), str(kind), base64.b64decode(octets, validate=True))
                for name, kind, octets in table["attachments"]
            )
        responder = Responder(**table)
        for field in ("subject", "text", "html", "name", "reply_to", "start", "end", "time_zone", "forward"):
            if not isinstance(getattr(responder, field), str):
                raise BrokenResponder(f"{field} is no text")
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise BrokenResponder(f"the stored responder cannot be read: {error}") from None
    return responder


def check_responder(responder: Responder, settings: AutoresponderSettings) -> None:
    """ValueError names what would not work in a mail, and the remedy."""
    _named("subject", check_subject, responder.subject)
    for name, text in (("text", responder.text), ("html", responder.html)):
        _named(name, check_text, text)
        if (size := len(text.encode("utf-8", "replace"))) > settings.max_text:
            raise ValueError(f"{name}: {size} octets are too many: at most {settings.max_text} (max_text)")
    if len(responder.name) > MAX_NAME or not responder.name.isprintable():
        raise ValueError(f"name: at most {MAX_NAME} printable characters")
    if responder.time_zone:
        _named("time-zone", check_zone, responder.time_zone)
    for moment in filter(None, (responder.start, responder.end)):
        _named("start and end", check_moment, moment)
    zone = responder.zone(settings)
    if responder.start and responder.end and begins_at(responder.start, zone) >= ends_at(responder.end, zone):
        raise ValueError(f"it would end ({responder.end}) before it starts ({responder.start})")
    for address in (*responder.addresses, *filter(None, (responder.reply_to, responder.forward))):
        try:
            check_address(Type.RECIPIENT, address)
        except InvalidRegistration as error:
            raise ValueError(str(error)) from None
    total = sum(len(each.octets) for each in responder.attachments)
    if total > settings.max_attachments:
        raise ValueError(f"attachments of {total} octets are too large: at most {settings.max_attachments} together")
    if len(responder.conditions) > MAX_CONDITIONS or len(responder.addresses) > MAX_ADDRESSES:
        raise ValueError(f"at most {MAX_CONDITIONS} conditions and {MAX_ADDRESSES} addresses")
    if responder.enabled and not responder.answers and not responder.forward:
        raise ValueError("it has nothing to say: give it a text with --text, --text-file or --html-file")


def _named(name: str, check: Any, text: str) -> None:
    try:
        check(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def responder_name(address: str, delimiter: str) -> str:
    """What the responder of a mailbox is called: the address in the form that is compared, without its tag.

    A raw 8-bit address, which no command can name, stays storable.
    """
    name = Address(address).without_tag(delimiter)
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
