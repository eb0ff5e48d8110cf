"""What the trace fields on top of a mail say of its origin, as qmail-queue and qmail-smtpd write them. Pure.

Only qmail-queue's own line on top can be believed outright; the one below is qmail-smtpd's where the mail came by SMTP,
and a local sender can only make himself look like a stranger with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from postroom.mail import Field

_QUEUED = re.compile(r"\(qmail (\d+) invoked (from network|by uid \d+|by alias|for bounce)\)")
_SMTPD = re.compile(
    r"from (?P<name>\S+)(?: \(HELO (?P<helo>[^)]*)\))? \((?:(?P<info>[^()]*)@)?(?P<address>[0-9a-fA-F:.]+)\)"
    r"\s+by (?P<server>\S+) with "
)


@dataclass(frozen=True, slots=True)
class SmtpTrace:
    """qmail-smtpd's word about its client. `name` is the reverse name, not verified."""

    address: IPv4Address | IPv6Address
    name: str
    helo: str
    server: str


@dataclass(frozen=True, slots=True)
class QueueTrace:
    """qmail-queue's own line: its process id, as qmail's log has it ("qp 4711"), and the client before it."""

    process: str
    smtp: SmtpTrace | None


def read_smtp(fields: Sequence[Field]) -> SmtpTrace | None:
    """From the first Received field, when qmail-smtpd wrote it."""
    received = next((found.text for found in fields if _is_received(found)), "")
    match = _SMTPD.match(" ".join(received.split()))
    if match is None:
        return None
    try:
        address = ip_address(match["address"])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    name = "" if match["name"] == "unknown" else match["name"]
    # a HELO that is the same as the name is left out (received.c)
    return SmtpTrace(address, name, match["helo"] or name, match["server"])


def read_queue(fields: Sequence[Field]) -> QueueTrace | None:
    """From a mail that was in qmail's queue."""
    if not fields or not _is_received(fields[0]):
        return None
    match = _QUEUED.match(fields[0].text)
    return QueueTrace(match[1], read_smtp(fields[1:])) if match else None


def _is_received(found: Field) -> bool:
    return found.name.strip().lower() == b"received"
