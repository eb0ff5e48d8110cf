"""`postroom qmail`: the wrappers before qmail-queue, qmail-local and qmail-remote."""

from __future__ import annotations

from pathlib import Path

import click

from postroom.cli import wrappers
from postroom.cli.compose import Environment
from postroom.cli.output import json_option

_root = click.option(
    "--root", type=click.Path(path_type=Path), default="/var/qmail", show_default=True, help="qmail's directory."
)


@click.group()
def qmail() -> None:
    """Put handlers into qmail, and take them out again.

    \b
    Examples:
      postroom qmail install --dry-run
      postroom qmail install
      postroom qmail status
      postroom qmail uninstall
    """


@qmail.command()
@_root
@wrappers.surroundings_options
@wrappers.dry_run_option
@click.pass_obj
def install(
    environment: Environment,
    root: Path,
    socket: str | None,
    python: str | None,
    temporary: Path | None,
    dry_run: bool,
) -> None:
    """Move qmail's programs to *.moved and put wrappers in their place.

    Safe to do again: what is in place stays, what a crash or an upgrade left is repaired. At no moment is a program
    missing.
    """
    from postroom.mta.qmail import wrappings

    here = wrappers.surroundings(environment, socket, python, temporary)
    wrappers.install(environment, wrappings(root.absolute(), here), here, dry_run)


@qmail.command()
@_root
@wrappers.dry_run_option
@click.pass_obj
def uninstall(environment: Environment, root: Path, dry_run: bool) -> None:
    """Put qmail's own programs back."""
    from postroom.mta.host import Surroundings
    from postroom.mta.qmail import wrappings

    if not (root / "bin").is_dir():
        environment.fail(f"{root / 'bin'} is not there: give qmail's directory with --root")
    wrappers.uninstall(environment, wrappings(root.absolute(), Surroundings("", "")), dry_run)


@qmail.command()
@_root
@wrappers.surroundings_options
@json_option
@click.pass_obj
def status(
    environment: Environment, root: Path, socket: str | None, python: str | None, temporary: Path | None
) -> None:
    """What stands in the place of each program; exit status 1 unless all is well."""
    from postroom.mta.qmail import wrappings

    here = wrappers.surroundings(environment, socket, python, temporary)
    wrappers.status(environment, wrappings(root.absolute(), here), here)
