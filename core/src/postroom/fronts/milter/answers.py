"""What a session answers to an event, in words that both engines understand."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never

from postroom.fronts.milter.wire import (
    BODY_CHUNK,
    Actions,
    Negotiation,
    Response,
    encode_indexed,
    encode_strings,
    packet,
)
from postroom.mail import Body
from postroom.verdict import Action, Reply

MAX_REPLY_LINES = 32
"""Lines of one reply that libmilter takes."""

MAX_REPLY_LINE = 400
"""Octets of text in one line: RFC 5321 4.5.3.1.5 allows 512 with codes and CRLF."""


class Verb(enum.Enum):
    """The answer's kind."""

    CONTINUE = Response.CONTINUE
    DISCARD = Response.DISCARD  # success for the client, and the mail goes nowhere
    REFUSE = Response.REPLY_CODE  # with a reply


# Modifications, in the mail server's own terms


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """The nth (from 1) field of that name; an empty value deletes it."""

    name: bytes
    instance: int
    value: bytes


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """`index` 0 is above the mail server's own Received field, 1 right below it."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class AddHeader:
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class SetBody:
    body: Body


@dataclass(frozen=True, slots=True)
class SetSender:
    address: bytes  # without angle brackets


@dataclass(frozen=True, slots=True)
class AddTo:
    address: bytes


@dataclass(frozen=True, slots=True)
class RemoveFrom:
    address: bytes  # as RCPT gave it


@dataclass(frozen=True, slots=True)
class Hold:
    """Into the mail server's own hold queue; Postfix forgets the reason."""

    reason: bytes


Operation = ChangeHeader | InsertHeader | AddHeader | SetBody | SetSender | AddTo | RemoveFrom | Hold


def needed_action(operation: Operation) -> Actions:
    """What must have been negotiated for it."""
    match operation:
        case ChangeHeader():
            return Actions.CHANGE_HEADERS
        case InsertHeader() | AddHeader():
            return Actions.ADD_HEADERS
        case SetBody():
            return Actions.CHANGE_BODY
        case SetSender():
            return Actions.CHANGE_SENDER
        case AddTo():
            return Actions.ADD_RECIPIENTS
        case RemoveFrom():
            return Actions.DELETE_RECIPIENTS
        case Hold():
            return Actions.QUARANTINE
        case _:
            assert_never(operation)


def encode_operation(operation: Operation) -> Iterator[bytes]:
    match operation:
        case ChangeHeader(name, instance, value):
            yield encode_indexed(Response.CHANGE_HEADER, instance, name, value)
        case InsertHeader(index, name, value):
            yield encode_indexed(Response.INSERT_HEADER, index, name, value)
        case AddHeader(name, value):
            yield encode_strings(Response.ADD_HEADER, (name, value))
        case SetBody(body):
            if not body.size:
                yield packet(Response.REPLACE_BODY)
            for chunk in body.chunks(BODY_CHUNK):
                yield packet(Response.REPLACE_BODY, chunk)
        case SetSender(address):
            yield encode_strings(Response.CHANGE_SENDER, (b"<%b>" % address,))
        case AddTo(address):
            yield encode_strings(Response.ADD_RECIPIENT, (b"<%b>" % address,))
        case RemoveFrom(address):
            yield encode_strings(Response.DELETE_RECIPIENT, (address,))
        case Hold(reason):
            yield encode_strings(Response.QUARANTINE, (reason,))
        case _:
            assert_never(operation)


@dataclass(frozen=True, slots=True)
class Answer:
    """`code`, `enhanced`, `lines` are the SMTP reply of a refusal; `operations` go with the answer to a whole mail."""

    verb: Verb
    code: str = ""
    enhanced: str = ""
    lines: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()

    def reply_text(self) -> bytes:
        """All lines as they go to the client, CRLF between them (RFC 5321 4.2.1)."""
        last = len(self.lines) - 1
        return b"\r\n".join(
            b"%b%b%b %b" % (self.code.encode(), b" " if at == last else b"-", self.enhanced.encode(), clean_line(line))
            for at, line in enumerate(self.lines)
        )


CONTINUE = Answer(Verb.CONTINUE)
DISCARD = Answer(Verb.DISCARD)


def refusal(action: Action, reply: Reply) -> Answer:
    """A DEFER or REJECT with its reply's codes and text."""
    lines = tuple(reply.lines()[:MAX_REPLY_LINES])
    return Answer(Verb.REFUSE, reply.code(action), reply.enhanced(action), lines)


def clean_line(line: str) -> bytes:
    """One line of a reply's text: nothing in it can end the line or the reply."""
    octets = line.encode("utf-8", "surrogateescape")[:MAX_REPLY_LINE]
    return bytes(32 if octet < 32 or octet == 127 else octet for octet in octets)


_CONTINUE = packet(Response.CONTINUE)
_DISCARD = packet(Response.DISCARD)
PROGRESS = packet(Response.PROGRESS)


def encode_answer(answer: Answer) -> bytes:
    """The packet that ends the answer; its operations go before it (`encode_operation`)."""
    match answer.verb:
        case Verb.CONTINUE:
            return _CONTINUE
        case Verb.DISCARD:
            return _DISCARD
        case Verb.REFUSE:
            # mail servers take the text for a format: Postfix drops a single "%"
            return encode_strings(Response.REPLY_CODE, (answer.reply_text().replace(b"%", b"%%"),))
        case _:
            assert_never(answer.verb)


class Work:
    """A piece of work that may wait: the engine calls `run` in a thread and takes what it returns for the answer.

    The session's next event comes only after that. `abandon` is called when the peer has gone.
    """

    __slots__ = ("_run", "abandoned")

    def __init__(self, run: Callable[[Work], Answer | Negotiation]) -> None:
        self._run = run
        self.abandoned = False

    def run(self) -> Answer | Negotiation:
        return self._run(self)

    def abandon(self) -> None:
        self.abandoned = True


Result = Answer | Work | Negotiation | None
"""None: this event has no answer."""
