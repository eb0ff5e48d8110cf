"""What tests of virus scanners need: mails to find something in, servers that misbehave, and a desk to hand mail in."""

from __future__ import annotations

import io
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from postroom.config import Duration, SocketAddress
from postroom.mail import BodyCollector, Field, Message, parse_message
from postroom.testing import FakeServices
from postroom.testing.clamd import EICAR
from postroom.testing.standin import Script
from postroom.verdict import Verdict
from postroom_antivirus.handler import AntivirusHandler, clamav, drweb, kaspersky
from postroom_antivirus.settings import AntivirusSettings, ClamavSettings, DrwebSettings, KasperskySettings

HANDLERS = {"clamav": clamav, "drweb": drweb, "kaspersky": kaspersky}
FOUND_NAME = "Test.Eicar.UNOFFICIAL"
LOOPBACK = "127.0.0.1"


def mail(text: str = "nothing bad", subject: str = "hello") -> EmailMessage:
    found = EmailMessage(policy=policy.SMTP)
    found["From"], found["To"], found["Subject"] = "alice@sender.example", "bob@recipient.example", subject
    found.set_content(text)
    return found


def clean() -> Message:
    return parse_message(mail().as_bytes())


def infected() -> Message:
    found = mail()
    found.add_attachment(EICAR, maintype="application", subtype="octet-stream", filename="run.com")
    return parse_message(found.as_bytes())


def infected_deep_inside() -> Message:
    """A virus in a zip in a mail in a mail."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "nothing here\n" * 50)
        archive.writestr("deep/run.com", EICAR)
    inner, outer = mail(subject="inner"), mail(subject="outer")
    inner.add_attachment(packed.getvalue(), maintype="application", subtype="zip", filename="papers.zip")
    outer.add_attachment(inner)
    found = outer.as_bytes()
    assert EICAR not in found
    return parse_message(found)


def long_mail(size: int) -> Message:
    """Exactly that many octets, the body spooled when it is long; nothing bad in it."""
    fields = (Field(b"Subject", b" long", 0),)
    left = size - Message(fields).size()
    collector = BodyCollector()
    line = b"x" * 998 + b"\r\n"
    while left > 0:
        piece = (line * 100)[:left]
        collector.append(piece)
        left -= len(piece)
    return Message(fields, collector.finish())


class Desk:
    """One handler with its services, and one server or several."""

    def __init__(self, name: str, directory: Path, *servers: SocketAddress, **settings: Any) -> None:
        kinds: dict[str, type[AntivirusSettings]] = {
            "clamav": ClamavSettings,
            "drweb": DrwebSettings,
            "kaspersky": KasperskySettings,
        }
        if name != "clamav":
            settings.setdefault("service", "avscan")
        self.name = name
        self.settings = kinds[name](servers=servers, **settings)
        self.services = FakeServices(directory)
        plain = HANDLERS[name]
        self.handler = AntivirusHandler(name, "tests", kinds[name], has_commands=plain is clamav)

    def receive(self, message: Message, **findings: Any) -> Verdict:
        self.services.findings = findings
        return self.handler.before_queue(message, self.settings, self.services)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [facts for _, found, facts in self.services.log.lines if found == event]


def read_stream(connection: socket.socket) -> bytes:
    """A whole INSTREAM as clamd reads it."""
    file = connection.makefile("rb")
    assert file.readline() == b"nINSTREAM\n"
    octets = b""
    while length := int.from_bytes(file.read(4), "big"):
        octets += file.read(length)
    return octets


def read_icap(connection: socket.socket) -> tuple[list[bytes], bytes]:
    """A whole request without preview, as an ICAP server reads it: its head, and the mail."""
    file = connection.makefile("rb")
    head = []
    while line := file.readline().rstrip(b"\r\n"):
        head.append(line)
    if head[0].startswith(b"OPTIONS"):
        return head, b""
    for _ in range(2):
        while file.readline().rstrip(b"\r\n"):
            pass
    return head, b"".join(_chunks(file))


def _chunks(file: Any) -> Iterator[bytes]:
    while length := int(file.readline().split(b";")[0], 16):
        yield file.read(length)
        assert file.readline() == b"\r\n"
    assert file.readline() == b"\r\n"


def answering(answer: bytes, read: Callable[[socket.socket], Any]) -> Script:
    """A script that reads the whole mail and then gives this answer."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        read(connection)
        connection.sendall(answer)

    return script


def unused_address() -> SocketAddress:
    """Where nobody listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return SocketAddress("inet", LOOPBACK, listener.getsockname()[1])


QUICK = Duration(0.5)
