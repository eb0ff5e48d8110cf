"""The DNS resolver that handlers are lent: dnspython behind a bounded cache, with one query in flight a question."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from postroom.config import ConfigError, DnsSettings
from postroom.hookspecs import Answer, Clock, LookupFailed
from postroom.mail import to_a_label

if TYPE_CHECKING:
    import dns.message
    import dns.rdata
    import dns.resolver

MAX_NAME = 253  # RFC 1035 2.3.4: 255 octets on the wire, of which two frame the text
MAX_LABEL = 63  # RFC 1035 2.3.4
MAX_ALIASES = 10  # CNAMEs followed beyond what one answer holds
MAX_TTL = 86400.0  # longest life of an answer, whatever its owner says
MAX_NEGATIVE_TTL = 900.0  # RFC 2308 5 allows hours; whoever has just added a record should not wait so long
DEFAULT_NEGATIVE_TTL = 60.0  # where the answer came without the SOA that says it
FAILURE_TTL = 5.0  # RFC 2308 7.1: a server failure may be remembered, briefly
UDP_PAYLOAD = 1232  # EDNS: what passes without fragments nearly everywhere
DNS_PORT = 53

KINDS = ("A", "AAAA", "CNAME", "MX", "NS", "PTR", "SPF", "TXT")

NO_SUCH_NAME = Answer(exists=False, ttl=MAX_NEGATIVE_TTL)
"""What a name gets that no server could know: a label too long, none at all, no A-label form."""

Question = tuple[str, str]


class ServerFailed(LookupFailed):
    """The servers answered, and their answer was that they can't (SERVFAIL, REFUSED, lame)."""


def parse_nameserver(text: str) -> tuple[str, int]:
    """Address and port of `address:port`, `[v6 address]:port` or a bare address; ValueError says what to write."""
    bare = text.strip()
    if bare.startswith("["):
        host, _, rest = bare[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest or str(DNS_PORT)
    elif bare.count(":") == 1:
        host, _, port = bare.partition(":")
    else:  # a bare address, perhaps an IPv6 one
        host, port = bare, str(DNS_PORT)
    remedy = 'write the address and port, "192.0.2.53:53" or "[2001:db8::53]:53"'
    try:
        address = str(ip_address(host))
    except ValueError:
        raise ValueError(f"nameserver {text!r} is no address (names can't be looked up yet): {remedy}") from None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"nameserver {text!r} has no port from 1 to 65535: {remedy}")
    return address, int(port)


def canonical_name(name: str) -> str | None:
    """The name as it is asked and remembered, lower-case A-labels without the last dot; None: no DNS name at all."""
    plain = (name if name.isascii() else to_a_label(name)).lower().removesuffix(".")
    if not plain.isascii() or len(plain) > MAX_NAME:
        return None
    if not plain or any(not 0 < len(label) <= MAX_LABEL for label in plain.split(".")):
        return None
    return plain


