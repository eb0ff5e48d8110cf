"""The three handlers: one shape, three ways to a scanner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from postroom.config import Duration
from postroom.hookspecs import Diagnosis, HandlerInfo, Need, Placement, Services, hookimpl
from postroom.mail import Message
from postroom.registration import Stage, Type
from postroom.verdict import Verdict

from postroom_antivirus.engine import ScanFinding, ScanResult, Status
from postroom_antivirus.settings import AntivirusSettings, ClamavSettings, DrwebSettings, KasperskySettings

if TYPE_CHECKING:
    import click
    from postroom.backends.failover import Failover

TIMEOUT = 60.0  # seconds for a call; a scan of an archive may take most of it
ANSWER_TIME = 0.05  # of the time that is left, the part kept for answering: "no result in time" is ours to say
PLACEMENTS = (  # the reference's places
    Placement(Stage.BEFORE_QUEUE, Type.RECIPIENT, 20),
    Placement(Stage.BEFORE_REMOTE, Type.SENDER, 20),
)


class AntivirusHandler:
    """Between mails it keeps nothing but which servers failed just now."""

    def __init__(self, name: str, product: str, settings: type[AntivirusSettings], *, has_commands: bool) -> None:
        self._name, self._product, self._settings = name, product, settings
        self._has_commands = has_commands
        self._failover: Failover | None = None

    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo(
            summary=f"Has mail scanned for viruses by {self._product}.",
            placements=PLACEMENTS,
            settings=self._settings,
            needs=Need.BODY,
            timeout=Duration(TIMEOUT),
            edits_message=True,
            refuses=True,
            uses_network=True,
        )

    @hookimpl
    def start(self) -> None:
        """Import now what the first mail would have to wait for."""
        import postroom_antivirus.engines
        import postroom_antivirus.policy
        import postroom_antivirus.scan  # noqa: F401  # all for their effect on sys.modules

    @hookimpl
    def before_queue(self, message: Message, settings: AntivirusSettings, services: Services) -> Verdict:
        return self._look_at(message, settings, services)

    @hookimpl
    def before_remote(self, message: Message, settings: AntivirusSettings, services: Services) -> Verdict:
        return self._look_at(message, settings, services)

    @hookimpl
    def commands(self) -> click.Command | None:
        if not self._has_commands:
            return None
        from postroom_antivirus.commands import antivirus

        return antivirus

    @hookimpl
    def diagnose(self, settings: AntivirusSettings, services: Services) -> Iterable[Diagnosis]:
        from postroom_antivirus.diagnosis import diagnose

        return diagnose(self._name, settings, services)

    @hookimpl
    def stop(self) -> None:
        self._failover = None

    def _look_at(self, message: Message, settings: AntivirusSettings, services: Services) -> Verdict:
        from postroom_antivirus.policy import Danger, danger_of, decide

        finding = self._scan(message, settings, services)
        result = finding.result
        if result.status is Status.FOUND and (danger := danger_of(result, settings)[0]) is not Danger.CLEAN:
            event = "mail not looked into" if danger is Danger.UNSCANNABLE else "virus found"
            services.log.warning(event, signatures=list(result.signatures), server=result.server)
        return replace(decide(result, message, settings, self._name), finding=finding)

    def _scan(self, message: Message, settings: AntivirusSettings, services: Services) -> ScanFinding:
        """One scan a mail: what an earlier call found of the same body, by the same servers, holds."""
        from postroom_antivirus.engines import source_of

        if message.size() > settings.max_size:
            detail = f"{message.size()} octets, max_size is {settings.max_size}"
            return ScanFinding(ScanResult(Status.TOO_LARGE, detail=detail))
        source = source_of(settings)
        known = services.finding(self._name, ScanFinding)
        if known is not None and known.body is message.body and known.source == source:
            return known
        return ScanFinding(self._ask(message, settings, services), source, message.body)

    def _ask(self, message: Message, settings: AntivirusSettings, services: Services) -> ScanResult:
        from postroom.backends.deadline import Deadline
        from postroom.backends.failover import Failover

        from postroom_antivirus.scan import scan_with_failover

        if self._failover is None:
            self._failover = Failover("scanner")
        deadline = Deadline(services.deadline() * (1 - ANSWER_TIME))
        return scan_with_failover(message, settings, services, deadline, self._failover)


clamav = AntivirusHandler("clamav", "ClamAV's clamd", ClamavSettings, has_commands=True)
drweb = AntivirusHandler("drweb", "Dr.Web", DrwebSettings, has_commands=False)
kaspersky = AntivirusHandler("kaspersky", "Kaspersky Scan Engine", KasperskySettings, has_commands=False)
