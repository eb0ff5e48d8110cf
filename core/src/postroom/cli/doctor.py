"""`postroom doctor`: what is wrong on this host, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option
from postroom.hookspecs import Diagnosis, FindingLevel

CONTEXTS = 10000
"""Registrations whose context is checked; a registry of a million is not read to its end."""

COLUMNS = ("level", "what", "found", "remedy")


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Show what is well, too.")
@click.option(
    "--postfix-config",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of main.cf; default: Postfix' own.",
)
@json_option
@click.pass_obj
def doctor(environment: Environment, show_all: bool, postfix_config: Path | None) -> None:
    """Look for what is wrong, and say what to do.

    Looks at the configuration, directories, free space, the quarantine, plugins, registrations, sockets (in their own
    protocols) and whether Postfix may use them, Postfix' settings, time limits, transports, maps and log, DNS, our log,
    and asks every enabled handler about what it needs.

    \b
    Examples:
      postroom doctor
      postroom doctor --all --json

    Exit status 1 when something is wrong; warnings alone give 0.
    """
    findings = list(_findings(environment, postfix_config))
    wrong = [each for each in findings if each.level is not FindingLevel.OK]
    shown = findings if show_all or environment.as_json else wrong
    if shown:
        environment.show(COLUMNS, [(str(each.level), each.subject, each.text, each.remedy) for each in shown])
    if not environment.as_json:
        good = len(findings) - len(wrong)
        click.echo(f"{good} checks are well, {len(wrong)} want a look" if wrong else f"all {good} checks are well")
    if any(each.level is FindingLevel.ERROR for each in wrong):
        click.get_current_context().exit(ExitStatus.NO)


def _findings(environment: Environment, postfix_config: Path | None) -> Iterator[Diagnosis]:
    from postroom import diagnosis
    from postroom.mta.postfix_doctor import diagnose_postfix

    config, handlers = environment.config, environment.handlers()
    yield from diagnosis.check_config(config)
    yield from diagnosis.check_directories(config)
    yield from _contained("file system", lambda: diagnosis.check_room(config))
    yield from _contained("quarantine", lambda: diagnosis.check_quarantine(config))
    yield from diagnosis.check_plugins(handlers, config)
    yield from _contained("registry", lambda: _registry_findings(environment))
    yield from _contained("sockets", lambda: diagnosis.check_sockets(config))
    yield from _contained("postfix", lambda: diagnose_postfix(config, postfix_config))
    yield from _contained("dns", lambda: diagnosis.check_dns(environment.lender().dns, config))
    yield from diagnosis.check_log(config)


def _registry_findings(environment: Environment) -> Iterator[Diagnosis]:
    from postroom import diagnosis

    registry = environment.open_registry()
    yield Diagnosis(FindingLevel.OK, "registry", f"generation {registry.generation()}")
    enabled = registry.enabled()
    yield from diagnosis.check_enabled(enabled, environment.handlers())
    some = (each for each in islice(registry.list(), CONTEXTS) if each.enabled)
    yield from diagnosis.check_contexts(some, environment.handlers())
    yield from diagnosis.check_handlers(environment.handlers(), environment.lender(), enabled)


def _contained(subject: str, check: Callable[[], Iterable[Diagnosis]]) -> Iterator[Diagnosis]:
    """A check that breaks is a finding, and the others go on."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  # whatever is broken, the administrator is told
        text = " ".join(str(error).split()) or type(error).__name__
        yield Diagnosis(FindingLevel.ERROR, subject, text, "put that right, then run postroom doctor again")
