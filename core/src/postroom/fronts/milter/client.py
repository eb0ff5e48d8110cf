"""The mail server's side of the milter protocol: for tests, the health check and the load client. Blocking."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from postroom.config import SocketAddress
from postroom.fronts.milter.wire import (
    BODY_CHUNK,
    MAX_VERSION,
    POSTFIX_ACTIONS,
    POSTFIX_PROTOCOL,
    Command,
    Decoder,
    Negotiation,
    Protocol,
    Response,
    WireError,
    encode_connect,
    encode_macros,
    encode_strings,
    packet,
    parse_negotiation,
)

_NO_EVENT = {
    Command.CONNECT: Protocol.NO_CONNECT,
    Command.HELO: Protocol.NO_HELO,
    Command.MAIL: Protocol.NO_MAIL,
    Command.RCPT: Protocol.NO_RCPT,
    Command.DATA: Protocol.NO_DATA,
    Command.HEADER: Protocol.NO_HEADERS,
    Command.END_OF_HEADER: Protocol.NO_END_OF_HEADER,
    Command.BODY: Protocol.NO_BODY,
    Command.UNKNOWN: Protocol.NO_UNKNOWN,
}
_NO_REPLY = {
    Command.CONNECT: Protocol.QUIET_CONNECT,
    Command.HELO: Protocol.QUIET_HELO,
    Command.MAIL: Protocol.QUIET_MAIL,
    Command.RCPT: Protocol.QUIET_RCPT,
    Command.DATA: Protocol.QUIET_DATA,
    Command.HEADER: Protocol.QUIET_HEADERS,
    Command.END_OF_HEADER: Protocol.QUIET_END_OF_HEADER,
    Command.BODY: Protocol.QUIET_BODY,
    Command.UNKNOWN: Protocol.QUIET_UNKNOWN,
}


class FilterGone(Exception):
    """The filter closed the connection, or could not be reached."""


@dataclass(frozen=True, slots=True)
class FilterAnswer:
    """What ended an event, and the modifications before it, as (response, payload)."""

    response: Response
    payload: bytes = b""
    modifications: tuple[tuple[Response, bytes], ...] = ()
    progress: int = 0

    @property
    def reply(self) -> str:
        """The SMTP reply that a refusal carries."""
        return self.payload.rstrip(b"\0").replace(b"%%", b"%").decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Mail:
    """One mail as a mail server would bring it. Values of header fields are as Postfix sends them, with their blank."""

    sender: bytes = b"alice@sender.example"
    recipients: Sequence[bytes] = (b"bob@local.test",)
    fields: Sequence[tuple[bytes, bytes]] = ((b"Subject", b" hello"),)
    body: bytes = b"hello\r\n"
    queue_id: bytes = b"4QUEUE1D"
    macros: Mapping[bytes, bytes] = field(default_factory=dict)


def connect_to(address: SocketAddress, timeout: float) -> socket.socket:
    if address.family == "unix":
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(timeout)
        try:
            peer.connect(address.path)
        except OSError:
            peer.close()
            raise
        return peer
    peer = socket.create_connection((address.host, address.port), timeout)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


class MilterClient:
    """One milter connection. Each event returns the filter's answer, None where none was agreed or wanted."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer, self._decoder = peer, Decoder()
        self.agreed = Negotiation(0, POSTFIX_ACTIONS, POSTFIX_PROTOCOL)

    @classmethod
    def open(cls, address: SocketAddress, timeout: float = 10.0) -> Self:
        try:
            return cls(connect_to(address, timeout))
        except OSError as error:
            raise FilterGone(f"{address}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._peer.close()

    def send(self, octets: bytes) -> None:
        try:
            self._peer.sendall(octets)
        except OSError as error:
            raise FilterGone(str(error)) from None

    def receive(self) -> tuple[int, bytes]:
        """The next packet."""
        while (found := self._decoder.next()) is None:
            try:
                octets = self._peer.recv(1 << 16)
            except OSError as error:
                raise FilterGone(str(error) or type(error).__name__) from None
            if not octets:
                raise FilterGone("the filter closed the connection")
            self._decoder.feed(octets)
        return found

    def answer(self) -> FilterAnswer:
        modifications: list[tuple[Response, bytes]] = []
        progress = 0
        while True:
            code, payload = self.receive()
            try:
                response = Response(code)
            except ValueError:
                raise WireError(f"response {code:#04x}") from None
            if response is Response.PROGRESS:
                progress += 1
            elif response.is_modification:
                modifications.append((response, payload))
            else:
                return FilterAnswer(response, payload, tuple(modifications), progress)

    def negotiate(self, offer: Negotiation | None = None) -> Negotiation:
        self.send((offer or Negotiation(MAX_VERSION, POSTFIX_ACTIONS, POSTFIX_PROTOCOL)).encode())
        code, payload = self.receive()
        if code != Response.NEGOTIATE:
            raise WireError(f"response {code:#04x} to the negotiation")
        self.agreed = parse_negotiation(payload)
        return self.agreed

    def wanted(self, command: Command) -> bool:
        return not self.agreed.protocol & _NO_EVENT.get(command, Protocol.NONE)

    def event(
        self, command: Command, octets: bytes, macros: Mapping[bytes, bytes] | None = None
    ) -> FilterAnswer | None:
        """One command as the mail server would send it: macros first, not at all when it is not wanted."""
        if not self.wanted(command):
            return None
        self.send((encode_macros(command, macros) if macros is not None else b"") + octets)
        if self.agreed.protocol & _NO_REPLY.get(command, Protocol.NONE):
            return None
        return self.answer()

    def connect(
        self, name: bytes = b"client.example", address: bytes = b"203.0.113.5", port: int = 40000, **macros: bytes
    ) -> FilterAnswer | None:
        family = b"6" if b":" in address else b"4"
        told = {b"{daemon_port}": b"25", b"{client_addr}": address, b"{client_name}": name, b"j": b"mx.test.example"}
        told |= {b"{%b}" % key.encode(): value for key, value in macros.items()}
        return self.event(Command.CONNECT, encode_connect(name, family, port, address), told)

    def helo(self, name: bytes = b"client.example") -> FilterAnswer | None:
        return self.event(Command.HELO, encode_strings(Command.HELO, (name,)), {})

    def mail(
        self, sender: bytes, *parameters: bytes, macros: Mapping[bytes, bytes] | None = None
    ) -> FilterAnswer | None:
        strings = (b"<%b>" % sender, *parameters)
        return self.event(Command.MAIL, encode_strings(Command.MAIL, strings), macros or {})

    def rcpt(self, recipient: bytes, macros: Mapping[bytes, bytes] | None = None) -> FilterAnswer | None:
        return self.event(Command.RCPT, encode_strings(Command.RCPT, (b"<%b>" % recipient,)), macros or {})

    def data(self, queue_id: bytes = b"4QUEUE1D") -> FilterAnswer | None:
        return self.event(Command.DATA, packet(Command.DATA), {b"i": queue_id})

    def content(self, fields: Iterable[tuple[bytes, bytes]], body: bytes) -> FilterAnswer | None:
        """Header and body; the first answer that is no *continue* ends it."""
        for name, value in fields:
            if not self._goes_on(answer := self.event(Command.HEADER, encode_strings(Command.HEADER, (name, value)))):
                return answer
        answer = self.event(Command.END_OF_HEADER, packet(Command.END_OF_HEADER))
        if not self._goes_on(answer):
            return answer
        for start in range(0, len(body), BODY_CHUNK):
            answer = self.event(Command.BODY, packet(Command.BODY, body[start : start + BODY_CHUNK]))
            if not self._goes_on(answer):
                return answer
        return None

    @staticmethod
    def _goes_on(answer: FilterAnswer | None) -> bool:
        return answer is None or answer.response is Response.CONTINUE

    def end_of_message(self, queue_id: bytes = b"4QUEUE1D") -> FilterAnswer:
        answer = self.event(Command.END_OF_MESSAGE, packet(Command.END_OF_MESSAGE), {b"i": queue_id})
        assert answer is not None
        return answer

    def abort(self) -> None:
        self.send(packet(Command.ABORT))

    def quit(self) -> None:
        try:
            self.send(packet(Command.QUIT))
        except FilterGone:
            pass
        self.close()

    def deliver(self, mail: Mail) -> FilterAnswer:
        """A whole mail; the answer that ended it. Recipients refused at RCPT are left out."""
        last = self.mail(mail.sender, macros=mail.macros)
        if last is not None and not self._goes_on(last):
            return last
        taken = 0
        for recipient in mail.recipients:
            last = self.rcpt(recipient, mail.macros)
            taken += self._goes_on(last)
        if not taken:
            assert last is not None
            return last
        last = self.data(mail.queue_id)
        if self._goes_on(last):
            last = self.content(mail.fields, mail.body)
        if last is not None and not self._goes_on(last):
            self.abort()
            return last
        answer = self.end_of_message(mail.queue_id)
        self.abort()
        return answer


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`problem` is empty when the filter negotiated and took its leave as it should."""

    address: SocketAddress
    seconds: float
    version: int = 0
    problem: str = ""

    @property
    def healthy(self) -> bool:
        return not self.problem


def probe(address: SocketAddress, timeout: float = 5.0) -> ProbeResult:
    """Whether a filter that speaks the milter protocol answers there: negotiates, as a mail server would, and quits."""
    started = time.monotonic()
    try:
        with MilterClient.open(address, timeout) as client:
            agreed = client.negotiate()
            client.quit()
    except FilterGone as error:
        return ProbeResult(address, time.monotonic() - started, problem=f"no answer: {error}")
    except WireError as error:
        return ProbeResult(address, time.monotonic() - started, problem=f"no milter: {error}")
    return ProbeResult(address, time.monotonic() - started, agreed.version)
