"""One mail's way through the scanners: a result, whatever happens to them."""

from __future__ import annotations

from postroom.backends.deadline import Deadline
from postroom.backends.failover import Failover, NoAnswer
from postroom.backends.octets import Octets
from postroom.backends.trouble import BackendDeclined, BackendLate, BackendTrouble
from postroom.hookspecs import Services

from postroom_antivirus.engine import Engine, ScanResult, Status
from postroom_antivirus.engines import engines_of
from postroom_antivirus.settings import AntivirusSettings


def scan(engine: Engine, mail: Octets, deadline: Deadline) -> ScanResult:
    """One server's result."""
    try:
        return engine.scan(mail, deadline)
    except BackendTrouble as trouble:
        status = Status.TIMEOUT if isinstance(trouble, BackendLate) else Status.ERROR
        return ScanResult(status, detail=str(trouble), server=str(engine.address))


def scan_with_failover(
    mail: Octets, settings: AntivirusSettings, services: Services, deadline: Deadline, failover: Failover
) -> ScanResult:
    """The first server's result that is one; else an error or a time-out, with all that went wrong in its detail."""

    def question(engine: Engine, share: Deadline) -> ScanResult:
        result = engine.scan(mail, share)
        if result.status is Status.ERROR:
            raise BackendDeclined(result.detail)
        return result

    try:
        return failover.ask(
            engines_of(settings),
            question,
            deadline,
            services,
            pause=float(settings.retry_after),
            attempt=float(settings.attempt_timeout),
        )
    except NoAnswer as error:
        status = Status.TIMEOUT if error.late else Status.ERROR
        return ScanResult(status, detail=str(error), declined=error.of_this_mail)
