"""`postroom msmtp`: the wrapper that stands where local programs look for sendmail(1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from postroom.cli import wrappers
from postroom.cli.compose import Environment
from postroom.cli.output import json_option

F = TypeVar("F", bound=Callable[..., Any])


def _places(command: F) -> F:
    place = click.Path(path_type=Path)
    for option in (
        click.option("--msmtp", type=place, default="/usr/bin/msmtp", show_default=True, help="msmtp itself."),
        click.option(
            "--path", type=place, default="/usr/sbin/sendmail", show_default=True, help="Where the wrapper stands."
        ),
    ):
        command = option(command)
    return command


@click.group()
def msmtp() -> None:
    """Put handlers before msmtp on a host that only sends, and take them out again.

    \b
    Examples:
      postroom msmtp install
      postroom msmtp install --path /usr/local/sbin/sendmail
      postroom msmtp status
      postroom msmtp uninstall
    """


@msmtp.command()
@_places
@wrappers.surroundings_options
@wrappers.dry_run_option
@click.pass_obj
def install(
    environment: Environment,
    path: Path,
    msmtp: Path,
    socket: str | None,
    python: str | None,
    temporary: Path | None,
    dry_run: bool,
) -> None:
    """Put a sendmail there that runs the handlers and hands over to msmtp.

    What stood there is kept beside it as *.moved.
    """
    from postroom.mta.msmtp import wrapping

    here = wrappers.surroundings(environment, socket, python, temporary)
    if not msmtp.exists():
        environment.fail(f"{msmtp} is not there: install msmtp, or use --msmtp")
    wrappers.install(environment, [wrapping(path.absolute(), msmtp.absolute(), here)], here, dry_run)


@msmtp.command()
@_places
@wrappers.dry_run_option
@click.pass_obj
def uninstall(environment: Environment, path: Path, msmtp: Path, dry_run: bool) -> None:
    """Put back what stood there."""
    from postroom.mta.host import Surroundings
    from postroom.mta.msmtp import wrapping

    found = wrapping(path.absolute(), msmtp.absolute(), Surroundings("", ""))
    wrappers.uninstall(environment, [found], dry_run)


@msmtp.command()
@_places
@wrappers.surroundings_options
@json_option
@click.pass_obj
def status(
    environment: Environment,
    path: Path,
    msmtp: Path,
    socket: str | None,
    python: str | None,
    temporary: Path | None,
) -> None:
    """What stands there; exit status 1 unless all is well."""
    from postroom.mta.msmtp import wrapping

    here = wrappers.surroundings(environment, socket, python, temporary)
    wrappers.status(environment, [wrapping(path.absolute(), msmtp.absolute(), here)], here)
