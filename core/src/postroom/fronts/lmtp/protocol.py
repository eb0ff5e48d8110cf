"""One LMTP session (RFC 2033) as a state machine: octets in; replies, and work for others, out. No socket, no clock.

`receive` hands octets in; `step` says what to do next, until it returns None: more octets are needed, or work that a
step asked for is not done (`checked`, `delivered`). One command at a time: what a client pipelines, waits.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from postroom.delivery.report import Report
from postroom.fronts.conversation import HangUp, Send
from postroom.fronts.lmtp.data import MailReceiver
from postroom.fronts.lmtp.forward import XFORWARD_NAMES, BadAttribute, Forwarded, read_attributes
from postroom.mail import NULL_SENDER, Address, Message, address_from_wire
from postroom.registration import MAX_ADDRESS

MAX_COMMAND = 4096  # octets; RFC 5321 4.5.3.1.4 asks for 512, XFORWARD and long addresses for more
MAX_ERRORS = 50  # bad commands until the client is sent away


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may send."""

    message: int
    recipients: int


@dataclass
class Transaction:
    """One mail on its way in."""

    sender: Address = NULL_SENDER
    declared_size: int | None = None
    smtputf8: bool = False
    peer_helo: str = ""
    forwarded: Forwarded = field(default_factory=Forwarded)
    recipients: list[Address] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CheckRecipient:
    """Is there such a mailbox? Tell `checked`."""

    transaction: Transaction
    recipient: Address


@dataclass(frozen=True, slots=True)
class DeliverMail:
    """The mail is complete: send one reply for each recipient, in order (RFC 2033 4.2), then tell `delivered`."""

    transaction: Transaction
    message: Message


Step = Send | CheckRecipient | DeliverMail | HangUp


class _State(enum.Enum):
    COMMAND = enum.auto()  # waits for a command's line
    LONG_LINE = enum.auto()  # drops the rest of a line that was too long
    MAIL = enum.auto()  # takes what follows DATA
    WORK = enum.auto()  # somebody else is at work
    OVER = enum.auto()  # nothing more is said


_PATH = re.compile(rb'<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>')
_SOURCE_ROUTE = re.compile(rb"@[^:]*:")  # RFC 5321 4.1.1.3: accept, and ignore

_OK = b"250 2.0.0 OK\r\n"
_BYE = b"221 2.0.0 Bye\r\n"
_GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
_TOO_LONG = b"500 5.5.2 Line too long\r\n"
_LONE_LINE_END = b"500 5.5.2 Lines end with CR LF\r\n"
_UNKNOWN = b"500 5.5.2 Command not known\r\n"
_NOT_LMTP = b"500 5.5.1 This is LMTP: say LHLO\r\n"  # RFC 2033 4.1
_FIRST_LHLO = b"503 5.5.1 Say LHLO first\r\n"
_FIRST_MAIL = b"503 5.5.1 Say MAIL first\r\n"
_IN_TRANSACTION = b"503 5.5.1 A mail is in hand already\r\n"
_NO_RECIPIENTS = b"503 5.5.1 No valid recipients\r\n"  # RFC 2033 4.2
_SYNTAX = b"501 5.5.4 Syntax error in parameters\r\n"
_BAD_PARAMETER = b"555 5.5.4 Parameter not supported\r\n"
_BAD_SENDER = b"501 5.1.7 Bad sender address syntax\r\n"
_BAD_RECIPIENT = b"501 5.1.3 Bad recipient address syntax\r\n"
_TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients\r\n"
_TOO_MANY_ERRORS = b"421 4.7.0 Too many errors\r\n"
_NOT_TRUSTED = b"550 5.7.1 Not for you\r\n"
_CANNOT_VERIFY = b"252 2.5.2 Send it and see\r\n"

TOO_BIG = Report("552", "5.3.4", "Message too big for system")
HEADER_TOO_LONG = Report("552", "5.3.4", "Message header too long")
NO_SPACE = Report("452", "4.3.1", "Not enough space - try again later")


