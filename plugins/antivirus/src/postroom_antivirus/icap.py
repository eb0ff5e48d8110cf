"""An ICAP client (RFC 3507), as much of it as a mail for a virus scanner takes; strict, and bounded in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from postroom.backends.connection import Connection
from postroom.backends.octets import Octets, pieces
from postroom.backends.trouble import BackendTrouble, safe
from postroom.config import SocketAddress

MAX_LINE = 8192  # octets
MAX_FIELDS = 100
_STATUS = re.compile(rb"(ICAP|HTTP)/1\.[01] ([1-5]\d\d)(?: (.*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_SECTION = re.compile(r"\s*((?:req|res)-hdr|(?:req|res|opt|null)-body)\s*=\s*(\d{1,9})\s*")

CONTINUE, OK, UNMODIFIED = 100, 200, 204

# The mail is wrapped as the answer to a request for it: scanners are made for proxies (RFC 3507 3.2).
_REQUEST = b"GET http://mail.invalid/message.eml HTTP/1.1\r\nHost: mail.invalid\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Head:
    """A status line and its fields; names in lower case, folds kept as line ends, repeated fields joined by them."""

    code: int
    phrase: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`early`: it came before the server had the whole mail. `unchanged`: the same octets came back with a 200."""

    head: Head
    early: bool = False
    unchanged: bool = False


def options(connection: Connection, address: SocketAddress, service: str, fields: Mapping[str, str]) -> Head:
    """What a service can do (RFC 3507 4.10)."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.send(
        f"OPTIONS {_url(address, service)} ICAP/1.0\r\nHost: {_host(address)}\r\n"
        f"User-Agent: postroom\r\nConnection: close\r\n{extra}Encapsulated: null-body=0\r\n\r\n".encode("ascii")
    )
    return read_head(connection, b"ICAP")


def respmod(connection: Connection, address: SocketAddress, service: str, mail: Octets, preview: int) -> Answer:
    """Have a mail looked at (RFC 3507 4.9). `preview`: first octets on which the server may decide, 0: none."""
    request = _request_head(address, service, mail.size(), preview)
    if preview and (answer := _send_preview(connection, request, mail, preview)) is not None:
        return answer
    rest = _without_first(mail.chunks(), preview)
    if not preview:
        connection.send(request)
    early = not _send_chunks(connection, rest)
    head = read_head(connection, b"ICAP")
    if head.code == CONTINUE:
        raise BackendTrouble("asked for the rest of a mail that it had")
    unchanged = head.code == OK and not early and _is_echo(connection, head, mail)
    return Answer(head, early, unchanged)


def _send_preview(connection: Connection, request: bytes, mail: Octets, preview: int) -> Answer | None:
    """An answer when the server needs no more than the beginning (RFC 3507 4.5)."""
    first = b"".join(_first(mail.chunks(), preview))
    complete = mail.size() <= preview
    end = b"0; ieof\r\n\r\n" if complete else b"0\r\n\r\n"
    connection.send(request + _chunk(first) + end)
    head = read_head(connection, b"ICAP")
    if head.code != CONTINUE:
        return Answer(head, unchanged=head.code == OK and _is_echo(connection, head, mail))
    if complete:
        raise BackendTrouble("asked for the rest of a mail that it had")
    return None


def _send_chunks(connection: Connection, chunks: Iterator[bytes]) -> bool:
    """Whether all went before the server answered."""
    for piece in pieces(chunks):
        if connection.has_answer() or not connection.send(_chunk(piece)):
            return False
    return not connection.has_answer() and connection.send(b"0\r\n\r\n")


def _chunk(octets: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(octets), octets) if octets else b""


def _first(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _without_first(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[count:]
        count = max(0, count - len(chunk))


def _request_head(address: SocketAddress, service: str, size: int, preview: int) -> bytes:
    response = b"HTTP/1.1 200 OK\r\nContent-Type: message/rfc822\r\nContent-Length: %d\r\n\r\n" % size
    sections = f"req-hdr=0, res-hdr={len(_REQUEST)}, res-body={len(_REQUEST) + len(response)}"
    wanted = f"Preview: {preview:d}\r\n" if preview else ""  # :d, since a Size calls 1024 "1K"
    head = (
        f"RESPMOD {_url(address, service)} ICAP/1.0\r\nHost: {_host(address)}\r\nUser-Agent: postroom\r\n"
        f"Connection: close\r\nAllow: 204\r\n{wanted}"
        f"Encapsulated: {sections}\r\n\r\n"
    )
    return head.encode("ascii") + _REQUEST + response


def _host(address: SocketAddress) -> str:
    match address.family:
        case "unix":
            return "localhost"
        case "inet6":
            return f"[{address.host}]:{address.port}"
        case _:
            return f"{address.host}:{address.port}"


def _url(address: SocketAddress, service: str) -> str:
    return f"icap://{_host(address)}/{service.lstrip('/')}"


# What comes back


def read_head(connection: Connection, protocol: bytes) -> Head:
    """Status line and fields (RFC 3507 4.3.2); BackendTrouble for anything else."""
    line = connection.line(MAX_LINE)
    status = _STATUS.fullmatch(line)
    if status is None or status[1] != protocol:
        raise BackendTrouble(f"answered {safe(line.decode('latin-1'))!r}")
    fields: dict[str, str] = {}
    name = ""
    for _ in range(MAX_FIELDS):
        line = connection.line(MAX_LINE)
        if not line:
            return Head(int(status[2]), safe((status[3] or b"").decode("latin-1")), fields)
        text = line.decode("utf-8", "replace")
        if line[:1] in (b" ", b"\t") and name:
            fields[name] += "\n" + text.strip()
        elif field := _FIELD.fullmatch(line):
            name = field[1].decode("ascii").lower()
            value = field[2].decode("utf-8", "replace").strip()
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        else:
            raise BackendTrouble(f"sent the header line {safe(text)!r}")
    raise BackendTrouble("sent a header that does not end")


def _is_echo(connection: Connection, head: Head, mail: Octets) -> bool:
    """Whether the 200 carries the very mail that was sent, as from servers that do not know 204."""
    sections = [
        section[1] for part in head.fields.get("encapsulated", "").split(",") if (section := _SECTION.fullmatch(part))
    ]
    if "res-body" not in sections:
        return False
    if "res-hdr" in sections and read_head(connection, b"HTTP").code != OK:
        return False
    sent, came = hashlib.sha256(), hashlib.sha256()
    for octets in _dechunk(connection):
        came.update(octets)
    for chunk in mail.chunks():
        sent.update(chunk)
    return sent.digest() == came.digest()


def _dechunk(connection: Connection) -> Iterator[bytes]:
    """A chunked body (RFC 9112 7.1) up to its last chunk; trailers are left unread, the connection ends here."""
    while True:
        length = _CHUNK.fullmatch(connection.line(MAX_LINE))
        if length is None:
            raise BackendTrouble("sent a chunk without a length")
        left = int(length[1], 16)
        if not left:
            return
        while left:
            octets = connection.some(left)
            if not octets:
                raise connection.closed()
            left -= len(octets)
            yield octets
        if connection.line(2):
            raise BackendTrouble("sent a chunk that does not end where it said")
