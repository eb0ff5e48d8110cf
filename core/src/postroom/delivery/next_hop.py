"""Delivery to an LMTP server behind us (RFC 2033), one transaction a recipient, over connections that are kept."""

from __future__ import annotations

import contextlib
import re
import smtplib
import threading
from collections.abc import Iterator
from pathlib import Path

from postroom.config import SocketAddress
from postroom.delivery.parcel import Parcel
from postroom.delivery.report import UNAVAILABLE, Report, bad_mailbox_name, from_reply
from postroom.hookspecs import Logger
from postroom.mail import Address, Envelope, Message

MAX_IDLE = 16
"""Connections kept open for the next mail; as many deliveries as `[lmtp] threads` may be at work beside them."""

_ATOM = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\\\]]+")
_LONE_CR = re.compile(rb"\r(?!\n)")
_LONE_LF = re.compile(rb"(?<!\r)\n")
_NO_SMTPUTF8 = Report("553", "5.6.7", "Non-ASCII addresses are not permitted for this mailbox")  # RFC 6531 3.5


class _Refused(Exception):
    """The server behind us answered, and not as hoped."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.line())
        self.report = report


class _OutOfStep(smtplib.SMTPException):
    """Its replies do not belong to our commands: none of them may be taken for the one that says "delivered"."""


class _Client(smtplib.LMTP):
    """smtplib's client, with commands as octets and the mail as a stream."""

    def command(self, line: bytes, hoped: str = "2") -> Report:
        if any(octet in line for octet in (b"\r", b"\n", b"\0")):
            raise _Refused(bad_mailbox_name())
        self._expect_silence()
        self.send(line + b"\r\n")
        return self.answer(hoped)

    def answer(self, hoped: str = "2") -> Report:
        code, text = self.getreply()
        if hoped == "3" and code == 354:
            return Report("354", "2.0.0", "")
        report = from_reply(code, text.decode("utf-8", "replace"))
        if not report.code.startswith(hoped):
            if report.done:  # to DATA: nothing has been sent yet that it could have taken
                raise _OutOfStep(f"{code} in place of 354")
            raise _Refused(report)
        return report

    def send_mail(self, message: Message) -> Report:
        self.command(b"DATA", "3")
        for chunk in _stuffed(message):
            self.send(chunk)
        self._expect_silence()
        self.send(b".\r\n")
        return self.answer()

    def _expect_silence(self) -> None:
        """Nobody says anything before he is asked (RFC 5321 4.1.1.4, 4.2): what came is left over from before."""
        if self.sock is None or self.file is None:
            return  # closed: whoever sends notices
        self.sock.settimeout(0)
        try:
            unasked = self.file.peek(1)
        finally:
            self.sock.settimeout(self.timeout)
        if unasked:
            raise _OutOfStep("it said something that nobody asked for")


