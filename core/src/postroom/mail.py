"""What the mail server told us: client session, envelope, header fields, body; and the edits that handlers ask for.

Bytes stay bytes: header fields and body are held as they came over the wire (CRLF line ends), in order. Addresses are
`str` decoded from UTF-8 with `surrogateescape`, so that a raw 8-bit address survives a round trip.
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import BinaryIO

MEMORY_LIMIT = 1 << 20
"""Octets of a body kept in memory; a longer one is spooled to an unnamed file."""

CRLF = b"\r\n"

_SOURCE_ROUTE = re.compile(r"@[^:\[\]]*:(?=[^@]*@)")  # RFC 5321 4.1.1.3: to be ignored
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_DOT_STRING = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\\\].]+(?:\.[^\x00-\x20\x7f\"(),:;<>@\[\\\].]+)*")


class TrafficClass(enum.StrEnum):
    """Where a mail comes from, as far as policy is concerned."""

    INBOUND = "inbound"  # from somebody else's host
    AUTHENTICATED = "authenticated"  # the client logged in (SMTP AUTH)
    LOCAL = "local"  # sendmail(1) on this host, or a client in one of our own networks


def to_a_label(domain: str) -> str:
    """The domain in lower-case A-label form (RFC 5890 2.3.2.1), for comparison only; odd input comes back as it is."""
    if domain.isascii():
        return domain.lower().rstrip(".")
    import idna  # 15 ms of tables that an all-ASCII host never needs

    try:
        return idna.encode(domain.rstrip("."), uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        return domain.lower()


class Address:
    """A mailbox of the envelope (RFC 5321 4.1.2) without angle brackets; the empty one is the null sender.

    `domain`: lower-case A-label form; empty for the null sender and for an address without `@`. `key`: the form in
    which addresses are compared: lower case, domain as A-labels. Two addresses are equal when their text is. A plain
    class, because every mail makes some and asks all of it.
    """

    __slots__ = ("domain", "key", "local_part", "text")

    def __init__(self, text: str = "") -> None:
        self.text = text
        local_part, at, domain = text.rpartition("@")
        if at:
            self.local_part, self.domain = local_part, to_a_label(domain)
            self.key = f"{local_part.lower()}@{self.domain}"
        else:
            self.local_part, self.domain, self.key = text, "", text.lower()

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Address) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Address({self.text!r})"

    def without_tag(self, delimiter: str) -> str:
        """The key of `user@d` for `user+tag@d`; the plain key when there is no tag."""
        local, separator, _ = self.local_part.partition(delimiter) if delimiter else (self.local_part, "", "")
        if separator and local.startswith('"') and self.local_part.endswith('"'):
            local = _without_needless_quotes(local + '"') if len(local) > 1 else ""
        return f"{local.lower()}@{self.domain}" if separator and local else self.key

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return bool(self.text)


NULL_SENDER = Address("")


def address_from_wire(raw: bytes) -> Address:
    """The address in `<…>`, or bare, as MAIL and RCPT carry it, less its source route and quotes that mean nothing."""
    raw = raw.strip()
    if raw.startswith(b"<"):
        raw = raw[1:].removesuffix(b">")
    text = raw.decode("utf-8", "surrogateescape")
    if text.startswith("@"):
        text = _SOURCE_ROUTE.sub("", text)
    if '"' in text or "\\" in text:
        local, at, domain = text.rpartition("@")
        text = f"{_without_needless_quotes(local)}{at}{domain}"
    return Address(text)


def _without_needless_quotes(local: str) -> str:
    """The same local part in the form that RFC 5321 4.1.2 asks for: quoted only where it has to be."""
    quoted = len(local) > 1 and local.startswith('"') and local.endswith('"')
    plain = _QUOTED_PAIR.sub(r"\1", local[1:-1] if quoted else local)
    return plain if _DOT_STRING.fullmatch(plain) else local


@dataclass(frozen=True, slots=True)
class Session:
    """The client's side of one SMTP session, as far as the mail server told us; unknown facts are empty."""

    client_address: IPv4Address | IPv6Address | None = None
    client_port: int = 0
    client_name: str = ""  # reverse name that also resolves back; "" or "unknown" when it does not
    client_ptr: str = ""  # reverse name, not verified
    helo: str = ""
    auth_user: str = ""  # {auth_authen}; never {auth_author}, which the client chooses
    auth_type: str = ""
    tls_version: str = ""
    server_name: str = ""  # {j}: how the mail server calls itself
    submitted_locally: bool = False  # sendmail(1), a bounce, a forward: there is no SMTP client

    @property
    def has_client_name(self) -> bool:
        return self.client_name not in ("", "unknown") and not self.client_name.startswith("[")


@dataclass(frozen=True)
class Envelope:
    """Sender and recipients of one transaction (RFC 5321 2.3.1), with the session that it came in."""

    session: Session = field(default_factory=Session)
    sender: Address = NULL_SENDER
    recipients: tuple[Address, ...] = ()
    queue_id: str = ""
    traffic: TrafficClass = TrafficClass.INBOUND
    declared_size: int | None = None  # SIZE= of MAIL (RFC 1870), octets

    def with_recipients(self, recipients: Iterable[Address]) -> Envelope:
        return replace(self, recipients=tuple(recipients))


