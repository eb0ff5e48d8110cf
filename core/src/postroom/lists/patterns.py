"""Pure: patterns of senders, client names and client networks, and lists of them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_network

from postroom.mail import Address, Session, to_a_label

NULL = "<>"
"""How the null sender is written in patterns, lists and tables."""

MAX_PATTERN = 320  # RFC 5321 4.5.3.1: 64 octets of local part, "@", 255 of domain

ClientAddress = IPv4Address | IPv6Address

_NAME = re.compile(r"[\w.*-]+")
_ADDRESS = re.compile(r"[^\s<>,\x00-\x1f\x7f]*@[^\s<>,@\x00-\x1f\x7f]+")


class Kind(enum.StrEnum):
    """What a pattern is compared with."""

    SENDER = "sender"  # the address in MAIL; `<>` is the null sender
    NAME = "name"  # the client's reverse name
    CLIENT = "client"  # the client's address, by network


class InvalidPattern(ValueError):
    """What is wrong and what to write instead, in one line."""


@dataclass(frozen=True, slots=True, order=True)
class Pattern:
    """`text` is in the form in which it is compared; `*` stands for any run of characters."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


def client_address(session: Session) -> ClientAddress | None:
    """The client's address; an IPv4 one stays one when it came through a dual-stack socket (RFC 4291 2.5.5.2)."""
    address = session.client_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_pattern(text: str, kind: Kind | None = None) -> Pattern:
    """A pattern from what a user wrote; without `kind`, its form tells: `@` sender, network client, else name."""
    text = text.strip()
    if not text or len(text) > MAX_PATTERN:
        raise InvalidPattern(f"{text[:40]!r} is no pattern: 1 to {MAX_PATTERN} characters")
    if text == "*" and kind is None:
        raise InvalidPattern("'*' would match everything of some kind: say which with --kind sender or --kind name")
    match kind or _kind_of(text):
        case Kind.SENDER:
            if text not in (NULL, "*") and not _ADDRESS.fullmatch(text):
                raise InvalidPattern(f"{text!r} is no sender: write user@example.org, *@example.org or '{NULL}'")
            local, at, domain = text.rpartition("@")
            return Pattern(Kind.SENDER, f"{local.lower()}@{_a_label(domain)}" if at else text)
        case Kind.NAME:
            if not _NAME.fullmatch(text):
                raise InvalidPattern(f"{text!r} is no client name: write mail.example.org or *.example.org")
            return Pattern(Kind.NAME, _a_label(text))
        case Kind.CLIENT:
            try:
                return Pattern(Kind.CLIENT, str(ip_network(text, strict=False)))
            except ValueError:
                raise InvalidPattern(
                    f"{text!r} is no network: write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32"
                ) from None


def _kind_of(text: str) -> Kind:
    if "@" in text or text == NULL:
        return Kind.SENDER
    if "/" in text or ":" in text or re.fullmatch(r"[\d.]+", text):
        return Kind.CLIENT
    return Kind.NAME


def _a_label(domain: str) -> str:
    """Label by label, for the standard's conversion refuses `*`."""
    return ".".join(label.lower() if "*" in label else to_a_label(label) for label in domain.rstrip(".").split("."))


def matches(pieces: Sequence[str], text: str) -> bool:
    """Whether `text` is these pieces in order with anything between them; time grows with the text, not its square."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return text == first
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for piece in pieces[1:-1]:
        found = text.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def glob(pattern: str, text: str) -> bool:
    return matches(pattern.split("*"), text)


@dataclass(frozen=True)
class PatternList:
    """A list of any length that is quick to ask."""

    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> PatternList:
        return cls(tuple(sorted(set(patterns))))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def match_sender(self, sender: Address) -> Pattern | None:
        return self._senders.match(sender.key or NULL) if self.patterns else None

    def match_name(self, name: str) -> Pattern | None:
        return self._names.match(name.lower().rstrip(".")) if name and self.patterns else None

    def match_client(self, address: ClientAddress | None) -> Pattern | None:
        if address is None or not self._networks:
            return None
        for (version, prefix), networks in self._networks.items():
            if version == address.version:
                shift = address.max_prefixlen - prefix
                if (found := networks.get(int(address) >> shift << shift)) is not None:
                    return found
        return None

    @cached_property
    def _senders(self) -> _TextIndex:
        return _TextIndex(pattern for pattern in self.patterns if pattern.kind is Kind.SENDER)

    @cached_property
    def _names(self) -> _TextIndex:
        return _TextIndex(pattern for pattern in self.patterns if pattern.kind is Kind.NAME)

    @cached_property
    def _networks(self) -> dict[tuple[int, int], dict[int, Pattern]]:
        index: dict[tuple[int, int], dict[int, Pattern]] = {}
        for pattern in self.patterns:
            if pattern.kind is Kind.CLIENT:
                network = ip_network(pattern.text)
                index.setdefault((network.version, network.prefixlen), {})[int(network.network_address)] = pattern
        return index


class _TextIndex:
    """Patterns by form: whole texts in a table, `*rest` by the rest in one pass of the interpreter, others in turn."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._exact: dict[str, Pattern] = {}
        self._endings: dict[str, Pattern] = {}
        self._others: list[tuple[list[str], Pattern]] = []
        for pattern in patterns:
            pieces = pattern.text.split("*")
            if len(pieces) == 1:
                self._exact[pattern.text] = pattern
            elif len(pieces) == 2 and not pieces[0]:
                self._endings[pieces[1]] = pattern
            else:
                self._others.append((pieces, pattern))
        self._any_ending = tuple(self._endings)

    def match(self, text: str) -> Pattern | None:
        if (found := self._exact.get(text)) is not None:
            return found
        if self._any_ending and text.endswith(self._any_ending):
            return next(self._endings[ending] for ending in self._any_ending if text.endswith(ending))
        return next((pattern for pieces, pattern in self._others if matches(pieces, text)), None)
