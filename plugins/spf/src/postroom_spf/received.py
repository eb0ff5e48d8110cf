"""Who handed a mail to our own gateways: read from the Received fields that those gateways wrote.

The client of this session wrote the first field. As long as a field names one of our gateways as its client, the next
field was written by that gateway and may be believed; below the first stranger everything may be forged.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

IpAddress = IPv4Address | IPv6Address

MAX_HOPS = 50  # fields looked at; a mail that went through more gateways of ours runs in a circle
MAX_FIELD = 4096  # characters of one field

_BRACKETED = r"\[(?:IPv6:)?(?P<ip>[0-9a-fA-F:.]{2,45})\]"
_EXIM_FACTS = r"(?:\s*(?:helo|ident|port)=\S+)"
# Comments after the name, as the mail servers write them.
_NAMED = re.compile(
    rf"(?:\S*@)?[^\s\[\]@]*\s*{_BRACKETED}(?:\s*\(may be forged\))?", re.IGNORECASE
)  # Postfix, Sendmail
_EXIM_VERIFIED = re.compile(rf"{_BRACKETED}(?::\d+)?{_EXIM_FACTS}*", re.IGNORECASE)
_EXIM_UNVERIFIED = re.compile(rf"{_EXIM_FACTS}+", re.IGNORECASE)
_EXIM_HELO = re.compile(r"(?:^|\s)helo=(\S+)", re.IGNORECASE)
_QMAIL_HELO = re.compile(r"HELO (\S+)")
_QMAIL_CLIENT = re.compile(r"(?:\S*@)?(?P<ip>[0-9a-fA-F:.]{2,45})")
_LITERAL = re.compile(_BRACKETED, re.IGNORECASE)
_NETWORK_NOTE = re.compile(r"qmail \d+ invoked from network")
_OWN_NOTE = re.compile(r"qmail \d+ invoked (?:by|for) .*|from \S+|.*\bfrom userid \d+.*")
_WITH_AUTHENTICATION = re.compile(r"(?:UTF8)?[EL]?S?MTPS?A|asmtp", re.IGNORECASE)  # RFC 3848, RFC 6531 4.3


class Origin(enum.Enum):
    """Where a mail began, when no client outside can be named."""

    OWN = "own"  # the mail began at a gateway of ours, or with a user who logged in there
    UNREADABLE = "unreadable"  # a gateway of ours wrote what we don't understand


@dataclass(frozen=True, slots=True)
class Hop:
    """The client that one Received field names, and its HELO."""

    client: IpAddress
    helo: str


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    is_comment: bool


def without_mapping(address: IpAddress) -> IpAddress:
    """::ffff:192.0.2.1 is 192.0.2.1 (RFC 7208 5)."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def find_stranger(fields: Iterable[str], is_ours: Callable[[IpAddress], bool]) -> Hop | Origin:
    """The first client outside, for a mail that came from one of our gateways; `fields` from the top, unfolded."""
    seen = False
    for number, field in enumerate(fields):
        if number >= MAX_HOPS:
            return Origin.UNREADABLE
        hop = read_received(field)
        if hop is Origin.OWN:
            return Origin.OWN
        if hop is Origin.UNREADABLE:
            return Origin.UNREADABLE
        if isinstance(hop, Hop):
            seen = True
            # A gateway that hands a mail to its own content filter names itself as the client.
            if not (hop.client.is_loopback or is_ours(hop.client)):
                return hop
    return Origin.OWN if seen else Origin.UNREADABLE


def read_received(field: str) -> Hop | Origin | None:
    """The client of one field; None for a note of qmail that says nothing of it."""
    tokens = _tokens(field[: MAX_FIELD + 1])
    if not tokens or len(field) > MAX_FIELD:
        return Origin.UNREADABLE
    if tokens[0].is_comment or tokens[0].text.lower() == "by":
        notes = [token.text for token in tokens if token.is_comment]
        if len(tokens) == len(notes) == 1 and _NETWORK_NOTE.fullmatch(notes[0]):
            return None
        return Origin.OWN if any(_OWN_NOTE.fullmatch(note) for note in notes) else Origin.UNREADABLE
    if tokens[0].text.lower() != "from" or len(tokens) < 2 or tokens[1].is_comment:
        return Origin.UNREADABLE
    return _read_from(tokens[1].text, tokens[2:])


def _read_from(name: str, rest: list[_Token]) -> Hop | Origin:
    """`from NAME (comments) by HOST with PROTOCOL …`; words in another order were written by nobody we know."""
    end = next((at for at, token in enumerate(rest) if not token.is_comment), len(rest))
    notes = [token.text for token in rest[:end]]
    words = [token.text.lower() for token in rest[end:] if not token.is_comment]
    if not words or words[0] != "by" or words.count("by") > 1 or "from" in words:
        return Origin.UNREADABLE
    protocol = words[words.index("with") + 1 : words.index("with") + 2] if "with" in words else []
    if protocol and (protocol[0] == "local" or _WITH_AUTHENTICATION.fullmatch(protocol[0])):
        return Origin.OWN
    return _client(name, notes) or Origin.UNREADABLE


def _client(name: str, notes: list[str]) -> Hop | None:
    first = notes[0] if notes else ""
    if found := _EXIM_VERIFIED.fullmatch(first):
        helo = _EXIM_HELO.search(first)
        return _hop(found["ip"], helo[1] if helo else name)
    if found := _NAMED.fullmatch(first):
        return _hop(found["ip"], name)
    literal = _LITERAL.fullmatch(name)
    if literal and (not notes or _EXIM_UNVERIFIED.fullmatch(first)):
        helo = _EXIM_HELO.search(first)
        return _hop(literal["ip"], helo[1] if helo else name)
    greeting = _QMAIL_HELO.fullmatch(first)
    if greeting and len(notes) > 1 and (found := _QMAIL_CLIENT.fullmatch(notes[1])):
        return _hop(found["ip"], greeting[1])
    if found := _QMAIL_CLIENT.fullmatch(first):  # also Exchange
        return _hop(found["ip"], name)
    return None


def _hop(client: str, helo: str) -> Hop | None:
    try:
        return Hop(without_mapping(ip_address(client)), helo)
    except ValueError:
        return None


def _tokens(text: str) -> list[_Token]:
    """Words and outermost comments up to the date; nothing at all when a parenthesis is never closed or opened."""
    tokens: list[_Token] = []
    current, depth, escaped = "", 0, False
    for character in text:
        if escaped:
            current, escaped = current + character, False
        elif depth and character == "\\":
            escaped = True
        elif character == "(":
            if depth == 0 and current:
                tokens.append(_Token(current, is_comment=False))
                current = ""
            current += character if depth else ""
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                return []
            if depth == 0:
                tokens.append(_Token(" ".join(current.split()), is_comment=True))
                current = ""
            else:
                current += character
        elif depth == 0 and (character.isspace() or character == ";"):
            if current:
                tokens.append(_Token(current, is_comment=False))
                current = ""
            if character == ";":
                return tokens
        else:
            current += character
    if depth:
        return []
    return [*tokens, _Token(current, is_comment=False)] if current else tokens