class NextHopDelivery:
    """Hands each mail to one LMTP server and passes its answer on, codes and all."""

    def __init__(
        self,
        target: SocketAddress,
        timeout: float,
        host_name: str,
        log: Logger,
        *,
        delimiter: str = "+",
        folder_delimiter: str = "",
    ) -> None:
        """`folder_delimiter`: how the server behind us is told of folders; empty: it cannot be."""
        self._target, self._timeout, self._host_name, self._log = target, timeout, host_name, log
        self._delimiter, self._folder_delimiter = delimiter, folder_delimiter
        self._idle: list[_Client] = []
        self._lock = threading.Lock()

    def final(self, recipient: Address) -> bool:  # noqa: ARG002  # the same for all
        return False

    def check(self, recipient: Address, root: Path | None = None) -> Report | None:  # noqa: ARG002  # Maildirs only
        """The server behind us knows its users, and says so when the mail is handed on."""
        return None if recipient else bad_mailbox_name()

    def deliver(self, parcel: Parcel) -> Report:
        client: _Client | None = None
        try:
            client = self._take() or self._connect()
            report = self._transact(client, parcel)
        except _Refused as refused:
            report = refused.report
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            self._log.error(
                "next hop failed",
                queue_id=parcel.envelope.queue_id,
                recipient=parcel.recipient.text,
                next_hop=str(self._target),
                error=f"{type(error).__name__}: {error}",
            )
            if client is not None:
                client.close()
            return UNAVAILABLE
        if client is not None:
            self._give_back(client)
        return report

    def close(self) -> None:
        with self._lock:
            clients, self._idle = self._idle, []
        for client in clients:
            client.close()

    def _connect(self) -> _Client:
        host, port = (self._target.path, 0) if self._target.family == "unix" else (self._target.host, self._target.port)
        client = _Client(host, port, local_hostname=self._host_name, timeout=self._timeout)
        try:
            client.ehlo_or_helo_if_needed()  # LHLO: smtplib's LMTP says so
        except BaseException:
            client.close()
            raise
        return client

    def _take(self) -> _Client | None:
        """A kept connection that still answers."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                client = self._idle.pop()
            try:
                client.command(b"RSET")
            except (OSError, smtplib.SMTPException, _Refused):
                client.close()
            else:
                return client

    def _give_back(self, client: _Client) -> None:
        with self._lock:
            if client.sock is not None and len(self._idle) < MAX_IDLE:
                self._idle.append(client)
                return
        client.close()

    def _transact(self, client: _Client, parcel: Parcel) -> Report:
        envelope = parcel.envelope
        non_ascii = not (envelope.sender.text.isascii() and parcel.recipient.text.isascii())
        if non_ascii and not client.has_extn("smtputf8"):
            raise _Refused(_NO_SMTPUTF8)
        if client.has_extn("xforward"):
            _forward_session(client, envelope)
        parameters = []
        if client.has_extn("size"):
            parameters.append(b"SIZE=%d" % parcel.message.size())
        if client.has_extn("8bitmime"):
            parameters.append(b"BODY=8BITMIME")
        if (non_ascii or parcel.smtputf8) and client.has_extn("smtputf8"):
            parameters.append(b"SMTPUTF8")
        client.command(b" ".join([b"MAIL FROM:<%b>" % _octets(envelope.sender), *parameters]))
        self._name_recipient(client, parcel)
        return client.send_mail(parcel.message)

    def _name_recipient(self, client: _Client, parcel: Parcel) -> None:
        """As user+Folder when a folder is asked for. One that is refused for good, or cannot be told, is the inbox."""
        facts = {
            "queue_id": parcel.envelope.queue_id,
            "recipient": parcel.recipient.text,
            "folder": parcel.folder,
        }
        detailed = self._with_detail(parcel.recipient, parcel.folder)
        if detailed:
            try:
                client.command(b"RCPT TO:<%b>" % detailed)
                return
            except _Refused as refused:
                if refused.report.temporary:
                    raise
                self._log.warning(
                    "next hop takes no mail for the folder; it goes to the inbox", reply=refused.report.line(), **facts
                )
        elif parcel.folder:
            self._log.info("next hop cannot be told of the folder; the mail goes to the inbox", **facts)
        client.command(b"RCPT TO:<%b>" % _octets(parcel.recipient))

    def _with_detail(self, recipient: Address, folder: str) -> bytes:
        """user+Folder@domain (RFC 5233), in place of a tag; empty when it cannot be written or nobody may."""
        if not folder or not self._folder_delimiter or not folder.isascii() or recipient.text.startswith('"'):
            return b""
        local, at, domain = recipient.text.rpartition("@") if "@" in recipient.text else (recipient.text, "", "")
        user = (local.partition(self._delimiter)[0] or local) if self._delimiter else local
        detailed = f"{user}{self._folder_delimiter}{folder}"
        quoted = detailed if _ATOM.fullmatch(detailed) else f'"{detailed}"'  # RFC 5321 4.1.2
        return f"{quoted}{at}{domain}".encode("utf-8", "surrogateescape")


def _forward_session(client: _Client, envelope: Envelope) -> None:
    """What we know of the SMTP client, in the attributes that the server behind us announced."""
    session = envelope.session
    address = session.client_address
    facts = {
        "NAME": session.client_name,
        "ADDR": "" if address is None else f"IPV6:{address}" if address.version == 6 else str(address),
        "PORT": str(session.client_port) if session.client_port else "",
        "HELO": session.helo,
        "IDENT": envelope.queue_id,
        "SOURCE": "LOCAL" if session.submitted_locally else "REMOTE",
    }
    announced = client.esmtp_features.get("xforward", "").upper().split()
    attributes = [
        b"%b=%b" % (name.encode(), to_xtext(value)) for name, value in facts.items() if value and name in announced
    ]
    if attributes:
        with contextlib.suppress(_Refused):  # it offered it and will not have it: the mail matters more
            client.command(b" ".join([b"XFORWARD", *attributes]))


def to_xtext(text: str) -> bytes:
    """RFC 3461 4."""
    octets = text.encode("utf-8", "surrogateescape")
    return b"".join(
        bytes([octet]) if 33 <= octet <= 126 and octet not in b"+=" else b"+%02X" % octet for octet in octets
    )


def _octets(address: Address) -> bytes:
    return address.text.encode("utf-8", "surrogateescape")


def _stuffed(message: Message) -> Iterator[bytes]:
    """The mail for DATA (RFC 5321 4.5.2), dots doubled, ended by CRLF, and no line end that is not CRLF.

    A lone CR becomes a blank: some servers take it for a line end, and end the mail where we do not.
    """
    held, at_line_start = b"", True
    for chunk in message.chunks():
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        octets = octets[: len(octets) - len(held)]
        if not octets:
            continue
        octets = _LONE_LF.sub(b"\r\n", _LONE_CR.sub(b" ", octets))
        stuffed = octets.replace(b"\r\n.", b"\r\n..")
        yield b"." + stuffed if at_line_start and octets.startswith(b".") else stuffed
        at_line_start = octets.endswith(b"\n")
    if not at_line_start or held:
        yield b"\r\n"
