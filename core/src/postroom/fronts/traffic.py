"""The class of a mail, from the facts of its session: one rule for every front."""

from __future__ import annotations

from collections.abc import Iterable

from postroom.config import Network
from postroom.mail import Session, TrafficClass


def traffic_class(session: Session, networks: Iterable[Network]) -> TrafficClass:
    """`authenticated` for a client that logged in; `local` for this host and own networks; else `inbound`."""
    if session.auth_user:
        return TrafficClass.AUTHENTICATED
    address = session.client_address
    if session.submitted_locally or address is None:
        return TrafficClass.LOCAL
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:192.0.2.1 is the host 192.0.2.1
    own = mapped or address
    if any(own.version == network.version and own in network for network in networks):
        return TrafficClass.LOCAL
    return TrafficClass.INBOUND
