"""What the tests of spam share: mails, one call of the handler, and servers that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from postroom.config import SocketAddress
from postroom.mail import Message, parse_message
from postroom.testing import FakeServices, envelope
from postroom.testing.spamd import GTUBE
from postroom.verdict import Verdict
from postroom_spam.handler import SpamHandler
from postroom_spam.policy import SpamFinding
from postroom_spam.settings import SpamSettings

HAM = (
    b"Received: from mail.friend.example (mail.friend.example [203.0.113.5])\r\n"
    b"\tby mx.recipient.example; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"From: Alice <alice@friend.example>\r\nTo: bob@recipient.example\r\nSubject: lunch\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <20231114221320.1@friend.example>\r\n\r\n"
    b"Shall we meet for lunch at noon? The usual place has a new menu.\r\n"
)
SPAM = HAM + GTUBE.encode() + b"\r\n"
BOB = "bob@recipient.example"


@dataclass
class Desk:
    """One worker's handler, and what it is lent."""

    base: Path
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 20.0

    def __post_init__(self) -> None:
        self.handler = SpamHandler()
        self.services = FakeServices(self.base, seconds_left=self.seconds)

    def judge(
        self, mail: bytes | Message = HAM, recipient: str = BOB, sender: str = "alice@friend.example", **settings: Any
    ) -> Verdict:
        message = mail if isinstance(mail, Message) else parse_message(mail)
        return self.handler.before_local(
            envelope(sender, recipient), message, SpamSettings(**{**self.settings, **settings}), self.services
        )

    def find(self, mail: bytes = HAM, recipient: str = BOB, **settings: Any) -> SpamFinding:
        finding = self.judge(mail, recipient, **settings).finding
        assert isinstance(finding, SpamFinding)
        return finding

    def edited(self, mail: bytes = HAM, **settings: Any) -> Message:
        message = parse_message(mail)
        return message.with_edits(self.judge(message, **settings).edits)


Behaviour = Callable[[socket.socket, threading.Event], None]


class FaultyServer:
    """Accepts connections, and does with each what the test says; `calls` counts them."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._over = threading.Event()
        self.calls = 0

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.05)
        self.address = SocketAddress("inet", "127.0.0.1", self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        self._listening.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            self.calls += 1
            thread = threading.Thread(target=self._answer, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._behaviour(connection, self._over)
            except OSError:
                pass  # the client has had enough


def hangs(connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def drips(connection: socket.socket, over: threading.Event) -> None:
    """An octet now and then: no single wait is long."""
    for octet in b"SPAMD/1.1 0 EX_OK\r\n" + b"X" * 100000:
        if over.wait(0.05):
            return
        connection.sendall(bytes([octet]))


def drips_http(connection: socket.socket, over: threading.Event) -> None:
    for octet in b"HTTP/1.1 200 OK\r\nX-A: " + b"X" * 100000:
        if over.wait(0.05):
            return
        connection.sendall(bytes([octet]))


def says(answer: bytes, *, until: bytes = b"lunch") -> Behaviour:
    def behaviour(connection: socket.socket, over: threading.Event) -> None:
        connection.settimeout(10)
        received = b""
        while until and until not in received and (chunk := connection.recv(65536)):
            received += chunk
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # closed with octets unread, a connection is reset: the answer may be lost
            pass

    return behaviour
