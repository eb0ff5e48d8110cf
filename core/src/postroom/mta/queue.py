"""The queue of a mail server: what is in it, and which of that somebody means."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

NULL_SENDER = "<>"


@dataclass(frozen=True, slots=True)
class QueuedRecipient:
    """`reason`: why it has not been delivered; empty where nobody tried yet."""

    address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QueuedMail:
    """`arrived` in seconds since the epoch; the null sender is empty."""

    id: str
    queue: str
    arrived: float
    size: int
    sender: str
    recipients: tuple[QueuedRecipient, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.reason for each in self.recipients if each.reason))


class QueueAction(enum.StrEnum):
    """What can be done to mail that waits."""

    FLUSH = "flush"  # try to deliver it now
    HOLD = "hold"  # do not try until it is released
    RELEASE = "release"
    REQUEUE = "requeue"  # read it anew, as when it came: aliases and transports are looked up again
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class QueueFilter:
    """Which mails are meant: all that every given condition holds for. Patterns are those of a shell, without case."""

    ids: frozenset[str] = frozenset()
    sender: str | None = None
    recipient: str | None = None
    reason: str | None = None
    queue: str | None = None
    arrived_before: float | None = None
    arrived_after: float | None = None

    @property
    def everything(self) -> bool:
        return self == QueueFilter()

    def matches(self, mail: QueuedMail) -> bool:
        return (
            (not self.ids or mail.id in self.ids)
            and (self.queue is None or mail.queue == self.queue)
            and (self.arrived_before is None or mail.arrived < self.arrived_before)
            and (self.arrived_after is None or mail.arrived >= self.arrived_after)
            and (self.sender is None or _like(mail.sender or NULL_SENDER, self.sender))
            and (self.recipient is None or any(_like(each.address, self.recipient) for each in mail.recipients))
            and (self.reason is None or any(self.reason.lower() in each.lower() for each in mail.reasons))
        )

    def choose(self, mails: Iterator[QueuedMail]) -> Iterator[QueuedMail]:
        return (mail for mail in mails if self.matches(mail))


def _like(address: str, pattern: str) -> bool:
    return fnmatchcase(address.lower(), pattern.lower())
