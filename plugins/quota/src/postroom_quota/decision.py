"""Pure: from what was measured to a verdict for each recipient."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from postroom.config import Size
from postroom.hookspecs import Mailbox
from postroom.mail import Address, TrafficClass
from postroom.verdict import Reply, Verdict, deferred, one_by_one, rejected, skipped

from postroom_quota.ledger import Answer
from postroom_quota.measure import Measured
from postroom_quota.settings import QuotaSettings, WhenFull
from postroom_quota.warning import readable

# RFC 3463 3.3: mailbox full; message length exceeds administrative limit; other mailbox status
FULL, TOO_LARGE, OTHER = "2.2", "2.3", "2.0"
UNREADABLE = "Mailbox cannot be looked at - try again later"


class State(enum.StrEnum):
    """One mailbox and one mail."""

    FITS = "fits"
    FULL = "full"  # there will be room again
    TOO_LARGE = "too large"  # there will never be
    UNKNOWN = "unknown"  # nobody could tell in time: the mail passes
    UNREADABLE = "unreadable"  # its own files are in the way: there may be room
    UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True)
class Case:
    """One mailbox: what was measured, and what the ledger says; `total` counts mail that is on its way."""

    measured: Measured
    state: State
    total: int = 0


def judge(measured: Measured, size: int, answer: Answer | None) -> Case:
    if measured.problem:
        return Case(measured, State.UNREADABLE)
    limit = measured.mailbox.message_limit
    if limit is not None and 0 < limit < size:
        return Case(measured, State.TOO_LARGE)
    if measured.limit is not None and size > measured.limit:
        return Case(measured, State.TOO_LARGE)
    if measured.fits is not None:
        return Case(measured, State.FITS if measured.fits else State.FULL)
    if answer is not None:
        return Case(measured, State.FITS if answer.fits else State.FULL, answer.total)
    return Case(measured, State.UNLIMITED if measured.limit is None else State.UNKNOWN)


def verdict_of(
    recipients: Mapping[Address, Sequence[Mailbox | None]],
    cases: Mapping[str, Case],
    size: int,
    settings: QuotaSettings,
    traffic: TrafficClass,
) -> Verdict:
    """Only those recipients are refused none of whose mailboxes can take the mail."""
    refused: dict[Address, Verdict] = {}
    for recipient, mailboxes in recipients.items():
        found = [cases[mailbox.address.key] for mailbox in mailboxes if mailbox is not None]
        if found and len(found) == len(mailboxes) and all(_refuses(case) for case in found):
            refused[recipient] = _refusal(recipient, found, size, settings, own=traffic is not TrafficClass.INBOUND)
    if refused and len(refused) == len(recipients):
        return one_by_one(refused, next(iter(refused.values())))
    states = dict.fromkeys(str(case.state) for case in cases.values() if not _refuses(case))
    return one_by_one(refused, skipped(", ".join(states) or "no mailbox of ours"))


def _refuses(case: Case) -> bool:
    return case.state in (State.FULL, State.TOO_LARGE, State.UNREADABLE)


def _refusal(recipient: Address, cases: Sequence[Case], size: int, settings: QuotaSettings, *, own: bool) -> Verdict:
    reason = "; ".join(describe(case, size) for case in cases[:3])
    if any(case.state is State.UNREADABLE for case in cases):
        return deferred(reason, Reply(UNREADABLE, OTHER))
    full = [case for case in cases if case.state is State.FULL]
    if not full:
        text = "Message is too large for this mailbox"
        return rejected(reason, Reply(f"{text}: {_figures(recipient, cases[0], size)}" if own else text, TOO_LARGE))
    reply = Reply(f"{settings.reply}: {_figures(recipient, full[0], size)}" if own else settings.reply, FULL)
    match settings.when_full:
        case WhenFull.DEFER:
            return deferred(reason, reply)
        case WhenFull.REJECT:
            return rejected(reason, reply)


def describe(case: Case, size: int) -> str:
    """For the log."""
    found = case.measured
    address = found.mailbox.address
    if case.state is State.TOO_LARGE:
        limits = [each for each in (found.mailbox.message_limit, found.limit) if each]
        return f"{address}: {Size(size)} octets are more than {Size(min(limits))}"
    if case.state is State.UNREADABLE:
        return f"{address}: {found.problem}"
    if found.fits is not None:
        return f"{address}: {found.text or 'full, says the policy server'}"
    waiting = case.total - (found.used or 0)
    on_its_way = f", {waiting} on its way" if waiting > 0 else ""
    return f"{address}: {found.used} of {found.limit} octets used{on_its_way}, this mail has {size}"


def _figures(recipient: Address, case: Case, size: int) -> str:
    found = case.measured
    if case.state is State.TOO_LARGE:
        limits = [each for each in (found.mailbox.message_limit, found.limit) if each]
        return f"{recipient} takes {readable(min(limits))}, this mail has {readable(size)}"
    if found.limit is None or found.used is None:
        return str(recipient)
    holds = f"{recipient} holds {readable(case.total)} of {readable(found.limit)}"
    return f"{holds}, this mail has {readable(size)}" if size else holds
