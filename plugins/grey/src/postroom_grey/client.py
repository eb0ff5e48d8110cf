"""Pure: whom an attempt is counted for on the client's side."""

from __future__ import annotations

from ipaddress import ip_network

from postroom.lists.patterns import ClientAddress

from postroom_grey.settings import GreySettings

UNKNOWN = "unknown"
"""The client whose address the mail server did not tell."""


DOMAIN = "spf:"
"""Begins the name of a client that is known by the domain which vouches for it."""


def identity(address: ClientAddress | None, settings: GreySettings, vouching: str = "") -> str:
    """The name under which the client is remembered: its network, or the domain that vouches for it by SPF.

    A large sender retries from one address or another; its domain stays the same.
    """
    if vouching and settings.by_domain:
        return DOMAIN + vouching
    if address is None:
        return UNKNOWN
    prefix = settings.ipv4_prefix if address.version == 4 else settings.ipv6_prefix
    return str(ip_network((address, prefix), strict=False))
