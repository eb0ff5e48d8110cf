"""A tiny authoritative nameserver on a free loopback port (UDP and TCP), for tests and the demo.

with Nameserver({("example.org", "TXT"): (b"v=spf1 -all",)}) as nameserver:
    resolver = DnsResolver(nameserver.settings(), SystemClock())
"""

from __future__ import annotations

import enum
import selectors
import socket
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from postroom.config import DnsSettings

LOOPBACK = "127.0.0.1"
MAX_ALIASES = 10  # CNAMEs put into one answer
MAX_STRING = 255  # RFC 1035 3.3: octets of one string of a TXT record
PLAIN_UDP = 512  # RFC 1035 2.3.4
TCP_WAIT = 5.0  # seconds a TCP client may take
PORT_TRIES = 20  # a UDP port that is free need not be free for TCP too

Zone = Mapping[tuple[str, str], Sequence[Any]]


class Behaviour(enum.Enum):
    """What is done with questions about one name, or all."""

    ANSWER = "answer"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    NXDOMAIN = "nxdomain"
    SILENCE = "silence"  # the question is never answered: a time-out
    TRUNCATE = "truncate"  # UDP gets an empty answer with TC, so that the client comes back over TCP


def parse_zone(text: str) -> dict[tuple[str, str], list[Any]]:
    """Records from lines `name kind value`; empty lines and lines that begin with ";" or "#" say nothing.

    A value is what `hookspecs.Answer` has: `10 mx.example.org` for MX, the bare text for TXT (no quotes needed).
    """
    zone: dict[tuple[str, str], list[Any]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip()[0] in ";#":
            continue
        parts = line.split(None, 2)
        if len(parts) != 3:
            raise ValueError(f"line {number}: {line.strip()!r} is no record: write name kind value")
        name, kind, value = parts[0], parts[1].upper(), parts[2].strip()
        match kind:
            case "TXT" | "SPF":
                record: Any = value.removeprefix('"').removesuffix('"').encode()
            case "MX":
                preference, _, exchange = value.partition(" ")
                record = (int(preference), exchange.strip())
            case _:
                record = value
        zone.setdefault((name.lower().rstrip("."), kind), []).append(record)
    return zone


class Nameserver:
    """Answers from `zone` until it is closed; everything that is not in it does not exist.

    `behaviours` maps a name to what is done with questions about it; `everything` does so for all other names and may
    be changed while the server runs, as may `zone`. `asked` holds every question as (name, kind, transport).
    """

    def __init__(
        self,
        zone: Zone | str = "",
        *,
        behaviours: Mapping[str, Behaviour] | None = None,
        everything: Behaviour = Behaviour.ANSWER,
        ttl: int = 300,
        negative_ttl: int = 60,
        authenticated: bool = False,
    ) -> None:
        records: Mapping[tuple[str, str], Iterable[Any]] = parse_zone(zone) if isinstance(zone, str) else zone
        self.zone = {(name.lower().rstrip("."), kind): list(found) for (name, kind), found in records.items()}
        self.behaviours = {name.lower().rstrip("."): what for name, what in (behaviours or {}).items()}
        self.everything = everything
        self.ttl, self.negative_ttl, self.authenticated = ttl, negative_ttl, authenticated
        self.asked: list[tuple[str, str, str]] = []
        self._udp, self._tcp = _bind_both()
        self._wake, self._stop = socket.socketpair()
        self._threads = [
            threading.Thread(target=self._serve_udp, name="nameserver-udp", daemon=True),
            threading.Thread(target=self._serve_tcp, name="nameserver-tcp", daemon=True),
        ]

    @property
    def port(self) -> int:
        return int(self._udp.getsockname()[1])

    @property
    def address(self) -> str:
        """As `[dns] nameservers` takes it."""
        return f"{LOOPBACK}:{self.port}"

    def settings(self, timeout: float = 2.0, cache: int = 1000) -> DnsSettings:
        """Settings of a resolver that asks only this server."""
        from postroom.config import Duration

        return DnsSettings(nameservers=(self.address,), timeout=Duration(timeout), cache=cache)

    def start(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        self._stop.close()  # both threads see the other end become readable
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(TCP_WAIT + 1)
        for each in (self._udp, self._tcp, self._wake):
            each.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _readable(self, server: socket.socket) -> bool:
        """Wait for the next question; False: it is time to go."""
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            return self._wake not in [key.fileobj for key, _ in selector.select()]

    def _serve_udp(self) -> None:
        while self._readable(self._udp):
            packet, client = self._udp.recvfrom(65535)
            if reply := self._reply(packet, "udp"):
                self._udp.sendto(reply, client)

    def _serve_tcp(self) -> None:
        while self._readable(self._tcp):
            connection, _ = self._tcp.accept()
            with connection:
                connection.settimeout(TCP_WAIT)
                try:
                    (length,) = struct.unpack("!H", _read_exactly(connection, 2))
                    if reply := self._reply(_read_exactly(connection, length), "tcp"):
                        connection.sendall(struct.pack("!H", len(reply)) + reply)
                except (OSError, EOFError):
                    pass  # the client went away; it will say so itself

    def _reply(self, packet: bytes, transport: str) -> bytes | None:
        try:
            query = dns.message.from_wire(packet)
        except dns.exception.DNSException:
            return None
        if not query.question:
            return None
        question = query.question[0]
        name, kind = _plain(question.name), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, transport))
        response = dns.message.make_response(query, recursion_available=True)
        if self.authenticated:
            response.flags |= dns.flags.AD
        match self.behaviours.get(name, self.everything):
            case Behaviour.SILENCE:
                return None
            case Behaviour.SERVFAIL:
                response.set_rcode(dns.rcode.SERVFAIL)
            case Behaviour.REFUSED:
                response.set_rcode(dns.rcode.REFUSED)
            case Behaviour.NXDOMAIN:
                self._deny(response, name, dns.rcode.NXDOMAIN)
            case Behaviour.TRUNCATE if transport == "udp":
                response.flags |= dns.flags.TC
            case Behaviour.ANSWER | Behaviour.TRUNCATE:
                self._fill(response, question.name, kind)
        return _to_wire(response, max(query.payload, PLAIN_UDP) if transport == "udp" else 65535)

    def _fill(self, response: dns.message.Message, owner: dns.name.Name, kind: str) -> None:
        for _ in range(MAX_ALIASES):
            name = _plain(owner)
            if records := self.zone.get((name, kind)):
                response.answer.append(_rrset(owner, self.ttl, kind, records))
                return
            aliases = self.zone.get((name, "CNAME"))
            if not aliases:
                self._deny(response, name, dns.rcode.NOERROR if self._exists(name) else dns.rcode.NXDOMAIN)
                return
            response.answer.append(_rrset(owner, self.ttl, "CNAME", aliases[:1]))
            owner = dns.name.from_text(aliases[0])

    def _deny(self, response: dns.message.Message, name: str, rcode: dns.rcode.Rcode) -> None:
        response.set_rcode(rcode)
        apex = ".".join(name.split(".")[-2:]) + "."
        times = f"1 3600 600 86400 {self.negative_ttl}"
        response.authority.append(
            dns.rrset.from_text(apex, self.ttl, dns.rdataclass.IN, dns.rdatatype.SOA, f"ns.{apex} admin.{apex} {times}")
        )

    def _exists(self, name: str) -> bool:
        """Whether a record stands at the name or below it (RFC 4592 2.2.2: empty non-terminals exist)."""
        return any(known == name or known.endswith("." + name) for known, _ in list(self.zone))


