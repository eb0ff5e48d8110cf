"""What administrators can set, in the configuration and in a registration's context."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from postroom.config import Duration, Size, SocketAddress, setting


class Source(enum.StrEnum):
    """Who knows how full a mailbox is."""

    DIRECTORY = "directory"  # what the directory service knows, else the Maildir
    POLICY = "policy"  # Dovecot's quota-status service, or any other of Postfix' policy protocol
    DOVEADM = "doveadm"  # `doveadm quota get`


class WhenFull(enum.StrEnum):
    """What the sender is told."""

    DEFER = "defer"  # 452 4.2.2: it tries again, for days
    REJECT = "reject"  # 552 5.2.2: it gets its mail back


@dataclass(frozen=True)
class QuotaSettings:
    when_full: WhenFull = setting(WhenFull.DEFER, help="defer: 452 4.2.2, the sender tries again; reject: 552 5.2.2.")
    source: Source = setting(
        Source.DIRECTORY, help="Who knows the usage: directory (and Maildirs), policy, or doveadm."
    )
    policy: SocketAddress | None = setting(
        None, help='Dovecot\'s quota-status service for source = "policy": inet:host:port or unix:/path.'
    )
    doveadm: tuple[str, ...] = setting(("doveadm",), help='Program and options for source = "doveadm".')
    limit: Size = setting(Size(0), help="Limit of a mailbox for which the directory has none; 0: none.")
    trash: bool = setting(
        False, help="Whether mail in Trash counts, when a Maildir is counted (Dovecot counts it, Maildir++ does not)."
    )
    count_time: Duration = setting(
        Duration(3), help="Longest wait for a Maildir to be counted; it goes on being counted after that.", most=15
    )
    cache: Duration = setting(
        Duration(60), help="How long a count holds where no maildirsize can be kept.", least=1, most=3600
    )
    reserve: Duration = setting(
        Duration(300), help="How long mail that was let in counts before it is delivered.", least=1, most=86400
    )
    settle: Duration = setting(
        Duration(5), help="How long it counts after before-local saw it, where that is registered.", most=3600
    )
    warn_at: tuple[int, ...] = setting((80, 95), help="Percent at which the owner gets a mail, once each; none: never.")
    warn_from: str = setting("", help="Address in From of that mail; empty: postmaster at the mailbox's domain.")
    texts: Path | None = setting(None, help="Directory of own texts, LANGUAGE.txt each; the rest stays ours.")
    reply: str = setting("Mailbox is full", help="What strangers are told; own users are told the figures, too.")

    def __post_init__(self) -> None:
        if self.source is Source.POLICY and self.policy is None:
            raise ValueError('source = "policy" needs policy, for example "inet:127.0.0.1:12340"')
        if self.source is Source.DOVEADM and not self.doveadm:
            raise ValueError("doveadm names a program and its options")
        for percent in self.warn_at:
            if not 1 <= percent <= 100:
                raise ValueError(f"warn_at: {percent} is no percentage: 1 to 100")
