"""Changes of policies and lookups among what is remembered, as commands make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from postroom.config import Duration, build_from_context
from postroom.lists.patterns import NULL, InvalidPattern, Kind, glob, parse_pattern
from postroom.lists.scopes import Scope
from postroom.lists.store import change_document
from postroom.mail import Address

from postroom_grey.client import DOMAIN, UNKNOWN
from postroom_grey.policy import NOTHING, Policy
from postroom_grey.sender import normalised
from postroom_grey.settings import GreySettings
from postroom_grey.store import Entry, Store

Setting = bool | int | float | str


def read_policy(store: Store, scope: Scope) -> Policy:
    stored = store.policy(scope)
    return Policy.from_json(stored.document) if stored.version else NOTHING


def change_policy(store: Store, scope: Scope, change: Callable[[Policy], Policy]) -> Policy:
    """Apply `change` to the policy as it is, however many commands run at once; the new policy."""

    def change_text(document: str) -> str:
        changed = change(Policy.from_json(document) if document else NOTHING)
        return changed.to_json() if changed else ""

    document = change_document(store, scope, change_text)
    return Policy.from_json(document) if document else NOTHING


def parse_setting(name: str, text: str) -> Setting:
    """A setting's value from the command line, as it is stored. ConfigError names what is wrong."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    value = getattr(build_from_context(GreySettings, f'{name}="{quoted}"', "grey"), name)
    return float(value) if isinstance(value, Duration) else value


@dataclass(frozen=True, slots=True)
class Target:
    """What a command is about: senders or client networks, and recipients; what is None matches all."""

    sender: str | None = None
    network: IPv4Network | IPv6Network | None = None
    unknown_client: bool = False
    vouching: str = ""  # a client known by the domain that vouches for it, as listed
    recipient: str | None = None

    def matches(self, entry: Entry) -> bool:
        return (
            self.matches_client(entry.triple.client)
            and (self.sender is None or self._matches_sender(entry.triple.sender))
            and (self.recipient is None or glob(self.recipient, entry.triple.recipient))
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

    def _matches_sender(self, sender: str) -> bool:
        """As written, or in the form in which senders are remembered."""
        wanted = self.sender or ""
        return glob(wanted, sender) or ("*" not in wanted and sender == _remembered(wanted))


def _remembered(sender: str) -> str:
    return NULL if sender == NULL else normalised(Address(sender), strip_tags=True)


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


def matching(store: Store, target: Target, now: int) -> Iterator[Entry]:
    return (entry for entry in store.entries(now) if target.matches(entry))