class _Cache:
    """Answers and server failures until their time is over; when it is full, the oldest leave."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[Question, tuple[float, Answer | ServerFailed]] = {}
        self._lock = threading.Lock()

    def get(self, question: Question, now: float) -> tuple[float, Answer | ServerFailed] | None:
        """When it ends and what it is. No lock: reading one key of a dict is atomic."""
        entry = self._entries.get(question)
        return entry if entry is not None and entry[0] > now else None

    def put(self, question: Question, found: Answer | ServerFailed, ends: float, now: float) -> None:
        if self._size == 0 or ends <= now:
            return
        with self._lock:
            self._entries.pop(question, None)  # so that it becomes the youngest
            while len(self._entries) >= self._size:
                del self._entries[next(iter(self._entries))]
            self._entries[question] = (ends, found)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(slots=True)
class _Flight:
    """One query that is under way, and what came of it."""

    landed: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None
    failure: LookupFailed | None = None


class DnsResolver:
    """hookspecs.Resolver on dnspython, for all threads of one worker. ConfigError names a wrong nameserver.

    Nothing is imported, read or opened before the first look-up that the cache can't answer.
    """

    def __init__(self, settings: DnsSettings, clock: Clock, place: str = "[dns]") -> None:
        try:
            self._nameservers = tuple(parse_nameserver(text) for text in settings.nameservers)
        except ValueError as error:
            raise ConfigError(f"{place}: nameservers: {error}") from None
        self._timeout = float(settings.timeout)
        self._clock = clock
        self._cache = _Cache(settings.cache)
        self._flights: dict[Question, _Flight] = {}
        self._lock = threading.Lock()
        self._stub: dns.resolver.Resolver | None = None

    def lookup(self, name: str, kind: str, timeout: float | None = None) -> Answer:
        """Records of that kind; see hookspecs.Answer for their shapes. `timeout` can only shorten `[dns] timeout`."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of record that handlers may ask for: {', '.join(KINDS)}")
        plain = canonical_name(name)
        if plain is None:
            return NO_SUCH_NAME
        now = self._clock.monotonic()
        if entry := self._cache.get((plain, kind), now):
            return _remembered(*entry, now)
        return self._fly((plain, kind), now + (self._timeout if timeout is None else min(timeout, self._timeout)))

    def _fly(self, question: Question, ends: float) -> Answer:
        """Ask, or wait for whoever is asking the same; one who asked in less time than is left here doesn't count."""
        while (left := ends - self._clock.monotonic()) > 0:
            with self._lock:
                flight = self._flights.get(question)
                leads = flight is None
                if flight is None:
                    flight = self._flights[question] = _Flight()
            if leads:
                return self._lead(question, flight, left)
            if not flight.landed.wait(left):
                break
            if flight.answer is not None:
                return flight.answer
            if isinstance(flight.failure, ServerFailed):
                raise ServerFailed(str(flight.failure))
        raise LookupFailed(f"no answer for {question[0]} {question[1]} in time")

    def _lead(self, question: Question, flight: _Flight, left: float) -> Answer:
        try:
            answer = flight.answer = self._ask_servers(question, left)
        except LookupFailed as failure:
            flight.failure = failure
            if isinstance(failure, ServerFailed):
                now = self._clock.monotonic()
                self._cache.put(question, failure, now + FAILURE_TTL, now)
            raise
        else:
            now = self._clock.monotonic()
            self._cache.put(question, answer, now + answer.ttl, now)
            return answer
        finally:
            with self._lock:
                del self._flights[question]
            flight.landed.set()

    def _ask_servers(self, question: Question, left: float) -> Answer:
        """Follow CNAMEs beyond one answer: a server that doesn't recurse leaves that to us."""
        ends = self._clock.monotonic() + left
        name, kind = question
        ttl, authenticated = MAX_TTL, True
        for _ in range(MAX_ALIASES):
            left = ends - self._clock.monotonic()
            if left <= 0:
                raise LookupFailed(f"no answer for {name} {kind} in time")
            step = self._ask(name, kind, left)
            ttl, authenticated = min(ttl, step.answer.ttl), authenticated and step.answer.authenticated
            if not step.alias:
                return Answer(step.answer.records, step.answer.exists, ttl, authenticated)
            name = step.alias
        return Answer(ttl=ttl)  # a chain without an end holds no records

    def _ask(self, name: str, kind: str, left: float) -> _Step:
        """One question to the servers, with retries, the next server and TCP as needed, within `left` seconds."""
        import dns.exception
        import dns.name
        import dns.resolver

        labels = [label.encode("ascii") for label in name.split(".")]  # no escapes: "\" is an octet like any other
        try:
            answer = self._stub_resolver().resolve(
                dns.name.Name([*labels, b""]), kind, raise_on_no_answer=False, search=False, lifetime=left
            )
        except dns.resolver.NXDOMAIN as absent:
            response: dns.message.Message = next(iter(absent.kwargs["responses"].values()))
            return _Step(Answer(exists=False, ttl=_negative_ttl(response), authenticated=_is_authenticated(response)))
        except (dns.name.NameTooLong, dns.name.LabelTooLong, dns.name.EmptyLabel, dns.resolver.YXDOMAIN):
            return _Step(NO_SUCH_NAME)
        except dns.exception.Timeout:
            raise LookupFailed(f"no answer for {name} {kind} in time") from None
        except dns.resolver.NoNameservers:
            raise ServerFailed(f"the nameservers can't answer for {name} {kind}") from None
        except dns.resolver.NoResolverConfiguration:
            raise LookupFailed("no nameserver in /etc/resolv.conf: set [dns] nameservers") from None
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise LookupFailed(f"no answer for {name} {kind}: {type(error).__name__}") from None
        return _read(answer, kind)

    def _stub_resolver(self) -> dns.resolver.Resolver:
        import dns.flags
        import dns.nameserver
        import dns.resolver

        if self._stub is None:  # two threads may both make one: they are alike
            stub = dns.resolver.Resolver(configure=not self._nameservers)
            if self._nameservers:
                stub.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._nameservers]
            stub.cache = None
            stub.use_edns(0, 0, UDP_PAYLOAD)
            stub.flags = dns.flags.RD | dns.flags.AD  # RFC 6840 5.7: AD in a query asks for AD in the answer
            self._stub = stub
        return self._stub


