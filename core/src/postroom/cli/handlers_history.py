"""The part of `postroom handlers` that is about the whole registry: history, the way back, export and apply."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from postroom.cli.compose import Environment
from postroom.cli.output import json_option
from postroom.cli.registering import check_against
from postroom.cli.who import who
from postroom.config import LEAST_HISTORY, ConfigError, Duration, parse_duration
from postroom.registration import InvalidRegistration, Registration
from postroom.registry import Difference, Pruning, differences, transfer

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the difference and change nothing.")


@click.command()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The last so many changes.")
@json_option
@click.pass_obj
def history(environment: Environment, limit: int) -> None:
    """The changes, the last one first: when, who, what."""
    made = environment.open_registry().history(limit)
    rows = ((each.number, _time(each.at), each.who, each.what) for each in made)
    environment.show(("generation", "when", "who", "what"), rows)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


@click.command()
@click.argument("from_", metavar="GENERATION", type=click.IntRange(0))
@click.argument("to", metavar="[GENERATION]", type=click.IntRange(0), required=False)
@json_option
@click.pass_obj
def diff(environment: Environment, from_: int, to: int | None) -> None:
    """What is different at the second generation (default: now) from the first."""
    found = environment.open_registry().diff(from_, to)
    if environment.as_json:
        environment.show(("change", "registration", "before", "after"), map(_json_row, found))
    else:
        _print(found)


def _json_row(found: Difference) -> tuple[Any, ...]:
    word = "added" if found.before is None else "removed" if found.after is None else "changed"
    before, after = (None if each is None else _table(each) for each in (found.before, found.after))
    return (word, str(found.registration), before, after)


def _table(found: Registration) -> dict[str, Any]:
    names = ("handler", "stage", "type", "address", "priority", "enabled", "context", "mode", "on_error", "executable")
    return {name: getattr(found, name) for name in names}


def _print(found: Sequence[Difference]) -> None:
    for difference in found:
        click.echo(str(difference))
    if not found:
        click.echo("no difference")


@click.command()
@click.argument("generation", type=click.IntRange(0))
@_DRY_RUN
@click.pass_obj
def rollback(environment: Environment, generation: int, dry_run: bool) -> None:
    """Make everything as it was at a generation; that is a new change, which can be rolled back, too."""
    registry = environment.open_registry()
    if dry_run:
        _print(registry.diff(registry.generation(), generation))
        return
    found = registry.rollback(generation, who=who())
    _print(found)
    if found:
        click.echo(f"rolled back to generation {generation}; this is generation {registry.generation()}")


@click.command()
@click.option(
    "--older-than", metavar="AGE", help='Forget what ended longer ago, at least "1d". Default: [registry] history.'
)
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten, forget nothing.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.pass_obj
def prune(environment: Environment, older_than: str | None, dry_run: bool, yes: bool) -> None:
    """Forget the oldest changes for good; what is registered stays as it is.

    The server does the same by itself, by [registry] history. `diff` and `rollback` reach back to the oldest
    generation that stays. Says how much it is first, and asks unless --yes.

    \b
    Examples:
      postroom handlers prune --dry-run
      postroom handlers prune --older-than 90d --yes
    """
    age, registry = _age(environment, older_than), environment.open_registry()
    found = registry.prunable(age)
    if not found:
        click.echo(f"prune: nothing ended more than {age} ago")
        return
    click.echo(f"prune: {_amount(found)}; generation {found.oldest} will be the oldest, {registry.generation()} is now")
    if dry_run:
        return
    if not yes and not sys.stdin.isatty():
        environment.fail("nothing is done: add --yes to forget them")
    if not yes and not click.confirm("forget them?", err=True):
        environment.fail("nothing is done")
    click.echo(f"pruned: {_amount(registry.prune(age))}")


def _amount(found: Pruning) -> str:
    return f"{found.generations} change(s), {found.registrations} former registration(s)"


def _age(environment: Environment, older_than: str | None) -> Duration:
    if older_than is None:
        history = environment.config.registry.history
        if not history:
            raise click.UsageError("[registry] history is 0, for ever: say --older-than AGE")
        return history
    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from None
    if age < LEAST_HISTORY:
        raise click.UsageError(f"--older-than: at least {LEAST_HISTORY}: mails under way may still ask for what was")
    return age


@click.command()
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
@click.pass_obj
def export(environment: Environment, output: Path | None) -> None:
    """Print the whole registry as TOML, for version control and for `apply`."""
    text = transfer.write(environment.open_registry().list())
    if output is None:
        for part in text:
            click.echo(part, nl=False)
        return
    with output.open("w", encoding="utf-8") as file:
        file.writelines(text)


@click.command("apply")
@click.argument("file", type=click.Path(allow_dash=True))
@_DRY_RUN
@click.pass_obj
def apply_file(environment: Environment, file: str, dry_run: bool) -> None:
    """Make the registry hold exactly what FILE says ("-": standard input): all of it, or nothing."""
    text, source = _read(file)
    wanted = transfer.read(text, source)
    places = transfer.Places(text, source, len(wanted))
    numbers = {each.key: number for number, each in enumerate(wanted)}
    registry = environment.open_registry()
    found = differences(registry.list(), wanted)
    for difference in found:  # what is as it was has been looked at before, and its plugin may be gone for a while
        if difference.after is not None:
            try:
                check_against(difference.after, environment.handlers())
            except (ConfigError, InvalidRegistration) as error:
                place = places.of(numbers[difference.after.key], difference.after.handler)
                raise ConfigError(f"{place}: {error}") from None
    _print(found)
    if found and not dry_run:
        registry.apply(wanted, who=who(), what=f"apply {source}: {len(found)} different")
        click.echo(f"applied: {len(wanted)} registrations, generation {registry.generation()}")


def _read(file: str) -> tuple[str, str]:
    source = "standard input" if file == "-" else file
    try:
        octets = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return octets.decode(), source
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not UTF-8; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None


COMMANDS: tuple[click.Command, ...] = (history, diff, rollback, prune, export, apply_file)
