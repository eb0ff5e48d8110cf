"""Greylisting: a sender that is not known yet is asked to come back, as real mail servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postroom.config import Duration
from postroom.hookspecs import Diagnosis, HandlerInfo, Placement, SenderPolicy, Services, StateStore, hookimpl
from postroom.mail import Envelope, TrafficClass
from postroom.registration import Stage, Type
from postroom.verdict import Reply, Verdict, deferred, rejected, skipped

from postroom_grey.backends import open_store
from postroom_grey.decision import Result
from postroom_grey.greylist import Decision, Greylist
from postroom_grey.policy import Fate
from postroom_grey.settings import GreySettings

if TYPE_CHECKING:
    import click

INFO = HandlerInfo(
    summary="Greylisting: senders that are not known yet are asked to come back.",
    placements=(Placement(Stage.BEFORE_DATA, Type.GLOBAL, 5),),  # the reference's place
    settings=GreySettings,
    exempt=frozenset({TrafficClass.AUTHENTICATED, TrafficClass.LOCAL}),
    timeout=Duration(10),
    refuses=True,
    uses_network=True,
)


@dataclass(frozen=True, slots=True)
class GreyFinding:
    """What greylisting found for each recipient, for later handlers and the log."""

    decisions: tuple[Decision, ...]


class GreyHandler:
    """Between mails it keeps nothing but the way to its store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: StateStore | None = None
        self._greylist: Greylist | None = None

    @hookimpl
    def describe(self) -> HandlerInfo:
        return INFO

    @hookimpl
    def before_data(self, envelope: Envelope, settings: GreySettings, services: Services) -> Verdict:
        if envelope.session.submitted_locally:
            return skipped("submitted on this host: nobody would try again")
        delimiter = services.config.host.recipient_delimiter
        policy = services.finding("spf", SenderPolicy)  # type: ignore[type-abstract]  # asked by what it offers
        vouching = policy.domain if policy is not None and policy.result == "pass" else ""
        decisions = self._open(services).decide(envelope, settings, services.clock.now(), delimiter, vouching)
        return verdict_of(decisions, services.clock.now())

    @hookimpl
    def commands(self) -> click.Command:
        from postroom_grey.commands import grey  # click only where there is a command line

        return grey

    @hookimpl
    def diagnose(self, settings: GreySettings, services: Services) -> Iterable[Diagnosis]:
        from postroom_grey.diagnosis import diagnose

        return diagnose(settings, services)

    @hookimpl
    def stop(self) -> None:
        with self._lock:
            self._state = self._greylist = None

    def _open(self, services: Services) -> Greylist:
        with self._lock:
            if self._greylist is None or self._state is not services.state:
                self._greylist, self._state = Greylist(open_store(services.state)), services.state
            return self._greylist


def verdict_of(decisions: tuple[Decision, ...], now: float) -> Verdict:
    """One answer for all recipients of the call: wait if one has to, else refuse if one does, else go on."""
    finding = GreyFinding(decisions)
    if waiting := [decision for decision in decisions if decision.waits]:
        # The longest wait is the one that counts: before it is over the mail would be asked to wait again.
        longest = max(waiting, key=lambda decision: decision.attempted.due if decision.attempted else 0)
        reply = Reply(longest.ruling.settings.reply)
        return deferred(describe(longest, now), reply, finding=finding)
    if denied := next((decision for decision in decisions if decision.denied), None):
        return rejected(describe(denied, now), finding=finding)
    return skipped("; ".join(dict.fromkeys(describe(decision, now) for decision in decisions[:10])), finding=finding)


def describe(decision: Decision, now: float) -> str:
    """A decision in words for the log."""
    match decision.ruling.fate:
        case Fate.OFF:
            return "greylisting is off here"
        case Fate.ALLOWED:
            return f"allowed by {decision.ruling.by}"
        case Fate.DENIED:
            return f"denied by {decision.ruling.by}"
        case Fate.GREY:
            pass
    attempted = decision.attempted
    if attempted is None:
        return "not asked"
    left = Duration(max(0, round(attempted.due / 1000 - now)))
    match attempted.result:
        case Result.FIRST:
            return f"first attempt, wait {left}"
        case Result.EARLY:
            return f"came back too early, wait another {left}"
        case Result.WAITED:
            return f"came back after {Duration(round(now - attempted.first / 1000))}"
        case Result.KNOWN:
            return "known"
        case Result.NETWORK:
            return "the client's network is known"


handler = GreyHandler()
