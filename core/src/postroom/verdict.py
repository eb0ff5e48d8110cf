"""What a handler answers, and what becomes of each recipient.

A reply's codes are derived from the action, so that a basic code, an enhanced code and an action cannot disagree.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from postroom.mail import Address, Edit, Message


class Action(enum.StrEnum):
    """The six answers; the first five are the words of the reference's handler programs."""

    PASS = "PASS"  # noqa: S105  # a verdict, no password  # goes on, with the edits asked for
    SKIP = "SKIP"  # goes on; nothing was done
    STOP = "STOP"  # ends in success; the handler took the mail over
    DEFER = "DEFER"  # ends; the sender shall try again
    REJECT = "REJECT"  # ends; permanent
    QUARANTINE = "QUARANTINE"  # ends; kept with its reason, releasable

    @property
    def goes_on(self) -> bool:
        return self in (Action.PASS, Action.SKIP)


class Category(enum.StrEnum):
    """What a refusal is about, where that changes what the sender is owed: no notification for these two."""

    INFECTED = "infected"
    SPAM = "spam"


_BASIC_CODES = {  # enhanced detail (RFC 3463) -> last two digits of the reply code, RFC 5321 4.2.3 and RFC 5248 2.4
    "2.2": "52",  # mailbox full
    "2.3": "52",  # message too large for the mailbox
    "3.4": "52",  # message too big for the system
}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer for the peer: `detail` is the enhanced status code less its class ("7.1"); never a path or a trace.

    Several lines of text are allowed, separated by LF.
    """

    text: str
    detail: str = "7.1"

    def code(self, action: Action) -> str:
        """Reply code for DEFER or REJECT: 451 and 550 unless the detail has one of its own."""
        if action is Action.DEFER:
            return "4" + _BASIC_CODES.get(self.detail, "51")
        return "5" + _BASIC_CODES.get(self.detail, "50")

    def enhanced(self, action: Action) -> str:
        return f"{4 if action is Action.DEFER else 5}.{self.detail}"

    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()] or ["Command rejected"]

    def line(self, action: Action) -> str:
        """One line as the peer sees it, for logs and tables: `451 4.7.1 text`."""
        return f"{self.code(action)} {self.enhanced(action)} {' '.join(self.lines())}"


DEFER_REPLY = Reply("Service unavailable - try again later")  # the reference's words
REJECT_REPLY = Reply("Command rejected")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A handler's answer to one call. Use the functions below to make one.

    `reason` is for the log and may name anything; `reply` is for the peer. `finding` is one frozen object of the
    handler's own that later handlers of the same mail may read.

    `for_recipients` answers differently for some recipients of the call; the rest of the verdict is for all others.
    The answers in it have neither `finding` nor `for_recipients` of their own.
    """

    action: Action
    edits: tuple[Edit, ...] = ()
    reply: Reply | None = None
    reason: str = ""
    category: Category | None = None
    finding: Any = None
    for_recipients: Mapping[Address, Verdict] = field(default_factory=dict, hash=False)


def passed(*edits: Edit, reason: str = "", finding: Any = None) -> Verdict:
    return Verdict(Action.PASS, edits, reason=reason, finding=finding)


def skipped(reason: str = "", *, finding: Any = None) -> Verdict:
    return Verdict(Action.SKIP, reason=reason, finding=finding)


def stopped(reason: str) -> Verdict:
    return Verdict(Action.STOP, reason=reason)


def deferred(reason: str, reply: Reply = DEFER_REPLY, *, finding: Any = None) -> Verdict:
    return Verdict(Action.DEFER, reply=reply, reason=reason, finding=finding)


def rejected(
    reason: str, reply: Reply = REJECT_REPLY, *, category: Category | None = None, finding: Any = None
) -> Verdict:
    return Verdict(Action.REJECT, reply=reply, reason=reason, category=category, finding=finding)


def quarantined(reason: str, *, category: Category | None = None) -> Verdict:
    return Verdict(Action.QUARANTINE, reason=reason, category=category)


def one_by_one(verdicts: Mapping[Address, Verdict], otherwise: Verdict) -> Verdict:
    """`otherwise` for all recipients but those in `verdicts`; the one common verdict when no others are left."""
    different = {recipient: verdict for recipient, verdict in verdicts.items() if verdict != otherwise}
    return replace(otherwise, for_recipients=different)


@dataclass(frozen=True, slots=True)
class Disposition:
    """What becomes of one recipient at one stage; PASS here means: goes on to the next stage or the mailbox."""

    action: Action = Action.PASS
    reply: Reply | None = None
    reason: str = ""
    handler: str = ""
    category: Category | None = None


GOES_ON = Disposition()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the core makes of all verdicts of one stage.

    `dispositions` has one entry for each recipient of the envelope, in its order. `edits` has an entry for each
    recipient that goes on; recipients with the same edits share the same tuple. `messages` is the mail as those
    recipients shall get it (None at before-data).
    """

    dispositions: Mapping[Address, Disposition]
    edits: Mapping[Address, tuple[Edit, ...]] = field(default_factory=dict)
    messages: Mapping[Address, Message | None] = field(default_factory=dict)
    findings: Mapping[str, Any] = field(default_factory=dict)

    def going_on(self) -> tuple[Address, ...]:
        return tuple(recipient for recipient, what in self.dispositions.items() if what.action is Action.PASS)

    def strictest(self) -> Disposition:
        """One answer for all, for a front that can give only one: DEFER over REJECT over what goes on.

        Where nobody goes on and none was refused, QUARANTINE over STOP.
        """
        order = (Action.DEFER, Action.REJECT, Action.PASS, Action.QUARANTINE, Action.STOP)
        ranked = sorted(self.dispositions.values(), key=lambda what: order.index(what.action))
        return ranked[0] if ranked else GOES_ON

    def merged_edits(self) -> tuple[Edit, ...]:
        """Every edit once, in the order asked for, for a front that can make only one copy."""
        seen: dict[int, Edit] = {}
        for edits in self.edits.values():
            for edit in edits:
                seen.setdefault(id(edit), edit)
        return tuple(seen.values())