class LmtpProtocol:
    """`trusted`: the peer is on this host, so it may say who the SMTP client was."""

    def __init__(self, host_name: str, limits: Limits, *, trusted: bool) -> None:
        self._host_name, self._limits, self._trusted = host_name, limits, trusted
        self._state = _State.COMMAND
        self._buffer = b""
        self._helo: str | None = None
        self._transaction: Transaction | None = None
        self._forwarded = Forwarded()
        self._receiver: MailReceiver | None = None
        self._errors = 0

    @property
    def idle(self) -> bool:
        """Whether hanging up now would cost no client a mail in hand."""
        return self._state is _State.COMMAND and self._transaction is None

    @property
    def working(self) -> bool:
        return self._state is _State.WORK

    def greeting(self) -> bytes:
        return f"220 {self._host_name} LMTP Postroom\r\n".encode()

    def receive(self, octets: bytes) -> None:
        self._buffer += octets

    def step(self) -> Step | None:
        """What to do next; None: wait for octets, or for the work that is being done."""
        while self._buffer:
            match self._state:
                case _State.WORK | _State.OVER:
                    return None
                case _State.MAIL:
                    step = self._receive_mail()
                case _State.LONG_LINE:
                    if not self._drop_line():
                        return None
                    continue
                case _State.COMMAND:
                    line = self._take_line()
                    if line is None:
                        return None
                    step = self._command(line) if isinstance(line, bytes) else line
            if step is not None:
                return self._counted(step)
        return None

    def checked(self, recipient: Address, refusal: Report | None) -> Send:
        """The answer to RCPT: a refusal, or None for a mailbox that may get mail."""
        self._state = _State.COMMAND
        assert self._transaction is not None
        if refusal is not None:
            return Send(refusal.wire())
        self._transaction.recipients.append(recipient)
        return Send(b"250 2.1.5 OK\r\n")

    def delivered(self) -> None:
        """Every recipient has been answered for."""
        self._reset()
        self._state = _State.COMMAND

    # Lines

    def _take_line(self) -> bytes | Step | None:
        line, end, rest = self._buffer.partition(b"\r\n")
        if len(line) > MAX_COMMAND:
            if end:
                self._buffer = rest
            else:
                self._state = _State.LONG_LINE
            return Send(_TOO_LONG)
        if not end:
            return None
        self._buffer = rest
        if b"\r" in line or b"\n" in line or b"\0" in line:
            return Send(_LONE_LINE_END)
        return line

    def _drop_line(self) -> bool:
        """Whether the end of the line that was too long has come."""
        _, end, rest = self._buffer.partition(b"\r\n")
        if end:
            self._buffer, self._state = rest, _State.COMMAND
            return True
        self._buffer = b"\r" if self._buffer.endswith(b"\r") else b""  # its LF may be on the way
        return False

    def _counted(self, step: Step) -> Step:
        if isinstance(step, Send) and step.octets[:1] == b"5":
            self._errors += 1
            if self._errors > MAX_ERRORS:
                return self._hang_up(_TOO_MANY_ERRORS)
        return step

    def _hang_up(self, octets: bytes) -> HangUp:
        self._state = _State.OVER
        self._buffer = b""
        return HangUp(octets)

    def _reset(self) -> None:
        self._transaction = None
        self._forwarded = Forwarded()
        self._receiver = None

    # Commands

    def _command(self, line: bytes) -> Step:
        verb, _, argument = line.partition(b" ")
        command = _COMMANDS.get(verb.upper())
        if command is None:
            return Send(_UNKNOWN)
        return command(self, argument.strip())

    def _lhlo(self, argument: bytes) -> Step:
        if not argument or b" " in argument:
            return Send(_SYNTAX)
        self._helo = argument.decode("utf-8", "replace")
        self._reset()
        names = [
            "PIPELINING",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            f"SIZE {self._limits.message}",
        ]
        if self._trusted:
            names += [f"XFORWARD {' '.join(XFORWARD_NAMES)}", "XPOSTROOM"]
        lines = [self._host_name, *names]
        last = len(lines) - 1
        return Send("".join(f"250{' ' if at == last else '-'}{text}\r\n" for at, text in enumerate(lines)).encode())

    def _not_lmtp(self, argument: bytes) -> Step:  # noqa: ARG002  # one signature for all commands
        return Send(_NOT_LMTP)

    def _mail(self, argument: bytes) -> Step:
        if self._helo is None:
            return Send(_FIRST_LHLO)
        if self._transaction is not None:
            return Send(_IN_TRANSACTION)
        found = _path(argument, b"FROM:")
        if found is None:
            return Send(_BAD_SENDER)
        sender, parameters = found
        transaction = Transaction(sender, peer_helo=self._helo, forwarded=self._forwarded)
        for parameter in parameters:
            if refusal := self._mail_parameter(transaction, parameter):
                return Send(refusal)
        self._transaction = transaction
        return Send(b"250 2.1.0 OK\r\n")

    def _mail_parameter(self, transaction: Transaction, parameter: bytes) -> bytes | None:
        name, _, value = parameter.upper().partition(b"=")
        match name:
            case b"SIZE":  # RFC 1870
                if not value.isdigit() or len(value) > 20:
                    return _SYNTAX
                transaction.declared_size = int(value)
                return TOO_BIG.wire() if transaction.declared_size > self._limits.message else None
            case b"BODY":  # RFC 6152
                return None if value in (b"7BIT", b"8BITMIME") else _SYNTAX
            case b"SMTPUTF8" if not value:  # RFC 6531 3.4
                transaction.smtputf8 = True
                return None
            case _:
                return _BAD_PARAMETER

    def _rcpt(self, argument: bytes) -> Step:
        if self._transaction is None:
            return Send(_FIRST_MAIL)
        found = _path(argument, b"TO:")
        if found is None or not found[0]:
            return Send(_BAD_RECIPIENT)
        recipient, parameters = found
        if parameters:
            return Send(_BAD_PARAMETER)
        if len(self._transaction.recipients) >= self._limits.recipients:
            return Send(_TOO_MANY_RECIPIENTS)
        self._state = _State.WORK
        return CheckRecipient(self._transaction, recipient)

    def _data(self, argument: bytes) -> Step:
        if argument:
            return Send(_SYNTAX)
        if self._transaction is None:
            return Send(_FIRST_MAIL)
        if not self._transaction.recipients:
            return Send(_NO_RECIPIENTS)
        self._state = _State.MAIL
        self._receiver = MailReceiver(self._limits.message)
        return Send(_GO_AHEAD)

    def _receive_mail(self) -> Step | None:
        assert self._receiver is not None
        assert self._transaction is not None
        octets, self._buffer = self._buffer, b""
        rest = self._receiver.feed(octets)
        if rest is None:
            return None
        self._buffer = rest
        message = self._receiver.finish()
        refusal = self._refusal(self._receiver)
        if refusal is not None:
            answers = refusal.wire() * len(self._transaction.recipients)
            self.delivered()
            return Send(answers)
        self._state = _State.WORK
        self._receiver = None
        return DeliverMail(self._transaction, message)

    def _refusal(self, receiver: MailReceiver) -> Report | None:
        if receiver.failed is not None:
            return NO_SPACE
        if receiver.too_big:
            return TOO_BIG
        return HEADER_TOO_LONG if receiver.header_too_long else None

    def _rset(self, argument: bytes) -> Step:
        if argument:
            return Send(_SYNTAX)
        self._reset()
        return Send(_OK)

    def _noop(self, argument: bytes) -> Step:  # noqa: ARG002  # RFC 5321 4.1.1.9: an argument is ignored
        return Send(_OK)

    def _quit(self, argument: bytes) -> Step:  # noqa: ARG002  # one signature for all commands
        return self._hang_up(_BYE)

    def _vrfy(self, argument: bytes) -> Step:
        return Send(_CANNOT_VERIFY if argument else _SYNTAX)

    def _xforward(self, argument: bytes) -> Step:
        return self._told(b"XFORWARD", argument)

    def _xpostroom(self, argument: bytes) -> Step:
        return self._told(b"XPOSTROOM", argument)

    def _told(self, command: bytes, argument: bytes) -> Step:
        if not self._trusted:
            return Send(_NOT_TRUSTED)
        if self._helo is None:
            return Send(_FIRST_LHLO)
        if self._transaction is not None:
            return Send(_IN_TRANSACTION)
        try:
            self._forwarded = read_attributes(self._forwarded, command, argument)
        except BadAttribute as error:
            return Send(f"501 5.5.4 {command.decode()}: {error}\r\n".encode())
        return Send(_OK)


