"""The client's session, and the envelope of one mail."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from postroom.mail.address import NULL_SENDER, Address


class TrafficClass(enum.StrEnum):
    """Where a mail comes from, as far as policy is concerned."""

    INBOUND = "inbound"  # from somebody else's host
    AUTHENTICATED = "authenticated"  # the client logged in (SMTP AUTH)
    LOCAL = "local"  # sendmail(1) on this host, or a client in one of our own networks


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
