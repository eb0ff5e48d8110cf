"""Pure: whom an attempt is counted for on the client's side."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from postroom.mail import Session

from postroom_grey.settings import GreySettings

UNKNOWN = "unknown"
"""The client whose address the mail server did not tell."""

ClientAddress = IPv4Address | IPv6Address


def client_address(session: Session) -> ClientAddress | None:
    """The client's address; an IPv4 one stays one when it came through a dual-stack socket (RFC 4291 2.5.5.2)."""
    address = session.client_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def identity(address: ClientAddress | None, settings: GreySettings) -> str:
    """The name under which the client is remembered: its network. This is the place for other identities."""
    if address is None:
        return UNKNOWN
    prefix = settings.ipv4_prefix if address.version == 4 else settings.ipv6_prefix
    return str(ip_network((address, prefix), strict=False))
