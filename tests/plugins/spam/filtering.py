"""What the tests of spam share: mails, one call of the handler, and servers that misbehave."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from postroom.cli.main import postroom
from postroom.mail import Message, parse_message
from postroom.testing import FakeServices, envelope
from postroom.testing.spamd import GTUBE
from postroom.testing.standin import Script
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


class Admin:
    """Who runs `postroom spam …`, with these settings."""

    def __init__(self, base: Path, **settings: Any) -> None:
        self.base = base
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        (base / "postroom.toml").write_text(f'[paths]\nstate = "{base}"\nrun = "{base}"\n[handlers.spam]\n{lines}')

    def __call__(self, *words: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(postroom, ["--config", str(self.base / "postroom.toml"), *words], input=stdin)

    def mail(self, octets: bytes, name: str = "mail.eml") -> str:
        (self.base / name).write_bytes(octets.replace(b"\r\n", b"\n"))
        return str(self.base / name)


def says(answer: bytes, *, until: bytes = b"lunch") -> Script:
    def script(connection: socket.socket, _: threading.Event) -> None:
        received = b""
        while until and until not in received and (chunk := connection.recv(65536)):
            received += chunk
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # closed with octets unread, a connection is reset: the answer may be lost
            pass

    return script
