"""A small SMTP client that keeps what was said."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from postroom.testing.ports import LOOPBACK

_MAX_LINE = 1 << 20
_DOT_AT_LINE_START = re.compile(rb"^\.", re.MULTILINE)
_BARE_LF = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a server to one command (the banner's command is empty)."""

    command: str
    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.code} {' / '.join(self.lines)}"

    @property
    def ok(self) -> bool:
        return self.code < 400


@dataclass(frozen=True, slots=True)
class Sent:
    """How one mail fared: the last answer, and that to each recipient."""

    final: Reply
    recipients: dict[str, Reply]

    @property
    def ok(self) -> bool:
        return self.final.code == 250

    @property
    def queue_id(self) -> str:
        """Postfix' name for the mail, when it took it."""
        found = re.search(r"queued as (\S+)", self.final.text)
        return found[1] if found else ""


class SmtpClient:
    """One SMTP session. Nothing is checked or mended: what a test says is what goes out."""

    def __init__(self, port: int, host: str = LOOPBACK, timeout: float = 60) -> None:
        self.conversation: list[Reply] = []
        self._socket = socket.create_connection((host, port), timeout=timeout)
        self._input = self._socket.makefile("rb")
        try:
            self.banner = self._read("")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.quit()
        self.close()

    def close(self) -> None:
        self._input.close()
        self._socket.close()

    def quit(self) -> None:
        try:
            self.command("QUIT")
        except OSError:
            pass  # a server that hung up after 421 owes no answer

    def write(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def command(self, line: str) -> Reply:
        self.write(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return self._read(line)

    def pipeline(self, lines: Sequence[str]) -> list[Reply]:
        """All commands at once (RFC 2920), then all answers."""
        self.write("".join(f"{line}\r\n" for line in lines).encode())
        return [self._read(line) for line in lines]

    def ehlo(self, name: str = "client.example") -> Reply:
        return self.command(f"EHLO {name}")

    def xclient(self, helo: str = "client.example", **attributes: str) -> Reply:
        """Pretend to be another client (ADDR=, NAME=, LOGIN=, …), then greet again: the session begins anew."""
        self.ehlo(helo)
        words = " ".join(f"{name.upper()}={value}" for name, value in attributes.items())
        reply = self.command(f"XCLIENT {words}")
        return self.ehlo(helo) if reply.ok else reply

    def send(self, sender: str, recipients: Iterable[str] | str, mail: bytes, *, options: str = "") -> Sent:
        """One transaction; it ends at the first answer that leaves no recipient, or after the mail's last dot."""
        refused = self.command(f"MAIL FROM:<{sender}>{options}")
        answers: dict[str, Reply] = {}
        if not refused.ok:
            return Sent(refused, answers)
        for recipient in [recipients] if isinstance(recipients, str) else recipients:
            answers[recipient] = self.command(f"RCPT TO:<{recipient}>")
        if not any(reply.ok for reply in answers.values()):
            return Sent(list(answers.values())[-1], answers)
        return Sent(self.data(mail), answers)

    def data(self, mail: bytes) -> Reply:
        reply = self.command("DATA")
        return self.content(mail) if reply.code == 354 else reply

    def content(self, mail: bytes) -> Reply:
        """The mail itself, with CRLF line ends and dots doubled (RFC 5321 4.5.2)."""
        octets = _BARE_LF.sub(b"\r\n", mail)
        if octets and not octets.endswith(b"\r\n"):
            octets += b"\r\n"
        self.write(_DOT_AT_LINE_START.sub(b"..", octets) + b".\r\n")
        return self._read(".")

    def _read(self, command: str) -> Reply:
        lines: list[str] = []
        while True:
            line = self._input.readline(_MAX_LINE)
            if not line:
                raise ConnectionResetError(f"the server hung up on {command[:80]!r}")
            text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
            lines.append(text[4:])
            if text[3:4] != "-":
                reply = Reply(command, int(text[:3]), tuple(lines))
                self.conversation.append(reply)
                return reply
