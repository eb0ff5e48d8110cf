"""Spam filtering: a score from SpamAssassin or rspamd, and what the mailbox wants done with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from postroom.config import Duration
from postroom.hookspecs import Diagnosis, HandlerInfo, Need, Placement, Services, hookimpl
from postroom.mail import Envelope, Message
from postroom.registration import OnError, Stage, Type
from postroom.verdict import Verdict, skipped

from postroom_spam.settings import SpamSettings

if TYPE_CHECKING:
    import click
    from postroom.backends.failover import Failover

ANSWER_TIME = 0.05  # of the time that is left, the part kept for answering: "no answer in time" is ours to say

INFO = HandlerInfo(
    summary="Has mail judged by SpamAssassin or rspamd: marks spam, files it as junk, or ends it.",
    placements=(Placement(Stage.BEFORE_LOCAL, Type.RECIPIENT, 10),),  # the reference's place
    settings=SpamSettings,
    needs=Need.BODY,
    on_error=OnError.SKIP,  # a filter that is down keeps nobody's mail waiting, unless the administrator says so
    timeout=Duration(60),
    edits_message=True,
    refuses=True,
    uses_network=True,
)


class SpamHandler:
    """Between mails it keeps nothing but which servers failed just now."""

    def __init__(self) -> None:
        self._failover: Failover | None = None

    @hookimpl
    def describe(self) -> HandlerInfo:
        return INFO

    @hookimpl
    def start(self) -> None:
        """Import now what the first mail would have to wait for."""
        import postroom_spam.scan
        import postroom_spam.spamd  # noqa: F401  # both for their effect on sys.modules

    @hookimpl
    def before_local(self, envelope: Envelope, message: Message, settings: SpamSettings, services: Services) -> Verdict:
        from postroom.backends.deadline import Deadline
        from postroom.backends.failover import Failover

        from postroom_spam.policy import SpamFinding
        from postroom_spam.scan import examine

        if services.finding("spam", SpamFinding) is not None:
            # The plan has the mailbox's own registration before that of its domain, and that before the global one.
            return skipped("judged already, by a registration that comes first")
        if self._failover is None:
            self._failover = Failover("spam filter")
        deadline = Deadline(services.deadline() * (1 - ANSWER_TIME))
        return examine(envelope, message, settings, services, deadline, self._failover)

    @hookimpl
    def commands(self) -> click.Command:
        from postroom_spam.commands import spam  # click only where there is a command line

        return spam

    @hookimpl
    def diagnose(self, settings: SpamSettings, services: Services) -> Iterable[Diagnosis]:
        from postroom_spam.diagnosis import diagnose

        return diagnose(settings, services)

    @hookimpl
    def stop(self) -> None:
        self._failover = None


handler = SpamHandler()