@dataclass(frozen=True, slots=True)
class _Step:
    """One server's answer, and the name to go on with where it ended in a CNAME."""

    answer: Answer
    alias: str = ""


def _remembered(ends: float, found: Answer | ServerFailed, now: float) -> Answer:
    if isinstance(found, ServerFailed):
        raise ServerFailed(str(found))
    return Answer(found.records, found.exists, ends - now, found.authenticated)


def _read(answer: dns.resolver.Answer, kind: str) -> _Step:
    response = answer.response
    authenticated = _is_authenticated(response)
    if answer.rrset is not None:
        ttl = min(float(answer.chaining_result.minimum_ttl), MAX_TTL)
        return _Step(Answer(tuple(_RECORD[kind](rdata) for rdata in answer.rrset), True, ttl, authenticated))
    if answer.chaining_result.cnames and not _has_soa(response):  # with the SOA it would be a full "there is none"
        ttl = min(float(min(alias.ttl for alias in answer.chaining_result.cnames)), MAX_TTL)
        return _Step(Answer(ttl=ttl, authenticated=authenticated), _text(answer.canonical_name))
    return _Step(Answer(ttl=_negative_ttl(response), authenticated=authenticated))


def _is_authenticated(response: dns.message.Message) -> bool:
    import dns.flags

    return bool(response.flags & dns.flags.AD)


def _has_soa(response: dns.message.Message) -> bool:
    import dns.rdatatype

    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)


def _negative_ttl(response: dns.message.Message) -> float:
    """How long "there is none" holds: the smaller of the SOA's own TTL and its minimum (RFC 2308 5), capped."""
    import dns.rdatatype

    for rrset in response.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return min(float(min(rrset.ttl, rrset[0].minimum)), MAX_NEGATIVE_TTL)
    return DEFAULT_NEGATIVE_TTL


def _text(name: Any) -> str:
    """A dns.name.Name as text, less the last dot; the root is the empty text."""
    return str(name.to_text(omit_final_dot=True)).lower() if len(name.labels) > 1 else ""


_RECORD: dict[str, Callable[[Any], Any]] = {
    "A": lambda rdata: rdata.address,
    "AAAA": lambda rdata: rdata.address,
    "CNAME": lambda rdata: _text(rdata.target),
    "NS": lambda rdata: _text(rdata.target),
    "PTR": lambda rdata: _text(rdata.target),
    "MX": lambda rdata: (rdata.preference, _text(rdata.exchange)),
    "TXT": lambda rdata: b"".join(rdata.strings),
    "SPF": lambda rdata: b"".join(rdata.strings),
}