_COMMANDS: Mapping[bytes, Callable[[LmtpProtocol, bytes], Step]] = {
    b"LHLO": LmtpProtocol._lhlo,
    b"HELO": LmtpProtocol._not_lmtp,
    b"EHLO": LmtpProtocol._not_lmtp,
    b"MAIL": LmtpProtocol._mail,
    b"RCPT": LmtpProtocol._rcpt,
    b"DATA": LmtpProtocol._data,
    b"RSET": LmtpProtocol._rset,
    b"NOOP": LmtpProtocol._noop,
    b"QUIT": LmtpProtocol._quit,
    b"VRFY": LmtpProtocol._vrfy,
    b"XFORWARD": LmtpProtocol._xforward,
    b"XPOSTROOM": LmtpProtocol._xpostroom,
}


def _path(argument: bytes, keyword: bytes) -> tuple[Address, list[bytes]] | None:
    """The address of `FROM:<…>` or `TO:<…>` and the parameters after it; None when it is none."""
    if argument[: len(keyword)].upper() != keyword:
        return None
    found = _PATH.match(argument[len(keyword) :].lstrip())
    if found is None:
        return None
    rest = argument[len(keyword) :].lstrip()[found.end() :]
    if rest and not rest.startswith(b" "):
        return None
    path = _SOURCE_ROUTE.sub(b"", found[1], count=1) if found[1].startswith(b"@") else found[1]
    if len(path) > MAX_ADDRESS or any(octet < 32 or octet == 127 for octet in path):
        return None
    local, at, domain = path.rpartition(b"@")
    if path and ((at and not (local and domain)) or b" " in domain):
        return None
    return address_from_wire(b"<" + path + b">"), rest.split()
