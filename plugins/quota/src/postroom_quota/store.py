"""What the two stores of ledgers have in common: what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from postroom_quota.ledger import Answer, Ledger, Request, Terms

REMEMBERED = 31 * 86400 * 1000
"""Milliseconds for which it is remembered that a warning was sent."""


class Store(Protocol):
    """StateUnavailable when it cannot be asked."""

    name: str

    def reserve(self, requests: Sequence[Request], terms: Terms) -> list[Answer]:
        """Each mailbox once."""

    def settle(self, mailbox: str, id: str, expires: int) -> None: ...

    def forget_warning(self, mailbox: str) -> None:
        """It could not be sent: the next mail tries again."""

    def forget(self, mailbox: str) -> None:
        """Nothing is held any more; what was warned of stays."""

    def ledger(self, mailbox: str) -> Ledger: ...

    def ping(self) -> None: ...
