"""Pure: whom an attempt is counted for on the client's side."""

from __future__ import annotations

from ipaddress import ip_network

from postroom.lists.patterns import ClientAddress

from postroom_grey.settings import GreySettings

UNKNOWN = "unknown"
"""The client whose address the mail server did not tell."""


def identity(address: ClientAddress | None, settings: GreySettings) -> str:
    """The name under which the client is remembered: its network. This is the place for other identities."""
    if address is None:
        return UNKNOWN
    prefix = settings.ipv4_prefix if address.version == 4 else settings.ipv6_prefix
    return str(ip_network((address, prefix), strict=False))
