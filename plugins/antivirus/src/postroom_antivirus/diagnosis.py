"""For `postroom doctor`: does each server answer, is it of age, and does it take what we send?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from postroom.backends.barrier import barrier_for
from postroom.backends.deadline import Deadline
from postroom.backends.octets import FixedOctets
from postroom.backends.trouble import BackendTrouble
from postroom.config import Duration
from postroom.hookspecs import Diagnosis, FindingLevel, Services
from postroom.registration import OnError

from postroom_antivirus.blind_spots import BlindSpot, probe
from postroom_antivirus.engine import Engine, Health, Status
from postroom_antivirus.engines import engines_of
from postroom_antivirus.scan import scan
from postroom_antivirus.settings import AntivirusSettings, ClamavSettings, Consequence, DrwebSettings

PATIENCE = 5.0
"""Seconds for one answer: a scanner that is well answers in milliseconds."""
BEHIND = 86400.0
"""Seconds by which one server's signatures may be older than another's: ClamAV's come once a day."""

_LET_IN = "let the user who runs postroom serve use its socket: clamd's LocalSocketGroup and LocalSocketMode"
_IN_CLAMD_CONF = {  # clamd.conf(5)
    BlindSpot.LIMITS: 'set "AlertExceedsMax yes" in its clamd.conf',
    BlindSpot.ENCRYPTED: 'set "AlertEncrypted yes" in its clamd.conf',
}
_ELSEWHERE = {BlindSpot.ENCRYPTED: "have it tell what it could not look into: its manual, and our page antivirus"}


def ask(engine: Engine, settings: AntivirusSettings, seconds: float) -> Health | str:
    """What a server says of itself, or why it says nothing."""
    try:
        return engine.health(Deadline(min(PATIENCE, seconds)), settings.max_size)
    except BackendTrouble as trouble:
        return str(trouble)


def diagnose(name: str, settings: AntivirusSettings, services: Services) -> Iterator[Diagnosis]:
    engines = engines_of(settings)
    well: dict[str, Health] = {}
    for engine in engines:
        health = ask(engine, settings, services.deadline() / len(engines))
        subject = f"{name} {engine.address}"
        if isinstance(health, str):
            level = FindingLevel.ERROR if len(engines) == 1 else FindingLevel.WARNING
            remedy = _LET_IN if "Permission denied" in health else f"start it, or change servers in [handlers.{name}]"
            yield Diagnosis(level, subject, health, remedy)
            continue
        well[subject] = health
        yield from _well(subject, health, settings, services.clock.now())
        yield from _barrier(engine, subject, services)
        yield from _blind_spots(engine, subject, health, settings, services.deadline() / len(engines))
    yield from _behind(well)
    if not well and len(engines) > 1:
        text = "none of the servers works: mail gets what on_error says"
        yield Diagnosis(FindingLevel.ERROR, name, text, f"start one, or change servers in [handlers.{name}]")
    yield from _odds(name, settings, services)


def _well(subject: str, health: Health, settings: AntivirusSettings, now: float) -> Iterator[Diagnosis]:
    yield Diagnosis(FindingLevel.OK, subject, "; ".join((health.version, *health.facts)))
    for problem in health.problems:
        yield Diagnosis(FindingLevel.WARNING, subject, problem, "a longer mail counts as too_large, unscanned")
    if isinstance(settings, ClamavSettings | DrwebSettings) and health.signatures_from is not None:
        age = now - health.signatures_from
        if age > settings.max_age:
            text = f"its signatures are {Duration(int(age) // 3600 * 3600)} old"
            yield Diagnosis(FindingLevel.WARNING, subject, text, "let them be updated (freshclam)")


def _barrier(engine: Engine, subject: str, services: Services) -> Iterator[Diagnosis]:
    server = services.config.server
    if barred := barrier_for(engine.address, server.user, server.group):
        text = f"{server.user}, who runs the server, may not use it: {barred} keeps it out"
        yield Diagnosis(FindingLevel.ERROR, subject, text, _LET_IN)


def _behind(servers: Mapping[str, Health]) -> Iterator[Diagnosis]:
    """Which of them a virus of these days passes, when it is the one that is asked."""
    ages = {subject: health.signatures_from for subject, health in servers.items() if health.signatures_from}
    for subject, built in ages.items():
        behind = max(ages.values()) - built
        if behind > BEHIND:
            text = f"its signatures are {Duration(int(behind) // 3600 * 3600)} older than those of another server"
            yield Diagnosis(FindingLevel.WARNING, subject, text, "let them be updated (freshclam)")


def _blind_spots(
    engine: Engine, subject: str, health: Health, settings: AntivirusSettings, seconds: float
) -> Iterator[Diagnosis]:
    """What it calls clean without having looked into it: asked by mails, since its configuration may be elsewhere."""
    if settings.unscannable is Consequence.PASS:
        return
    remedies = _IN_CLAMD_CONF if health.version.startswith("ClamAV") else _ELSEWHERE
    for spot, remedy in remedies.items():
        result = scan(engine, FixedOctets(probe(spot)), Deadline(min(PATIENCE, seconds)))
        if result.status in (Status.ERROR, Status.TIMEOUT):
            text = f"it is there, but does not scan: {result.detail}"
            yield Diagnosis(FindingLevel.ERROR, subject, text, "see its log; postroom antivirus test tries again")
            return
        if result.status is Status.CLEAN:
            yield Diagnosis(FindingLevel.WARNING, subject, f"it calls clean what it did not look into: {spot}", remedy)


def _odds(name: str, settings: AntivirusSettings, services: Services) -> Iterator[Diagnosis]:
    """Settings that are right one by one and wrong together."""
    if services.config.handlers.get(name, {}).get("on_error") == OnError.SKIP:
        text = "on_error = skip: mail passes unscanned while no scanner answers"
        yield Diagnosis(FindingLevel.WARNING, name, text, f'set on_error = "defer" in [handlers.{name}]')
    if settings.max_size > services.config.milter.max_message:
        text = f"max_size ({settings.max_size}) is more than [milter] max_message lets in"
        yield Diagnosis(FindingLevel.OK, name, text)
