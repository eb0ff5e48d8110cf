"""What administrators can set in the configuration and in a registration's context; and what holds for one mail."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.config import Duration, Size, setting

from postroom_autoresponder.calendar import check_zone
from postroom_autoresponder.template import DEFAULT_SUBJECT, check_subject, check_text

DAY = 86400


@dataclass(frozen=True)
class AutoresponderSettings:
    responder: str = setting(
        "", help="Name of the responder that answers; empty: the one that is called like the mailbox."
    )
    subject: str = setting(DEFAULT_SUBJECT, help="Subject of replies where the responder has none; a template.")
    text: str = setting("", help="Text of replies where no responder is stored; empty: then there is no reply.")
    interval: Duration = setting(
        Duration(7 * DAY),
        help="One reply to a sender in this time (RFC 5230 4.1); 0: to every mail, up to `daily_limit`.",
        most=3650 * DAY,
    )
    daily_limit: int = setting(
        10, help="At most so many replies of a mailbox to one address in 24 hours.", least=1, most=1000000
    )
    remembered: int = setting(
        5000,
        help="Addresses that a mailbox remembers as answered; past it the oldest is forgotten.",
        least=1,
        most=1000000,
    )
    mailbox_limit: int = setting(
        200, help="At most so many replies of a mailbox to all addresses together in an hour.", least=1, most=1000000
    )
    hourly_limit: int = setting(
        1000, help="At most so many replies of the whole host, or all hosts that share a Redis, in an hour.", least=1
    )
    authenticated_only: bool = setting(
        True, help="Answer only a sender for whose domain SPF, DKIM or DMARC passed, and clients of our own."
    )
    answer_spam: bool = setting(False, help="Answer mail that is spam, too.")
    addressed_only: bool = setting(
        True, help="Answer only where the mailbox is in To, Cc or Bcc (RFC 5230 4.5); see a responder's `address`."
    )
    time_zone: str = setting("UTC", help="Time zone of start and end where the responder has none.")
    max_text: Size = setting(Size(256 << 10), help="Largest text or HTML of a responder, octets.", most=16 << 20)
    max_attachments: Size = setting(
        Size(5 << 20), help="Largest total of a responder's attachments, octets.", most=64 << 20
    )

    def __post_init__(self) -> None:
        check_subject(self.subject)
        check_text(self.text)
        check_zone(self.time_zone)
