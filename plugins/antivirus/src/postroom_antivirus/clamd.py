"""Scanners that speak clamd's protocol: ClamAV's clamd, and Dr.Web's ClamD component.

pyclamd's weaknesses are handled here and nowhere else; docs/decisions/pyclamd.md has them, measured.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyclamd.pyclamd
from postroom.backends.connection import Connection
from postroom.backends.deadline import Deadline
from postroom.backends.octets import Octets, pieces
from postroom.backends.trouble import BackendClosed, BackendTrouble, safe
from postroom.config import SocketAddress

from postroom_antivirus.engine import Health, ScanResult, Status

MAX_REPLY = 4096  # octets of one line; VERSIONCOMMANDS takes 200
MAX_LINES = 100  # of STATS, which has a dozen
TOO_LARGE = "INSTREAM size limit exceeded. ERROR"  # clamd(8): past StreamMaxLength
_EARLY = "called the mail clean before it had all of it"
_MORE = "called the mail clean, and said more"
_REPLY = re.compile(r"[^:]{1,200}: (?:(?P<clean>OK)|(?P<found>.+) FOUND|(?P<error>.+) ERROR)")
_DIGEST = re.compile(r"\([0-9a-f]{32,64}:\d+\)$")  # clamd.conf(5) ExtendedDetectionInfo appends it to the name
_VERSION = re.compile(r"(?P<program>[^/]+)(?:/(?P<number>\d+)/(?P<built>.+))?")


class _Client(pyclamd.pyclamd._ClamdGeneric):  # type: ignore[misc]  # pyclamd has no types
    """pyclamd's commands over a connection of ours: time limits, IPv6, whole lines, no retries, nothing left open.

    One object is one command: pyclamd keeps the socket in the object.
    """

    def __init__(self, address: SocketAddress, deadline: Deadline, connect_timeout: float) -> None:
        self._address, self._deadline, self._connect_timeout = address, deadline, connect_timeout

    def _init_socket(self) -> None:
        self.connection = Connection(self._address, self._deadline, self._connect_timeout)
        self.clamd_socket = self.connection  # pyclamd sends its commands to it, and closes it

    def _recv_response(self) -> str:
        return self.connection.line(MAX_REPLY).decode("utf-8", "replace").strip()

    def _recv_response_multiline(self) -> str:
        lines: list[str] = []
        try:
            while (line := self.connection.line(MAX_REPLY)) != b"END" and len(lines) < MAX_LINES:
                lines.append(line.decode("utf-8", "replace"))
        except BackendClosed:
            pass  # others than clamd say that they do not know the command, and close
        return "\n".join(lines)

    @contextmanager
    def command(self, name: str) -> Iterator[Connection]:
        """For what pyclamd does not know, or does wrong."""
        self._init_socket()
        with self.connection:
            self._send_command(name)
            yield self.connection

    def commands(self) -> frozenset[str]:
        """What the server knows; none when it does not tell, as others than clamd."""
        try:
            with self.command("VERSIONCOMMANDS"):
                reply = self._recv_response()
        except BackendClosed:
            return frozenset()
        return frozenset(reply.partition("COMMANDS:")[2].split())

    def stream(self, mail: Octets) -> tuple[str, str]:
        """INSTREAM (clamd(8)), in place of pyclamd's: its answer, and why "OK" would not be one, if so."""
        with self.command("INSTREAM") as connection:
            for piece in pieces(mail.chunks()):
                if connection.has_answer() or not connection.send(struct.pack("!L", len(piece)) + piece):
                    return self._recv_response(), _EARLY
            early = connection.has_answer() or not connection.send(struct.pack("!L", 0))
            reply = self._recv_response()
            return reply, _EARLY if early else _MORE if connection.has_answer() else ""

    def takes_streams_of(self, size: int) -> bool:
        """Whether StreamMaxLength allows for that many octets, without sending any.

        clamd refuses by the length that a chunk announces; after the length there is nothing more to read for it.
        """
        with self.command("INSTREAM") as connection:
            connection.send(struct.pack("!L", min(size, (1 << 32) - 1)))
            connection.end_sending()
            try:
                return self._recv_response() != TOO_LARGE
            except BackendClosed:
                return True


class ClamdEngine:
    """One server, at a unix: or inet: socket."""

    def __init__(self, address: SocketAddress, connect_timeout: float) -> None:
        self.address, self._connect_timeout = address, connect_timeout

    def scan(self, mail: Octets, deadline: Deadline) -> ScanResult:
        reply, doubt = self._client(deadline).stream(mail)
        result = parse_reply(reply, str(self.address))
        if doubt and result.status is Status.CLEAN:
            raise BackendTrouble(doubt)
        return result

    def health(self, deadline: Deadline, max_size: int) -> Health:
        client = self._client(deadline)
        with _closing(client):
            client.ping()
        commands = client.commands()
        with _closing(client):
            told = _VERSION.fullmatch(safe(client.version()))
        problems = []
        if commands and "INSTREAM" not in commands:
            problems.append("does not know INSTREAM")
        elif not client.takes_streams_of(max_size):
            problems.append(f"takes less than our max_size ({max_size}): raise its StreamMaxLength, or lower it")
        with _closing(client):
            stats = [line.strip() for line in str(client.stats()).splitlines()]
        facts = tuple(safe(line) for line in stats if line.startswith(("STATE:", "THREADS:", "QUEUE:")))
        version = told["program"] if told else "unknown version"
        if told and told["number"]:
            version += f", signatures {told['number']}"
        return Health(version, _moment(told["built"]) if told and told["built"] else None, facts, tuple(problems))

    def _client(self, deadline: Deadline) -> _Client:
        return _Client(self.address, deadline, self._connect_timeout)


@contextmanager
def _closing(client: _Client) -> Iterator[None]:
    """pyclamd leaves the socket open when a command fails, and has an error of its own for an answer that is wrong."""
    try:
        yield
    except pyclamd.pyclamd.ConnectionError as error:
        raise BackendTrouble(safe(str(error))) from None
    finally:
        if connection := getattr(client, "connection", None):
            connection.close()


def parse_reply(reply: str, server: str) -> ScanResult:
    """What INSTREAM's answer says; BackendTrouble when it says nothing that we know."""
    if reply == TOO_LARGE:
        return ScanResult(Status.TOO_LARGE, detail="longer than its StreamMaxLength", server=server)
    told = _REPLY.fullmatch(reply)
    if told is None:
        raise BackendTrouble(f"answered {safe(reply)!r}")
    if told["clean"]:
        return ScanResult(Status.CLEAN, server=server)
    if told["found"]:
        name = safe(_DIGEST.sub("", told["found"]))
        return ScanResult(Status.FOUND, (name or "unnamed",), server=server)
    return ScanResult(Status.ERROR, detail=safe(told["error"]), server=server)


def _moment(text: str) -> float | None:
    """When the signatures were built, as VERSION tells it: `Tue Oct  8 10:53:02 2024`."""
    try:
        return time.mktime(time.strptime(" ".join(text.split()), "%a %b %d %H:%M:%S %Y"))
    except (ValueError, OverflowError):
        return None