@dataclass(frozen=True, slots=True)
class Field:
    """One header field: `name`, and `value` exactly as it stood after the colon, folds as CRLF and white space.

    `origin` is the position of the field in the mail as it came, -1 for one that a handler added.
    """

    name: bytes
    value: bytes
    origin: int = -1

    @property
    def text(self) -> str:
        """Unfolded and stripped; octets that are not UTF-8 survive as surrogates."""
        return self.value.replace(CRLF, b"").strip().decode("utf-8", "surrogateescape")

    def raw(self) -> bytes:
        return b"%b:%b\r\n" % (self.name, self.value)


class _SpoolReader(io.RawIOBase):
    """A read position of its own over a shared file: several handlers' threads may read one body."""

    def __init__(self, spool: _Spool, size: int) -> None:
        self._spool, self._size, self._position = spool, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed wants Buffer
        octets = os.pread(self._spool.file.fileno(), len(buffer), self._position)
        buffer[: len(octets)] = octets
        self._position += len(octets)
        return len(octets)


class _Spool:
    """An unnamed file that is closed when the last body or reader lets go of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        weakref.finalize(self, _close_quietly, file)


def _close_quietly(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # a full disk: whoever wrote was told
        file.close()


class Body:
    """The octets after the empty line: in memory when small, in an unnamed file when not."""

    def __init__(self, octets: bytes = b"", *, spool: _Spool | None = None, size: int | None = None) -> None:
        self._octets, self._spool = octets, spool
        self.size = len(octets) if size is None else size

    def open(self) -> BinaryIO:
        """A new reader at the start; safe to use beside others."""
        if self._spool is None:
            return io.BytesIO(self._octets)  # shares the bytes until somebody writes
        return io.BufferedReader(_SpoolReader(self._spool, self.size), 1 << 16)

    def read(self) -> bytes:
        """All of it at once: for bodies that the caller has bounded (`size`)."""
        if self._spool is None:
            return self._octets
        with self.open() as reader:
            return reader.read()

    def chunks(self, length: int = 1 << 16) -> Iterator[bytes]:
        if self._spool is None and self.size <= length:
            if self._octets:
                yield self._octets
            return
        with self.open() as reader:
            while chunk := reader.read(length):
                yield chunk


class BodyCollector:
    """Takes a body in chunks, as a front receives it, and spools past `memory_limit`.

    The spool is where `tempfile` puts files: a worker points that at the state directory.
    """

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self._memory_limit = memory_limit
        self._chunks: list[bytes] = []
        self._spool: _Spool | None = None
        self.size = 0

    def append(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._spool is None and self.size > self._memory_limit:
            self._spool = _Spool(tempfile.TemporaryFile())  # noqa: SIM115  # closed by _Spool
            self._spool.file.writelines(self._chunks)
            self._chunks.clear()
        if self._spool is None:
            self._chunks.append(chunk)
        else:
            self._spool.file.write(chunk)

    def finish(self) -> Body:
        if self._spool is None:
            return Body(b"".join(self._chunks))
        self._spool.file.flush()
        return Body(spool=self._spool, size=self.size)


@dataclass(frozen=True)
class Message:
    """A mail's header fields in order, and its body; a front that was not asked for the body leaves it empty."""

    fields: tuple[Field, ...] = ()
    body: Body = field(default_factory=Body)

    def get(self, name: bytes) -> str | None:
        """Text of the first field of that name, or None."""
        lowered = name.lower()
        return next((found.text for found in self.fields if found.name.lower() == lowered), None)

    def get_all(self, name: bytes) -> list[Field]:
        lowered = name.lower()
        return [found for found in self.fields if found.name.lower() == lowered]

    def header(self) -> bytes:
        """All header fields as on the wire, without the empty line after them."""
        return b"".join(found.raw() for found in self.fields)

    def chunks(self) -> Iterator[bytes]:
        """The whole mail as on the wire: header, empty line, body."""
        yield self.header() + CRLF
        yield from self.body.chunks()

    def size(self) -> int:
        return len(self.header()) + len(CRLF) + self.body.size

    def with_edits(self, edits: Iterable[Edit]) -> Message:
        """The mail as it looks when `edits` are made, in order; those of the envelope and of its way change nothing."""
        fields, body = list(self.fields), self.body
        for edit in edits:
            match edit:
                case AddField(name, value):
                    fields.append(Field(name, value))
                case InsertField(name, value, position):
                    fields.insert(position, Field(name, value))
                case ReplaceField(name, value, instance):
                    at = _instance(fields, name, instance)
                    if at is None:
                        fields.append(Field(name, value))
                    else:
                        fields[at] = replace(fields[at], value=value)
                case RemoveField(name, instance):
                    lowered = name.lower()
                    if instance is None:
                        fields = [kept for kept in fields if kept.name.lower() != lowered]
                    elif (at := _instance(fields, name, instance)) is not None:
                        del fields[at]
                case ReplaceMessage(message):
                    fields, body = list(message.fields), message.body
                case ReplaceBody(new_body):
                    body = new_body
                case ReplaceSender() | AddRecipient() | RemoveRecipient() | AuthenticationResult() | FileInto():
                    pass
        return Message(tuple(fields), body)


