"""A server that takes every mail and keeps it, over SMTP or LMTP: the next hop of tests and of the demo."""

from __future__ import annotations

import re
import socketserver
import threading
from dataclasses import dataclass, field
from typing import Self

from postroom.testing.ports import LOOPBACK
from postroom.testing.processes import wait_until

_MAX_LINE = 1 << 22
_IDLE = 60.0
_ADDRESS = re.compile(r"(?i)^(?:MAIL FROM|RCPT TO):\s*<([^>]*)>\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Received:
    """A mail as the sink got it, dots undone, CRLF line ends."""

    sender: str
    recipients: tuple[str, ...]
    mail: bytes
    sender_options: str = ""

    def field(self, name: str) -> list[str]:
        """The values of every header field of that name, unfolded."""
        return field_values(self.mail, name)


def field_values(mail: bytes, name: str) -> list[str]:
    """The values of every header field of that name, unfolded; line ends as CRLF or LF."""
    header = re.split(rb"\r?\n\r?\n", mail, maxsplit=1)[0].decode("utf-8", "backslashreplace")
    unfolded = re.sub(r"\r?\n[ \t]+", " ", header)
    return re.findall(rf"(?im)^{re.escape(name)}:[ \t]*(.*?)\r?$", unfolded)


@dataclass
class SinkServer:
    """Takes every mail and keeps it; `refuse` maps a recipient to the answer that it gets instead of 250."""

    lmtp: bool = False
    refuse: dict[str, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        self._server = _Server((LOOPBACK, 0), _Session)
        self._server.sink = self
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="sink", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def wait(self, count: int, limit: float = 60) -> list[Received]:
        """All mails, when at least that many are there."""
        wait_until(lambda: len(self.received) >= count, f"mail number {count} at the sink", limit)
        return list(self.received)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    sink: SinkServer


class _Session(socketserver.StreamRequestHandler):
    server: _Server
    timeout = _IDLE

    def handle(self) -> None:
        try:
            self._converse()
        except OSError:
            pass  # the client is gone

    def _converse(self) -> None:
        self._say("220 sink.example ESMTP")
        self._begin()
        while line := self.rfile.readline(_MAX_LINE).decode("utf-8", "backslashreplace").strip():
            match line.split()[0].upper():
                case "EHLO" | "LHLO" | "HELO":
                    self._say("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
                case "MAIL":
                    self._begin()
                    self._sender, self._options = self._address(line)
                    self._say("250 2.1.0 sender ok")
                case "RCPT":
                    self._recipient(self._address(line)[0])
                case "DATA" if self._recipients:
                    self._take_mail()
                case "DATA":
                    self._say("554 5.5.1 no valid recipients")
                case "QUIT":
                    self._say("221 2.0.0 bye")
                    return
                case "RSET" | "NOOP":
                    self._say("250 2.0.0 ok")
                case _:
                    self._say("500 5.5.2 unknown command")

    def _begin(self) -> None:
        self._sender, self._options, self._recipients = "", "", list[str]()

    def _recipient(self, recipient: str) -> None:
        answer = self.server.sink.refuse.get(recipient, "")
        if not answer:
            self._recipients.append(recipient)
        self._say(answer or "250 2.1.5 recipient ok")

    def _take_mail(self) -> None:
        self._say("354 go on")
        lines = []
        while (line := self.rfile.readline(_MAX_LINE)) != b".\r\n":
            if not line:
                return
            lines.append(line[1:] if line.startswith(b".") else line)
        sink = self.server.sink
        sink.received.append(Received(self._sender, tuple(self._recipients), b"".join(lines), self._options))
        for _ in self._recipients if sink.lmtp else ("",):  # RFC 2033 4.2: one answer a recipient
            self._say("250 2.0.0 kept")
        self._begin()

    def _address(self, line: str) -> tuple[str, str]:
        found = _ADDRESS.match(line)
        return (found[1], found[2]) if found else ("", "")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")
