"""Pure: which of what is remembered a command is about, in a form that a store can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from postroom.lists.patterns import NULL, InvalidPattern, Kind, parse_pattern
from postroom.mail import Address

from postroom_grey.client import DOMAIN, UNKNOWN
from postroom_grey.decision import State
from postroom_grey.sender import normalised


@dataclass(frozen=True, slots=True)
class Clients:
    """Where to look: clients of these names, and with `prefix` those whose name begins so, of which not all may match
    (`Target.matches_client` tells).
    """

    names: tuple[str, ...]
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a command is about: senders or client networks, recipients and states; what is None matches all."""

    sender: str | None = None
    network: IPv4Network | IPv6Network | None = None
    unknown_client: bool = False
    vouching: str = ""  # a client known by the domain that vouches for it, as listed
    recipient: str | None = None
    states: frozenset[State] = frozenset(State)

    @property
    def senders(self) -> tuple[str, ...]:
        """Patterns, of which one has to match: as written, and in the form in which senders are remembered."""
        if self.sender is None:
            return ()
        return (self.sender,) if "*" in self.sender else (self.sender, _remembered(self.sender))

    @property
    def clients(self) -> Clients | None:
        """None: all of them."""
        if self.unknown_client:
            return Clients((UNKNOWN,))
        if self.vouching:
            return Clients((self.vouching,))
        if self.network is None:
            return None
        around = tuple(str(self.network.supernet(new_prefix=bits)) for bits in range(self.network.prefixlen + 1))
        return Clients(
            around, _beginning(self.network) if self.network.prefixlen < self.network.max_prefixlen else None
        )

    def matches_client(self, client: str) -> bool:
        if self.unknown_client:
            return client == UNKNOWN
        if self.vouching:
            return client == self.vouching
        if self.network is None:
            return True
        if client == UNKNOWN or client.startswith(DOMAIN):
            return False
        return self.network.overlaps(ip_network(client))


def _remembered(sender: str) -> str:
    return NULL if sender == NULL else normalised(Address(sender), strip_tags=True)


def _beginning(network: IPv4Network | IPv6Network) -> str:
    """What the texts of all networks within it begin with."""
    if network.version == 4:
        whole = network.prefixlen // 8
        return "".join(f"{octet}." for octet in network.network_address.packed[:whole][:3])
    groups = network.network_address.exploded.split(":")[: network.prefixlen // 16]
    beginning = ""
    for group in groups[:4]:
        if int(group, 16) == 0:  # it may be written as `::` (RFC 5952 4.2)
            break
        beginning += f"{int(group, 16):x}:"
    return beginning


def parse_target(text: str | None, recipient: str | None) -> Target:
    """From SENDER or CLIENT, and a recipient's pattern. InvalidPattern when it is none."""
    wanted = parse_pattern(recipient, Kind.SENDER).text if recipient else None
    if text is None:
        return Target(recipient=wanted)
    if text.startswith(DOMAIN):
        return Target(vouching=text.lower(), recipient=wanted)
    if text == UNKNOWN:
        return Target(unknown_client=True, recipient=wanted)
    pattern = parse_pattern(text, Kind.SENDER if text == "*" else None)
    match pattern.kind:
        case Kind.SENDER:
            return Target(sender=pattern.text, recipient=wanted)
        case Kind.CLIENT:
            return Target(network=ip_network(pattern.text), recipient=wanted)
        case Kind.NAME:
            raise InvalidPattern(
                f"{text!r} is neither sender nor client: write user@example.org, *@example.org, '{NULL}', "
                "192.0.2.1 or 192.0.2.0/24"
            )