def _instance(fields: list[Field], name: bytes, instance: int) -> int | None:
    """Position of the nth (from 1) field of that name."""
    lowered = name.lower()
    positions = [at for at, found in enumerate(fields) if found.name.lower() == lowered]
    return positions[instance - 1] if 1 <= instance <= len(positions) else None


def parse_message(octets: bytes) -> Message:
    """A mail from its octets; LF line ends become CRLF, and nothing is ever refused.

    The header ends at the first empty line, or at the first line that is no field (RFC 5322 2.2): that line and all
    after it are body then, as mail servers treat it.
    """
    if b"\r\n" not in octets or octets.count(b"\n") != octets.count(b"\r\n"):
        octets = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    fields: list[Field] = []
    position = 0
    while position < len(octets):
        end = octets.find(CRLF, position)
        line_end = len(octets) if end < 0 else end
        following = line_end + 2 if end >= 0 else line_end
        line = octets[position:line_end]
        if not line:
            return Message(tuple(fields), Body(octets[following:]))
        name, colon, _ = line.partition(b":")
        if not colon or not name.strip() or any(octet <= 32 or octet == 127 for octet in name.rstrip(b" \t")):
            break
        while octets[following : following + 1] in (b" ", b"\t"):
            end = octets.find(CRLF, following)
            line_end = len(octets) if end < 0 else end
            following = line_end + 2 if end >= 0 else line_end
        fields.append(Field(name, octets[position + len(name) + 1 : line_end], len(fields)))
        position = following
    return Message(tuple(fields), Body(octets[position:]))


# The edits that a handler may ask for. Values of header fields carry their own leading blank and CRLF folds; see
# `header_value`.


@dataclass(frozen=True, slots=True)
class AddField:
    """At the end of the header."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class InsertField:
    """Before the field that stands at `position` (0 = top)."""

    name: bytes
    value: bytes
    position: int = 0


@dataclass(frozen=True, slots=True)
class ReplaceField:
    """The value of the nth (from 1) field of that name; added when there is none."""

    name: bytes
    value: bytes
    instance: int = 1


@dataclass(frozen=True, slots=True)
class RemoveField:
    """The nth (from 1) field of that name, or all of them (None)."""

    name: bytes
    instance: int | None = None


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    body: Body


@dataclass(frozen=True, slots=True)
class ReplaceMessage:
    """Header and body at once, as a program that is a handler returns them; unchanged fields should keep `origin`."""

    message: Message


@dataclass(frozen=True, slots=True)
class ReplaceSender:
    sender: Address


@dataclass(frozen=True, slots=True)
class AddRecipient:
    recipient: Address


@dataclass(frozen=True, slots=True)
class RemoveRecipient:
    recipient: Address


@dataclass(frozen=True, slots=True)
class AuthenticationResult:
    """One method's result for the one `Authentication-Results` field that the core writes (RFC 8601 2.2).

    `properties` are (ptype.property, value) pairs, such as `("smtp.mailfrom", "a@example.org")`.
    """

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FileInto:
    """At before-local: deliver into this folder of the mailbox instead of its inbox; `.` separates levels (`A.B`).

    The last one asked for counts. It is made where missing.
    """

    folder: str


Edit = (
    AddField
    | InsertField
    | ReplaceField
    | RemoveField
    | ReplaceBody
    | ReplaceMessage
    | ReplaceSender
    | AddRecipient
    | RemoveRecipient
    | AuthenticationResult
    | FileInto
)


MAX_FOLDER = 80
"""Octets of a folder's name; three times as long in the encoding of a Maildir, and still one component of a path."""

_LEVEL = r"[^\x00-\x20\x7f-\x9f\ud800-\udfff./~@<>()\"\\%*-][^\x00-\x1f\x7f-\x9f\ud800-\udfff./@<>()\"\\%*]*"
_FOLDER = re.compile(rf"{_LEVEL}(?:\.{_LEVEL})*")


def is_folder_name(name: str) -> bool:
    """Whether it can be a folder of a Maildir and the detail of an address, and leads out of neither.

    The inbox is no folder (RFC 3501 5.1): nobody would see what is in a folder of its name.
    """
    return bool(_FOLDER.fullmatch(name)) and len(name.encode()) <= MAX_FOLDER and name.upper() != "INBOX"


def header_value(text: str) -> bytes:
    """A header field's value from text: leading blank, UTF-8; control characters, line ends too, become blanks."""
    clean = "".join(" " if ord(character) < 32 or ord(character) == 127 else character for character in text)
    return b" " + clean.encode("utf-8", "surrogateescape")
