"""XFORWARD, by which Postfix says who the SMTP client was, and XPOSTROOM, by which our own pipe client does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
XPOSTROOM_NAMES = ("LOGIN", "ORCPT", "ROOT")
MAX_VALUE = 1024  # octets; nothing that these name is longer

_UNKNOWN = ("", "[UNAVAILABLE]", "[TEMPUNAVAIL]")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2}|[\x80-\xff])*")  # RFC 3461 4; raw 8-bit as Postfix sends it
_ESCAPE = re.compile(rb"\+([0-9A-Fa-f]{2})")


class BadAttribute(ValueError):
    """What is wrong, in words for the client."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What the client told of one mail beside its envelope; all of it is forgotten when the transaction ends."""

    client_name: str = ""
    client_address: IPv4Address | IPv6Address | None = None
    client_port: int = 0
    protocol: str = ""
    helo: str = ""
    queue_id: str = ""
    from_local_source: bool = False  # SOURCE=LOCAL: sendmail(1), or a client that may relay
    login: str = ""
    original_recipient: str = ""
    root: str = ""
    by_pipe: bool = False  # XPOSTROOM was given, so the peer is postroom-deliver


def read_attributes(known: Forwarded, command: bytes, argument: bytes) -> Forwarded:
    """`known` with what one XFORWARD or XPOSTROOM command says; BadAttribute for what cannot be meant."""
    pipe = command == b"XPOSTROOM"
    readers = _XPOSTROOM if pipe else _XFORWARD
    words = argument.split()
    if not words:
        raise BadAttribute("needs attributes")
    for word in words:
        raw_name, equals, raw = word.partition(b"=")
        name = raw_name.decode("ascii", "replace").upper()
        if not equals or name not in readers:
            raise BadAttribute("attribute not known")
        known = readers[name](known, _decoded(raw))
    return replace(known, by_pipe=True) if pipe else known


def _decoded(raw: bytes) -> str:
    if len(raw) > MAX_VALUE or not _XTEXT.fullmatch(raw):
        raise BadAttribute("value is no xtext")
    octets = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), raw)
    text = octets.decode("utf-8", "surrogateescape")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise BadAttribute("value holds control characters")
    return "" if text.upper() in _UNKNOWN else text


def _with_address(known: Forwarded, text: str) -> Forwarded:
    if not text:
        return replace(known, client_address=None)
    plain = text[5:] if text.upper().startswith("IPV6:") else text
    try:
        return replace(known, client_address=ip_address(plain))
    except ValueError:
        raise BadAttribute("ADDR is no address") from None


def _with_port(known: Forwarded, text: str) -> Forwarded:
    if text and not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise BadAttribute("PORT is no port")
    return replace(known, client_port=int(text or 0))


def _with_source(known: Forwarded, text: str) -> Forwarded:
    if text.upper() not in ("", "LOCAL", "REMOTE"):
        raise BadAttribute("SOURCE is LOCAL or REMOTE")
    return replace(known, from_local_source=text.upper() == "LOCAL")


_Reader = Callable[[Forwarded, str], Forwarded]

_XFORWARD: Mapping[str, _Reader] = {
    "NAME": lambda known, text: replace(known, client_name=text),
    "ADDR": _with_address,
    "PORT": _with_port,
    "PROTO": lambda known, text: replace(known, protocol=text),
    "HELO": lambda known, text: replace(known, helo=text),
    "IDENT": lambda known, text: replace(known, queue_id=text),
    "SOURCE": _with_source,
}
_XPOSTROOM: Mapping[str, _Reader] = {
    "LOGIN": lambda known, text: replace(known, login=text),
    "ORCPT": lambda known, text: replace(known, original_recipient=text),
    "ROOT": lambda known, text: replace(known, root=text),
}
