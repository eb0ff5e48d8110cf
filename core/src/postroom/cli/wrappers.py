"""What the commands of qmail and msmtp have in common: install, uninstall and status of wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus

if TYPE_CHECKING:
    from postroom.hookspecs import Diagnosis
    from postroom.mta.host import Surroundings
    from postroom.mta.wrapping import Wrapping

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = ("program", "state", "original")


def surroundings_options(command: F) -> F:
    """What goes into a wrapper; each has a default that is right on most hosts."""
    place = click.Path(path_type=Path)
    for option in (
        click.option("--temporary", type=place, help="Where mail is kept while it is handled; default: /var/tmp."),
        click.option("--python", metavar="PATH", help="Interpreter for the wrappers; default: /usr/bin/python3."),
        click.option("--socket", metavar="PATH", help="The server's socket; default: `[handover] listen`."),
    ):
        command = option(command)
    return command


dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


def surroundings(
    environment: Environment, socket: str | None, python: str | None, temporary: Path | None
) -> Surroundings:
    from postroom.mta.host import TEMPORARY, Surroundings, default_interpreter, handover_socket

    found = socket or handover_socket(environment.config)
    if not found:
        environment.fail(
            f"{environment.config.source}: [handover]: listen is empty: write"
            ' listen = ["unix:/run/postroom/handover.sock"] and start the server, or use --socket',
            ExitStatus.USAGE,
        )
    for path in (found, python or "/", str(temporary or "/")):
        if not Path(path).is_absolute():
            environment.fail(f"{path}: a wrapper needs an absolute path", ExitStatus.USAGE)
    return Surroundings(found, python or default_interpreter(), temporary or TEMPORARY)


def install(environment: Environment, found: Sequence[Wrapping], here: Surroundings, dry_run: bool) -> None:
    from postroom.mta.host import check_surroundings
    from postroom.mta.wrapping import WrappingFailed, run_steps

    try:
        steps = [step for wrapping in found for step in wrapping.install()]  # all are looked at before one is changed
        done = run_steps(steps, click.echo, dry_run=dry_run)
    except WrappingFailed as error:
        environment.fail(str(error))
    if not done:
        click.echo("everything is in place")
    warn(check_surroundings(here))


def uninstall(environment: Environment, found: Sequence[Wrapping], dry_run: bool) -> None:
    from postroom.mta.wrapping import WrappingFailed, run_steps

    try:
        done = run_steps([step for wrapping in found for step in wrapping.uninstall()], click.echo, dry_run=dry_run)
    except WrappingFailed as error:
        environment.fail(str(error))
    if not done:
        click.echo("nothing is in place")


def status(environment: Environment, found: Sequence[Wrapping], here: Surroundings) -> None:
    """Exit status 1 unless every wrapper is in place and can be used."""
    from postroom.mta.host import check_surroundings
    from postroom.mta.wrapping import WrappingFailed

    try:
        rows = [(str(each.program), each.state(), str(each.moved)) for each in found]
    except WrappingFailed as error:
        environment.fail(str(error))
    environment.show(COLUMNS, [(program, str(state), moved) for program, state, moved in rows])
    problems = list(check_surroundings(here))
    warn(problems)
    if problems or not all(state.is_well for _, state, _ in rows):
        click.get_current_context().exit(ExitStatus.NO)


def warn(problems: Iterable[Diagnosis]) -> None:
    for each in problems:
        click.echo(f"{each.subject}: {each.text}; {each.remedy}", err=True)
