"""A mail that a local program gives to sendmail: its recipients, by argument or read from the mail itself."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import getaddresses

from postroom.fronts.handover.protocol import Request
from postroom.mail import Address, Message

FROM_MAIL = "READ_RECIPIENTS"
"""The fact that stands for sendmail's -t."""

_BCC = (b"bcc", b"resent-bcc")


class UnreadableRecipients(Exception):
    """The header fields that name the recipients cannot be read, and will not be another time either."""


@dataclass(frozen=True)
class Submitted:
    """`message` is without Bcc: nobody who gets it may see that."""

    recipients: tuple[Address, ...]
    message: Message


def read_submission(request: Request) -> Submitted:
    given = [each.decode("utf-8", "surrogateescape") for each in request.recipients]
    if FROM_MAIL in request.facts:
        given += _read_recipients(request.message)
    kept = tuple(found for found in request.message.fields if found.name.strip().lower() not in _BCC)
    whole = len(kept) == len(request.message.fields)
    message = request.message if whole else Message(kept, request.message.body)
    return Submitted(tuple(dict.fromkeys(map(Address, given))), message)


def _read_recipients(message: Message) -> list[str]:
    """From Resent-To, Resent-Cc and Resent-Bcc where there are any (RFC 5322 3.6.6), else from To, Cc and Bcc."""
    for prefix in (b"resent-", b""):
        names = {prefix + name for name in (b"to", b"cc", b"bcc")}
        values = [found.text for found in message.fields if found.name.strip().lower() in names]
        if values:
            try:
                return [address for _, address in getaddresses(values) if address]
            except RecursionError:  # it takes nested comments one call deeper each
                raise UnreadableRecipients from None
    return []
