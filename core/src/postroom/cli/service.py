"""`postroom service`: the files for systemd, sysusers.d, tmpfiles.d and logrotate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option

if TYPE_CHECKING:
    from postroom.mta.service_files import ServiceFile

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def service() -> None:
    """Write the files for systemd and logrotate.

    \b
    Examples:
      postroom service show
      postroom service install --dry-run
      postroom service install && systemctl daemon-reload && systemctl enable --now postroom
    """


def _options(command: F) -> F:
    for option in (
        click.option("--activation", is_flag=True, help="Also the unit by which systemd holds the milter's socket."),
        click.option(
            "--dir", "directory", type=click.Path(path_type=Path), default="/", show_default=True,
            help="etc/ is below that directory.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@service.command()
@_options
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
@click.pass_obj
def install(environment: Environment, directory: Path, activation: bool, dry_run: bool) -> None:
    """Write what is missing or differs; exit status 1 when a file of that name is not ours.

    Safe to do again. `systemctl daemon-reload` makes systemd see it.
    """
    from postroom.mta.service_files import Standing, unreachable

    found = [(each, each.standing) for each in _files(environment, directory, activation)]
    if not dry_run:
        for each, standing in found:
            if standing in (Standing.MISSING, Standing.DIFFERENT):
                each.write()
    environment.show(("file", "was"), [(str(each.path), str(standing)) for each, standing in found])
    if why := unreachable():
        click.echo(why, err=True)
    others = [str(each.path) for each, standing in found if standing is Standing.OTHER]
    if others:
        environment.fail(f"{', '.join(others)}: not written by us and left alone: move it away, and do this again")


@service.command()
@_options
@click.pass_obj
def show(environment: Environment, directory: Path, activation: bool) -> None:
    """Print what `install` would write."""
    for each in _files(environment, directory, activation):
        click.echo(f"==> {each.path}\n{each.text}")


def _files(environment: Environment, directory: Path, activation: bool) -> list[ServiceFile]:
    from postroom.mta.service_files import service_files

    config = environment.config
    named = environment.config_path or os.environ.get("POSTROOM_CONFIG")
    if activation and not config.milter.listen:
        environment.fail(f"{config.source}: [milter]: listen is empty: there is no socket to hold", ExitStatus.USAGE)
    return list(service_files(directory.absolute(), config, named, activation=activation))
