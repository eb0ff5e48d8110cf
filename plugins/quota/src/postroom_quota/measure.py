"""How full the mailboxes of a mail are, by the source that the settings name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from postroom.hookspecs import Directory, Logger, Mailbox
from postroom.mail import Address, Envelope

from postroom_quota.dovecot import SourceFailed, ask_doveadm, ask_policy
from postroom_quota.maildir import Counter
from postroom_quota.settings import QuotaSettings, Source

MAX_TARGETS = 100
"""Mailboxes of one recipient that are looked at: an alias with more is a list, and some of them have room."""
SOURCE_TIME = 5.0
"""Seconds for one answer of Dovecot."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One mailbox. `used` and `limit` None: unknown, none. `fits`: the source's own judgement, where it gives one.
    `problem`: why this one cannot be looked at, although others can.
    """

    mailbox: Mailbox
    used: int | None = None
    limit: int | None = None
    fits: bool | None = None
    text: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        return self.mailbox.address.key

    @property
    def can_reserve(self) -> bool:
        return self.fits is None and self.used is not None and bool(self.limit)


def mailboxes_of(recipient: Address, directory: Directory) -> list[Mailbox | None]:
    """The mailboxes that mail for the recipient ends up in; None for what is not one of ours."""
    targets = directory.expand(recipient)
    if len(targets) > MAX_TARGETS:
        return [None]
    return [directory.mailbox(target) for target in targets]


class Measure:
    """Measures for one call, and ends before its deadline."""

    def __init__(
        self, envelope: Envelope, settings: QuotaSettings, counter: Counter, seconds: float, log: Logger
    ) -> None:
        self._envelope, self._settings, self._counter, self._log = envelope, settings, counter, log
        self._left = seconds

    def measure(self, mailbox: Mailbox, size: int, elapsed: float) -> Measured:
        """SourceFailed when nothing can be known now; `elapsed`: seconds since the call began."""
        seconds = self._left - elapsed
        if seconds <= 0 and self._settings.source is not Source.DIRECTORY:
            raise SourceFailed("no time left to ask for all recipients")
        match self._settings.source:
            case Source.POLICY:
                assert self._settings.policy is not None  # checked by the settings
                sender, recipient = str(self._envelope.sender), str(mailbox.address)
                answer = ask_policy(self._settings.policy, sender, recipient, size, min(SOURCE_TIME, seconds))
                return Measured(mailbox, fits=answer.fits, text=answer.text)
            case Source.DOVEADM:
                used, limit = ask_doveadm(self._settings.doveadm, str(mailbox.address), min(SOURCE_TIME, seconds))
                return Measured(mailbox, used, limit)
            case Source.DIRECTORY:
                try:
                    return self._from_directory(mailbox, size, max(0.0, seconds))
                except OSError as error:  # of one owner's files: nobody else's mail waits for them
                    self._log.error("mailbox cannot be looked at", mailbox=str(mailbox.address), error=str(error))
                    return Measured(mailbox, problem=error.strerror or str(error))

    def _from_directory(self, mailbox: Mailbox, size: int, seconds: float) -> Measured:
        limit = limit_of(mailbox, self._settings)
        if limit is None:
            return Measured(mailbox)
        if mailbox.used is not None:
            return Measured(mailbox, max(0, mailbox.used), limit)
        if not mailbox.maildir:
            self._log.warning("nobody tells how full the mailbox is", mailbox=str(mailbox.address))
            return Measured(mailbox, None, limit)
        usage = self._counter.usage(
            Path(mailbox.maildir),
            limit,
            max(size, 1),
            trash=self._settings.trash,
            cache=self._settings.cache,
            patience=min(self._settings.count_time, seconds),
        )
        if usage is None:
            self._log.warning("mailbox is still being counted: its mail passes", mailbox=str(mailbox.address))
            return Measured(mailbox, None, limit)
        return Measured(mailbox, usage.octets, limit)


def limit_of(mailbox: Mailbox, settings: QuotaSettings) -> int | None:
    """The directory's limit, else the settings'; what is not positive is none."""
    limit = mailbox.quota if mailbox.quota is not None else int(settings.limit)
    return limit if limit > 0 else None
