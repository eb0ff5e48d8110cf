"""The autoresponder: answers mail for a mailbox while its owner is away, and never a program."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postroom.config import Duration
from postroom.hookspecs import Diagnosis, HandlerInfo, Need, Placement, Services, StateStore, hookimpl
from postroom.mail import Envelope, Message
from postroom.registration import OnError, Stage, Type
from postroom.verdict import Verdict, passed

from postroom_autoresponder.autoresponder import Autoresponder, Done
from postroom_autoresponder.backends import open_store
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.settings import AutoresponderSettings

if TYPE_CHECKING:
    import click

SILENT = "Exiting. No need to respond."  # the reference's words

INFO = HandlerInfo(
    summary="Automatic replies while a mailbox's owner is away.",
    placements=(Placement(Stage.BEFORE_LOCAL, Type.RECIPIENT, 90),),  # the reference's place
    settings=AutoresponderSettings,
    # For conditions and copies. It costs nothing: at before-local the whole mail is there in any case.
    needs=Need.BODY,
    on_error=OnError.SKIP,
    timeout=Duration(30),
    uses_network=True,
)


@dataclass(frozen=True, slots=True)
class AutoresponderFinding:
    """What came of the mail; `silence` None: a reply was sent."""

    silence: Silence | None
    forwarded: bool


class AutoresponderHandler:
    """Between mails it keeps nothing but the way to its store, and responders as they were last seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: StateStore | None = None
        self._autoresponder: Autoresponder | None = None

    @hookimpl
    def describe(self) -> HandlerInfo:
        return INFO

    @hookimpl
    def before_local(
        self, envelope: Envelope, message: Message, settings: AutoresponderSettings, services: Services
    ) -> Verdict:
        """PASS whatever it does: the mail is delivered."""
        done = self._open(services).handle(envelope, message, settings, services)
        if done is None:
            services.log.info(SILENT, reason="no responder")
            return passed(reason="no responder is set; see postroom autoresponder set")
        return verdict_of(done, services)

    @hookimpl
    def commands(self) -> click.Command:
        from postroom_autoresponder.commands import autoresponder  # click only where there is a command line

        return autoresponder

    @hookimpl
    def diagnose(self, settings: AutoresponderSettings, services: Services) -> Iterable[Diagnosis]:
        from postroom_autoresponder.diagnosis import diagnose

        return diagnose(settings, services)

    @hookimpl
    def stop(self) -> None:
        with self._lock:
            self._state = self._autoresponder = None

    def _open(self, services: Services) -> Autoresponder:
        with self._lock:
            if self._autoresponder is None or self._state is not services.state:
                self._autoresponder, self._state = Autoresponder(open_store(services.state)), services.state
            return self._autoresponder


def verdict_of(done: Done, services: Services) -> Verdict:
    if done.problem:
        services.log.warning("autoresponder failed", problem=done.problem)
    if done.silence is not None:
        services.log.info(SILENT, reason=str(done.silence))
    reason = "replied" if done.silence is None else f"silent: {done.silence}"
    reason += "; forwarded" if done.forwarded else ""
    reason += f" ({done.problem})" if done.problem else ""
    return passed(reason=reason, finding=AutoresponderFinding(done.silence, done.forwarded))


handler = AutoresponderHandler()
