"""One mail on its way through a session: what was told of it so far, within named limits."""

from __future__ import annotations

import re

from postroom.config import MilterSettings
from postroom.fronts.milter.answers import Answer, Verb
from postroom.fronts.milter.edits import from_wire
from postroom.mail import Address, Body, BodyCollector, Field, Message, address_from_wire
from postroom.registration import Selection
from postroom.verdict import Disposition

_SIZE = re.compile(rb"SIZE=(\d{1,20})", re.IGNORECASE)  # RFC 1870

TOO_MANY_RECIPIENTS = Answer(Verb.REFUSE, "452", "4.5.3", ("Too many recipients",))
MESSAGE_TOO_BIG = Answer(Verb.REFUSE, "552", "5.3.4", ("Message size exceeds fixed limit",))
HEADER_TOO_BIG = Answer(Verb.REFUSE, "552", "5.3.4", ("Message header size exceeds fixed limit",))
NO_SPACE = Answer(Verb.REFUSE, "452", "4.3.1", ("Insufficient system storage",))


def understood(raw: bytes, rewritten: bytes) -> Address:
    """The address as the mail server takes it: a client can spell one mailbox in many ways, for which nobody registers.

    `rewritten` is what the mail server made of it, perhaps in other case; empty: it did not tell.
    """
    came = address_from_wire(raw)
    if not rewritten or not came:
        return came
    told = address_from_wire(rewritten)
    return came if came.key == told.key else told


class Recipient:
    """One RCPT: the argument as it came, what the mail server made of it, and its transport, when it told."""

    __slots__ = ("address", "checked", "mailer", "raw")

    def __init__(self, raw: bytes, mailer: bytes, rewritten: bytes = b"") -> None:
        self.raw, self.mailer = raw, mailer
        self.address = understood(raw, rewritten)
        self.checked = False  # before-data has answered for it


class Transaction:
    """From MAIL to the ABORT after end of message."""

    __slots__ = (
        "_body",
        "_collector",
        "_header_size",
        "_limits",
        "auth_type",
        "auth_user",
        "data_seen",
        "declared_size",
        "fields",
        "findings",
        "held",
        "queue_id",
        "recipients",
        "refusal",
        "selection",
        "sender",
        "stopped",
    )

    def __init__(self, arguments: list[bytes], limits: MilterSettings, rewritten: bytes = b"") -> None:
        self._limits = limits
        self.sender: Address = understood(arguments[0], rewritten) if arguments else Address()
        sizes = [found for found in map(_SIZE.fullmatch, arguments[1:]) if found]
        self.declared_size: int | None = int(sizes[0][1]) if sizes else None
        self.queue_id = self.auth_user = self.auth_type = ""
        self.recipients: list[Recipient] = []
        self.fields: list[Field] = []
        self._header_size = 0
        self._collector: BodyCollector | None = None
        self._body: Body | None = None
        self.data_seen = False
        self.refusal: Answer | None = None  # a limit was passed where no answer was possible
        self.selection: Selection | None = None  # made once, at DATA or end of message
        self.stopped: dict[Address, Disposition] = {}
        self.held: dict[Address, Disposition] = {}
        self.findings: dict[str, object] = {}

    def add_recipient(self, raw: bytes, mailer: bytes, rewritten: bytes = b"") -> Recipient | None:
        """None when there are too many."""
        if len(self.recipients) >= self._limits.max_recipients:
            return None
        recipient = Recipient(raw, mailer, rewritten)
        self.recipients.append(recipient)
        return recipient

    def remaining(self) -> tuple[Address, ...]:
        """Who is still to get the mail; each address once."""
        known = dict.fromkeys(recipient.address for recipient in self.recipients)
        return tuple(address for address in known if address not in self.stopped and address not in self.held)

    def add_field(self, name: bytes, value: bytes, leading_space: bool) -> None:
        self._header_size += len(name) + len(value) + 3  # colon and CRLF
        if self._header_size > self._limits.max_header:
            self.refusal = self.refusal or HEADER_TOO_BIG
            self.fields.clear()
            return
        self.fields.append(Field(name, from_wire(value, leading_space), len(self.fields)))

    def add_body(self, chunk: bytes) -> None:
        if self._collector is None:
            self._collector = BodyCollector()
        if self._header_size + self._collector.size + len(chunk) > self._limits.max_message:
            self.refusal = self.refusal or MESSAGE_TOO_BIG
        if self.refusal:
            return
        try:
            self._collector.append(chunk)
        except OSError:  # the spool's file system is full
            self.refusal = NO_SPACE

    def end_body(self) -> None:
        """All of it is there."""
        if self._collector is None or self._body is not None:
            return
        try:
            self._body = self._collector.finish()
        except OSError:  # its last octets found no space
            self.refusal = self.refusal or NO_SPACE

    def message(self) -> Message:
        self.end_body()
        if self._body is None:
            self._body = Body()
        return Message(tuple(self.fields), self._body)
