"""The milter protocol, version 2 to 6: octets to packets, packets to values, answers to octets. No I/O.

There is no standard: names and numbers are those of Sendmail's `mfdef.h`, behaviour is what Postfix and Sendmail do.
Both directions are here, because the tests, the health check and the load client speak the mail server's side.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MIN_VERSION, MAX_VERSION = 2, 6

MAX_PACKET = (1 << 20) + 1
"""Octets of one packet, command included: the largest that the protocol can negotiate (SMFIP_MDS_1M)."""

MAX_STRINGS = 1024
"""NUL-terminated strings in one packet: macros in twos, or an address with its ESMTP parameters."""

BODY_CHUNK = 65535
"""Most octets of a body in one packet (MILTER_CHUNK_SIZE)."""

_LENGTH = struct.Struct("!I")
_OFFER = struct.Struct("!III")
_PORT = struct.Struct("!H")


class Command(enum.IntEnum):
    """What the mail server sends."""

    NEGOTIATE = ord("O")
    MACROS = ord("D")
    CONNECT = ord("C")
    HELO = ord("H")
    MAIL = ord("M")
    RCPT = ord("R")
    DATA = ord("T")
    HEADER = ord("L")
    END_OF_HEADER = ord("N")
    BODY = ord("B")
    END_OF_MESSAGE = ord("E")
    ABORT = ord("A")  # the transaction is over; also sent after a good end of message
    UNKNOWN = ord("U")  # an SMTP command that is none
    QUIT = ord("Q")
    QUIT_NEW_CONNECTION = ord("K")  # another SMTP session will follow on this connection


class Response(enum.IntEnum):
    """What a filter sends."""

    NEGOTIATE = ord("O")
    CONTINUE = ord("c")
    ACCEPT = ord("a")
    DISCARD = ord("d")
    REJECT = ord("r")
    TEMPFAIL = ord("t")
    REPLY_CODE = ord("y")
    SKIP = ord("s")
    PROGRESS = ord("p")
    ADD_RECIPIENT = ord("+")
    ADD_RECIPIENT_WITH_PARAMETERS = ord("2")
    DELETE_RECIPIENT = ord("-")
    REPLACE_BODY = ord("b")
    CHANGE_SENDER = ord("e")
    ADD_HEADER = ord("h")
    INSERT_HEADER = ord("i")
    CHANGE_HEADER = ord("m")
    QUARANTINE = ord("q")

    @property
    def is_modification(self) -> bool:
        return self in _MODIFICATIONS


_MODIFICATIONS = frozenset(
    (
        Response.ADD_RECIPIENT,
        Response.ADD_RECIPIENT_WITH_PARAMETERS,
        Response.DELETE_RECIPIENT,
        Response.REPLACE_BODY,
        Response.CHANGE_SENDER,
        Response.ADD_HEADER,
        Response.INSERT_HEADER,
        Response.CHANGE_HEADER,
        Response.QUARANTINE,
    )
)


class Actions(enum.IntFlag):
    """What a filter may do to a mail (SMFIF_*)."""

    NONE = 0
    ADD_HEADERS = 0x1
    CHANGE_BODY = 0x2
    ADD_RECIPIENTS = 0x4
    DELETE_RECIPIENTS = 0x8
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_SENDER = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    SET_MACROS = 0x100


class Protocol(enum.IntFlag):
    """Events that a filter does not want (NO_*), does not answer (QUIET_*, SMFIP_NR_*), and options (SMFIP_*)."""

    NONE = 0
    NO_CONNECT = 0x1
    NO_HELO = 0x2
    NO_MAIL = 0x4
    NO_RCPT = 0x8
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADER = 0x40
    QUIET_HEADERS = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    MAY_SKIP = 0x400
    REJECTED_RCPT = 0x800
    QUIET_CONNECT = 0x1000
    QUIET_HELO = 0x2000
    QUIET_MAIL = 0x4000
    QUIET_RCPT = 0x8000
    QUIET_DATA = 0x10000
    QUIET_UNKNOWN = 0x20000
    QUIET_END_OF_HEADER = 0x40000
    QUIET_BODY = 0x80000
    LEADING_SPACE = 0x100000


POSTFIX_ACTIONS = Actions(0x1FF)
POSTFIX_PROTOCOL = Protocol(0x1FFFFF)


class MacroStage(enum.IntEnum):
    """Where a macro is asked for (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADER = 6


class WireError(Exception):
    """The peer does not speak the milter protocol, or not one that we know: close this connection."""


class PacketTooLong(WireError):
    """A packet of no octets, or of more than MAX_PACKET."""


class MalformedPacket(WireError):
    """A packet whose contents are not what its command promises."""


class UnknownCommand(WireError):
    """A command byte that no version has."""


class VersionConflict(WireError):
    """The peer offers a version below MIN_VERSION."""


class Decoder:
    """Octets in, packets out: `feed` what was received, then `next` until it is None.

    Holds at most one unfinished packet and what was fed after it.
    """

    __slots__ = ("_chunks", "_data", "_have", "_limit", "_need", "_position")

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self._limit = limit
        self._data = b""
        self._position = 0
        self._chunks: list[bytes] = []  # after `_data`, while `_need` octets are not there yet
        self._have = self._need = 0

    @property
    def buffered(self) -> int:
        """Octets held that are not yet handed out."""
        return self._have if self._chunks else len(self._data) - self._position

    def feed(self, data: bytes) -> None:
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
        elif self._position == len(self._data):
            self._data, self._position = data, 0
        else:
            self._chunks = [self._data[self._position :], data]
            self._have = len(self._chunks[0]) + len(data)
        if self._chunks and self._have >= self._need:
            self._data, self._position = b"".join(self._chunks), 0
            self._chunks = []

    def next(self) -> tuple[int, bytes] | None:
        """The next packet as (command byte, payload); None when it has not arrived as a whole."""
        if self._chunks:
            return None
        data, start = self._data, self._position
        have = len(data) - start
        if have < 4:
            if not have:
                self._data, self._position = b"", 0  # an idle connection holds nothing
            self._need = 4
            return None
        length = int.from_bytes(data[start : start + 4], "big")
        if not 0 < length <= self._limit:
            raise PacketTooLong(f"a packet of {length} octets: the limit is {self._limit}")
        end = start + 4 + length
        if end > len(data):
            self._need = 4 + length
            return None
        self._position = end
        self._need = 0
        return data[start + 4], data[start + 5 : end]


def packet(command: int, payload: bytes = b"") -> bytes:
    return b"%b%c%b" % (_LENGTH.pack(len(payload) + 1), command, payload)


# What packets hold


@dataclass(frozen=True, slots=True)
class Negotiation:
    """Both sides' offer: `macros` is what a filter asks for (SETSYMLIST)."""

    version: int
    actions: Actions
    protocol: Protocol
    macros: Mapping[MacroStage, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        asked = b"".join(b"%b%b\0" % (_LENGTH.pack(stage), names) for stage, names in self.macros.items())
        return packet(Command.NEGOTIATE, _OFFER.pack(self.version, self.actions, self.protocol) + asked)


def parse_negotiation(payload: bytes) -> Negotiation:
    if len(payload) < _OFFER.size:
        raise MalformedPacket("a negotiation of less than 12 octets")
    version, actions, protocol = _OFFER.unpack_from(payload)
    macros: dict[MacroStage, bytes] = {}
    position = _OFFER.size
    while position < len(payload):
        end = payload.find(b"\0", position + 4)
        if end < 0:
            raise MalformedPacket("a macro list without an end")
        try:
            stage = MacroStage(_LENGTH.unpack_from(payload, position)[0])
        except ValueError:
            raise MalformedPacket("a macro list for a stage that is none") from None
        macros[stage] = payload[position + 4 : end]
        position = end + 1
    return Negotiation(version, Actions(actions & POSTFIX_ACTIONS), Protocol(protocol & POSTFIX_PROTOCOL), macros)


def split_strings(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a packet."""
    if not payload.endswith(b"\0"):
        raise MalformedPacket("a string without its NUL")
    strings = payload.split(b"\0", MAX_STRINGS + 1)
    if len(strings) > MAX_STRINGS + 1:
        raise MalformedPacket(f"more than {MAX_STRINGS} strings in a packet")
    strings.pop()
    return strings


def parse_macros(payload: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The command that the macros belong to, and their values by name as sent (`i`, `{client_addr}`)."""
    if len(payload) <= 1:
        if not payload:
            raise MalformedPacket("macros of no command")
        return payload[0], {}
    strings = split_strings(payload[1:])
    if len(strings) % 2:
        raise MalformedPacket("a macro without a value")
    return payload[0], dict(zip(strings[::2], strings[1::2], strict=True))


def parse_connect(payload: bytes) -> tuple[bytes, bytes, int, bytes]:
    """Client name, family (b"4", b"6", b"L" or b"U"), port, address."""
    name, nul, rest = payload.partition(b"\0")
    if not nul or not rest:
        raise MalformedPacket("a client without a family")
    family = rest[:1]
    if family == b"U":  # unknown: nothing follows
        return name, family, 0, b""
    if family not in (b"4", b"6", b"L") or len(rest) < 4 or not rest.endswith(b"\0"):
        raise MalformedPacket("a client's address that is none")
    return name, family, int(_PORT.unpack_from(rest, 1)[0]), rest[3:-1]


def parse_string(payload: bytes) -> bytes:
    if not payload.endswith(b"\0"):
        raise MalformedPacket("a string without its NUL")
    return payload[:-1]


def parse_header(payload: bytes) -> tuple[bytes, bytes]:
    """Name and value; a NUL inside the value stays."""
    name, nul, value = payload.partition(b"\0")
    if not nul or not value.endswith(b"\0"):
        raise MalformedPacket("a header field without its two strings")
    return name, value[:-1]


def encode_connect(name: bytes, family: bytes, port: int, address: bytes) -> bytes:
    rest = b"" if family == b"U" else _PORT.pack(port) + address + b"\0"
    return packet(Command.CONNECT, name + b"\0" + family + rest)


def encode_macros(command: int, macros: Mapping[bytes, bytes]) -> bytes:
    pairs = b"".join(b"%b\0%b\0" % pair for pair in macros.items())
    return packet(Command.MACROS, bytes((command,)) + pairs)


def encode_strings(command: int, strings: Iterable[bytes]) -> bytes:
    return packet(command, b"".join(text + b"\0" for text in strings))


def encode_indexed(command: int, index: int, name: bytes, value: bytes) -> bytes:
    """INSERT_HEADER and CHANGE_HEADER."""
    return packet(command, b"%b%b\0%b\0" % (_LENGTH.pack(index), name, value))


def parse_indexed(payload: bytes) -> tuple[int, bytes, bytes]:
    if len(payload) < 4:
        raise MalformedPacket("a header change without an index")
    name, value = parse_header(payload[4:])
    return int(_LENGTH.unpack_from(payload)[0]), name, value
