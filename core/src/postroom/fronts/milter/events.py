"""A packet of the mail server to the session's event: the way in that the native engine and the tests share."""

from __future__ import annotations

from collections.abc import Callable

from postroom.fronts.milter.answers import Result
from postroom.fronts.milter.session import Session
from postroom.fronts.milter.wire import (
    Command,
    UnknownCommand,
    parse_connect,
    parse_header,
    parse_macros,
    parse_negotiation,
    parse_string,
    split_strings,
)

_UNREAD_MACROS = (Command.HEADER, Command.END_OF_HEADER, Command.BODY, Command.ABORT, Command.UNKNOWN)


class HangUp(Exception):
    """The mail server said goodbye."""


def _macros(session: Session, payload: bytes) -> Result:
    if payload[:1] and payload[0] in _UNREAD_MACROS:
        return None
    session.macros(*parse_macros(payload))
    return None


def _connect(session: Session, payload: bytes) -> Result:
    name, family, port, address = parse_connect(payload)
    return session.connect(name, port, b"" if family == b"L" else address)


def _abort(session: Session, _: bytes) -> Result:
    session.abort()
    return None


def _quit(_: Session, __: bytes) -> Result:
    raise HangUp


def _next_client(session: Session, _: bytes) -> Result:
    session.next_client()
    return None


def _end_of_message(session: Session, payload: bytes) -> Result:
    if payload:  # the last piece of the body may come with it
        session.body(payload)
    return session.end_of_message()


DISPATCH: dict[int, Callable[[Session, bytes], Result]] = {
    Command.NEGOTIATE: lambda session, payload: session.negotiate(parse_negotiation(payload)),
    Command.MACROS: _macros,
    Command.CONNECT: _connect,
    Command.HELO: lambda session, payload: session.helo(parse_string(payload)),
    Command.MAIL: lambda session, payload: session.mail(split_strings(payload)),
    Command.RCPT: lambda session, payload: session.rcpt(split_strings(payload)),
    Command.DATA: lambda session, _: session.data(),
    Command.HEADER: lambda session, payload: session.header(*parse_header(payload)),
    Command.END_OF_HEADER: lambda session, _: session.end_of_header(),
    Command.BODY: lambda session, payload: session.body(payload),
    Command.END_OF_MESSAGE: _end_of_message,
    Command.ABORT: _abort,
    Command.UNKNOWN: lambda session, _: session.unknown(),
    Command.QUIT: _quit,
    Command.QUIT_NEW_CONNECTION: _next_client,
}


def deliver(session: Session, command: int, payload: bytes) -> Result:
    """The session's answer to one packet; HangUp on QUIT, WireError on what is no packet."""
    event = DISPATCH.get(command)
    if event is None:
        raise UnknownCommand(f"command {command:#04x}")
    return event(session, payload)
