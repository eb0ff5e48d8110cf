"""`postroom antivirus …`: the scanners of all three handlers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from postroom.backends.deadline import Deadline
from postroom.backends.octets import PIECE, Octets
from postroom.hookspecs import CommandEnvironment
from postroom.mail import BodyCollector, parse_message
from postroom.registration import Stage

from postroom_antivirus.diagnosis import ask
from postroom_antivirus.eicar import eicar, mail_with
from postroom_antivirus.engine import ScanResult, Status
from postroom_antivirus.engines import engines_of, protocol_of
from postroom_antivirus.policy import Danger, danger_of
from postroom_antivirus.scan import scan
from postroom_antivirus.settings import HANDLERS, AntivirusSettings

F = TypeVar("F", bound=Callable[..., Any])

TEMPORARY_FAILURE = 75  # EX_TEMPFAIL


def _options(command: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.as_json = True

    command = click.option("--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON.")(command)
    return click.option(
        "--handler", "names", multiple=True, type=click.Choice(HANDLERS), help="Only these; may be repeated."
    )(command)


@click.group("antivirus")
def antivirus() -> None:
    """Virus scanners: are they there, and do they find what they shall?

    \b
    Examples:
      postroom antivirus status
      postroom antivirus scan suspicious.eml
    """


@antivirus.command()
@_options
@click.pass_obj
def status(environment: CommandEnvironment, names: tuple[str, ...]) -> None:
    """Show each scanner in use, and for whom it is registered. Exit status 1 when one does not answer.

    In use is what has a registration or a table in the configuration; --handler shows others, too.
    """
    rows = list(_servers(environment, _chosen(environment, names)))
    environment.show(("handler", "server", "protocol", "state", "version", "signatures", "incoming", "outgoing"), rows)
    if failing := [row[1] for row in rows if row[3] != "well"]:
        environment.fail(f"not well: {', '.join(failing)}")


def _servers(environment: CommandEnvironment, names: list[str]) -> Iterator[tuple[Any, ...]]:
    for name in names:
        settings: AntivirusSettings = environment.settings(name)
        services = environment.services(name)
        enabled = [each for each in environment.registrations(name) if each.enabled]
        outgoing = sum(each.stage is Stage.BEFORE_REMOTE for each in enabled)
        for engine in engines_of(settings):
            health = ask(engine, settings, services.deadline())
            place = (name, str(engine.address), str(protocol_of(settings)))
            counts = (len(enabled) - outgoing, outgoing)
            if isinstance(health, str):
                yield (*place, health, "", "", *counts)
                continue
            built = health.signatures_from
            when = time.strftime("%Y-%m-%d", time.localtime(built)) if built else ""
            yield (*place, "; ".join(health.problems) or "well", health.version, when, *counts)


@antivirus.command("scan")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@_options
@click.pass_obj
def scan_(environment: CommandEnvironment, file: Path, names: tuple[str, ...]) -> None:
    """Have FILE (- for standard input) scanned, as it is, by the first server of each scanner that answers.

    Exit status 0: clean; 1: something was found, or it is too large; 75: no scanner gave a result.

    \b
    Example:
      postroom antivirus scan mail.eml
    """
    octets: Octets = _File(file) if str(file) != "-" else _Held(sys.stdin.buffer)
    rows: list[tuple[Any, ...]] = []
    statuses: list[Status] = []
    for name in _chosen(environment, names):
        settings: AntivirusSettings = environment.settings(name)
        result = _scan(environment, name, settings, octets)
        statuses.append(result.status)
        danger = ""
        if result.status not in (Status.ERROR, Status.TIMEOUT):
            danger = str(danger_of(result, settings)[0])
        rows.append((name, result.server, str(result.status), list(result.signatures), danger, result.detail))
    environment.show(("handler", "server", "result", "signatures", "taken for", "detail"), rows)
    if Status.FOUND in statuses or Status.TOO_LARGE in statuses:
        raise click.exceptions.Exit(1)
    if set(statuses) != {Status.CLEAN}:
        environment.fail("no result: is the scanner running? See 'postroom antivirus status'", TEMPORARY_FAILURE)


def _scan(environment: CommandEnvironment, name: str, settings: AntivirusSettings, octets: Octets) -> ScanResult:
    if octets.size() > settings.max_size:
        return ScanResult(Status.TOO_LARGE, detail=f"{octets.size()} octets, max_size is {settings.max_size}")
    result = ScanResult(Status.ERROR)
    for engine in engines_of(settings):
        result = scan(engine, octets, Deadline(environment.services(name).deadline()))
        if result.status not in (Status.ERROR, Status.TIMEOUT):
            break
    return result


@antivirus.command()
@_options
@click.pass_obj
def test(environment: CommandEnvironment, names: tuple[str, ...]) -> None:
    """Send the EICAR test file, in a mail, and a clean mail to every server: each has to find the one only.

    Nothing is written to disk, no mail is sent. Exit status 1 when a server fails.
    """
    rows: list[tuple[Any, ...]] = []
    for name in _chosen(environment, names):
        settings: AntivirusSettings = environment.settings(name)
        for engine in engines_of(settings):
            seconds = environment.services(name).deadline()
            infected = scan(engine, parse_message(mail_with(eicar())), Deadline(seconds))
            clean = scan(engine, parse_message(mail_with(b"nothing bad")), Deadline(seconds))
            well = _found_by_policy(infected, settings) and clean.status is Status.CLEAN
            detail = "; ".join(dict.fromkeys(each.detail for each in (infected, clean) if each.detail))
            found = ", ".join(infected.signatures) or str(infected.status)
            rows.append((name, str(engine.address), "well" if well else "FAILS", found, str(clean.status), detail))
    environment.show(("handler", "server", "state", "EICAR", "clean mail", "detail"), rows)
    if failing := [row[1] for row in rows if row[2] != "well"]:
        environment.fail(f"mail is not protected by {', '.join(failing)}")


def _found_by_policy(result: ScanResult, settings: AntivirusSettings) -> bool:
    return result.status is Status.FOUND and danger_of(result, settings)[0] is Danger.INFECTED


def _chosen(environment: CommandEnvironment, names: tuple[str, ...]) -> list[str]:
    """Those that were asked for, else those in use; ends the command when there are none."""
    chosen = list(names) or [
        name for name in HANDLERS if name in environment.config.handlers or environment.registrations(name)
    ]
    if not chosen:
        environment.fail(
            f"no scanner is in use: register one (postroom handlers add clamav …), or name one: --handler {HANDLERS[0]}"
        )
    return chosen


class _File:
    """A file as a stream; never all of it in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> int:
        return self._path.stat().st_size

    def chunks(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(PIECE):
                yield chunk


class _Held:
    """Standard input, so that a second scanner can read it too: in memory when small, else in an unnamed file."""

    def __init__(self, source: IO[bytes]) -> None:
        collector = BodyCollector()
        while chunk := source.read(PIECE):
            collector.append(chunk)
        self._body = collector.finish()

    def size(self) -> int:
        return self._body.size

    def chunks(self) -> Iterator[bytes]:
        return self._body.chunks()