def _bind_both() -> tuple[socket.socket, socket.socket]:
    for _ in range(PORT_TRIES):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind((LOOPBACK, 0))
        try:
            tcp.bind(udp.getsockname())
            tcp.listen(64)
        except OSError:
            udp.close()
            tcp.close()
            continue
        return udp, tcp
    raise OSError("no loopback port is free for both UDP and TCP")


def _read_exactly(connection: socket.socket, length: int) -> bytes:
    octets = b""
    while len(octets) < length:
        chunk = connection.recv(length - len(octets))
        if not chunk:
            raise EOFError
        octets += chunk
    return octets


def _plain(name: dns.name.Name) -> str:
    return str(name.to_text(omit_final_dot=True)).lower()


def _rrset(owner: dns.name.Name, ttl: int, kind: str, records: Iterable[Any]) -> dns.rrset.RRset:
    texts = [_presentation(kind, record) for record in records]
    return dns.rrset.from_text_list(owner, ttl, dns.rdataclass.IN, kind, texts)


def _presentation(kind: str, record: Any) -> str:
    """A record as a zone file writes it (RFC 1035 5)."""
    match kind:
        case "TXT" | "SPF":
            octets = record if isinstance(record, bytes) else str(record).encode()
            strings = [octets[at : at + MAX_STRING] for at in range(0, len(octets), MAX_STRING)] or [b""]
            return " ".join('"' + "".join(f"\\{octet:03d}" for octet in string) + '"' for string in strings)
        case "MX":
            preference, exchange = record
            return f"{preference} {exchange.rstrip('.')}."
        case "PTR" | "CNAME" | "NS":
            return f"{record.rstrip('.')}."
        case _:
            return str(record)


def _to_wire(response: dns.message.Message, limit: int) -> bytes:
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.answer.clear()
        response.authority.clear()
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=limit)
