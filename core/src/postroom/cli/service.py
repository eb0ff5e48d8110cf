"""`postroom service`: the files for systemd, sysusers.d, tmpfiles.d and logrotate, written, looked at, removed."""

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
    """Write the files for systemd and logrotate, look after them, and take them away.

    \b
    Examples:
      postroom service show
      postroom service install --dry-run
      postroom service install && systemctl daemon-reload && systemctl enable --now postroom
      postroom service status
      systemctl disable --now postroom && postroom service uninstall && systemctl daemon-reload
    """


_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default="/",
    show_default=True,
    help="etc/ is below that directory.",
)


def _options(command: F) -> F:
    for option in (
        click.option("--activation", is_flag=True, help="Also the unit by which systemd holds the milter's socket."),
        _DIRECTORY,
    ):
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
            if standing in (Standing.MISSING, Standing.DIFFERENT, Standing.CHANGED):
                each.write()
    environment.show(("file", "was"), [(str(each.path), str(standing)) for each, standing in found])
    if why := unreachable():
        click.echo(why, err=True)
    others = [str(each.path) for each, standing in found if standing is Standing.OTHER]
    if others:
        environment.fail(f"{', '.join(others)}: not written by us and left alone: move it away, and do this again")


@service.command()
@_DIRECTORY
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
@click.pass_obj
def uninstall(environment: Environment, directory: Path, dry_run: bool) -> None:
    """Remove what `install` wrote and nobody changed since; exit status 1 when a changed file is left.

    Nothing is removed while systemd still starts the server by itself. Safe to do again. Take the server out of the
    mail server first, for example with `postroom postfix uninstall`. Mail, databases and settings stay.
    """
    from postroom.mta.service_files import Standing, drop_ins, enabled_units, written_files

    root = directory.absolute()
    found = [(each, each.standing) for each in written_files(root)]
    enabled = enabled_units(root)
    if enabled and not dry_run:
        environment.fail(f"{', '.join(enabled)}: still enabled: {_disable(root, enabled)}; then do this again")
    gone = "would be removed" if dry_run else "removed"
    rows = []
    for each, standing in found:
        ours = standing in (Standing.CURRENT, Standing.DIFFERENT)
        if ours and not dry_run:
            each.path.unlink(missing_ok=True)
        word = gone if ours else str(standing) if standing is Standing.MISSING else f"left: {standing}"
        rows.append((str(each.path), word))
    environment.show(("file", "done"), [*rows, *((str(each), "left: yours") for each in drop_ins(root))])
    if enabled:
        click.echo(f"first: {_disable(root, enabled)}", err=True)
    if changed := [str(each.path) for each, standing in found if standing is Standing.CHANGED]:
        environment.fail(
            f"{', '.join(changed)}: changed since we wrote it, and left: look at it, and remove it yourself"
        )


def _disable(root: Path, units: list[str]) -> str:
    how = "--now" if root == Path("/") else f"--root={root}"
    return f"systemctl disable {how} {' '.join(units)}"


@service.command()
@_options
@json_option
@click.pass_obj
def status(environment: Environment, directory: Path, activation: bool) -> None:
    """How the files stand, and whether systemd starts the server by itself.

    Exit status 1 when one is missing, was changed, is not ours, or is not what the configuration wants now.
    """
    from postroom.mta.service_files import SOCKET, Standing, drop_ins, enabled_units, written_files

    root = directory.absolute()
    holds = activation or any(
        each.path.name == SOCKET and each.standing is not Standing.MISSING for each in written_files(root)
    )
    found = [(each.path, each.standing) for each in _files(environment, directory, holds)]
    enabled = enabled_units(root)
    rows = [(str(path), str(standing), "enabled" if path.name in enabled else "") for path, standing in found]
    environment.show(("file", "is", "systemd"), [*rows, *((str(each), "yours", "") for each in drop_ins(root))])
    drifted = sum(standing is not Standing.CURRENT for _, standing in found)
    if drifted:
        environment.fail(f"{drifted} of {len(found)} files are not as they should be; see `postroom service install`")


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
