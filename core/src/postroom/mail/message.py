"""Header fields and body of a mail, and the edits that handlers ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from postroom.mail.address import Address
from postroom.mail.body import Body

CRLF = b"\r\n"


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
