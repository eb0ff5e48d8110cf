"""What administrators can set, in the configuration, in a registration's context, and with `postroom grey set`."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.config import Duration, setting
from postroom.verdict import DEFER_REPLY


@dataclass(frozen=True)
class GreySettings:
    enabled: bool = setting(True, help="Greylist at all; may be turned off and on for a domain or a mailbox.")
    wait: Duration = setting(
        Duration(300), help="How long a new sender has to wait before its mail is taken.", most=86400
    )
    expire: Duration = setting(
        Duration(36 * 86400),
        help="How long a sender is remembered after its last attempt; never shorter than twice `wait`.",
        least=60,
        most=10 * 365 * 86400,
    )
    penalize: bool = setting(False, help="Whether an attempt that comes too early makes the wait longer.")
    penalty: Duration = setting(Duration(120), help="How much longer an attempt that comes too early makes the wait.")
    longest_wait: Duration = setting(
        Duration(12 * 3600), help="Penalties never make anybody wait longer than this after the first attempt."
    )
    ipv4_prefix: int = setting(24, help="Clients of the same IPv4 network are one; 32: each address.", least=8, most=32)
    ipv6_prefix: int = setting(
        64, help="Clients of the same IPv6 network are one; 128: each address.", least=16, most=128
    )
    by_domain: bool = setting(
        False, help="Whether all clients for which SPF passes are one for their domain; `spf` must act before `grey`."
    )
    strip_tags: bool = setting(
        True, help="Whether senders that differ only in a tag or a number (VERP, SRS, BATV) are one."
    )
    auto_allow: int = setting(
        5, help="A client network whose mail came back this often waits no more; 0: never.", least=0, most=1000000
    )
    auto_allow_expire: Duration = setting(
        Duration(36 * 86400), help="How long such a network stays allowed after its last mail.", least=60
    )
    personal: bool = setting(True, help="Whether settings and lists of single mailboxes count.")
    reply: str = setting(DEFER_REPLY.text, help="What a client that has to wait is told.")


PERSONAL_SETTINGS = ("enabled", "wait", "expire", "penalize", "penalty")
"""What a domain or a mailbox can have of its own; the rest is about the client, whoever the recipient is."""
