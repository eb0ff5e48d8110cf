"""`postroom postfix`: put postroom into Postfix, see what became of that, take it out again."""

from __future__ import annotations

import pwd
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option, show_json
from postroom.mta.postfix_options import Local, Options, read_position

if TYPE_CHECKING:
    from postroom.mta.postfix import Change
    from postroom.mta.postfix_hints import Hint
    from postroom.mta.postfix_lists import Position
    from postroom.mta.postfix_tool import Postfix

F = TypeVar("F", bound=Callable[..., Any])

_STATUS = ("file", "setting", "standing", "now", "wanted")


def instance_option(command: F) -> F:
    """`--postfix-config`: which instance of Postfix."""
    option = click.option(
        "--postfix-config",
        "directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="Directory of main.cf; default: Postfix' own.",
    )
    return option(command)


def _changing(command: F) -> F:
    for option in (
        click.option("--reload", is_flag=True, help="Let Postfix read its files again afterwards."),
        click.option("--dry-run", is_flag=True, help="Show the difference, change nothing."),
    ):
        command = option(command)
    return instance_option(json_option(command))


def _read_position(_: click.Context, __: click.Parameter, value: str | None) -> Position | None:
    try:
        return None if value is None else read_position(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither first, last, nor a number from 1") from None


@click.group()
def postfix() -> None:
    """Put postroom into Postfix, and take it out again.

    \b
    Examples:
      postroom postfix install --dry-run
      postroom postfix install --position last --reload
      postroom postfix status
      postroom postfix uninstall --reload
    """


@postfix.command()
@click.option(
    "--position",
    callback=_read_position,
    metavar="first|last|N",
    help="Where among other milters. Default: first, or where it is.",
)
@click.option(
    "--local",
    type=click.Choice([str(each) for each in Local]),
    help="How mail for own mailboxes is handed over: lmtp (default), pipe (a program a mail), none (not at all).",
)
@click.option("--recipient-limit", type=click.IntRange(1, 1000), help="Recipients in one LMTP delivery; default 1.")
@click.option("--user", help="Whom pipe(8) runs postroom-deliver as; default [server] user, else postroom.")
@click.option("--mailman", metavar="PROGRAM", help="Add a transport `mailman` that runs it; empty: none.")
@click.option("--mailman-user", metavar="USER", help="Whom that runs as; default list.")
@click.option("--maps", metavar="DIR", help="Use the maps that `postroom restore` wrote there; empty: none.")
@click.option("--sasl", metavar="SOCKET", help="SMTP AUTH by Dovecot, such as private/auth; empty: none.")
@_changing
@click.pass_obj
def install(environment: Environment, /, directory: Path | None, dry_run: bool, reload: bool, **given: Any) -> None:
    """Let mail come through postroom: its milter, and the transport for own mailboxes.

    Shows what changes in main.cf and master.cf, and does it with postconf. What was there before is kept beside main.cf
    for `uninstall`. Done again it changes nothing, and keeps the options of the first time unless others are given.
    """
    from postroom.mta.postfix import apply, plan_install, preview
    from postroom.mta.postfix import install as put_in
    from postroom.mta.postfix_hints import find_hints
    from postroom.mta.postfix_state import read_state

    instance = _instance(directory)
    state = read_state(instance.directory)
    options = _options(environment, state.options if state else Options(), given)
    plan = plan_install(instance, environment.config, options)
    _show_changes(environment, plan.changes, preview(instance, lambda copy: apply(copy, plan.changes)))
    hints = list(find_hints(instance))
    if dry_run:
        return
    if plan.changes or state is None or state.options != options:
        put_in(instance, plan)
        _say(environment, f"installed in {instance.directory}")
    else:
        _say(environment, f"{instance.directory}: everything is in place")
    _hint(hints)
    _reload(environment, instance, wanted=reload, needed=bool(plan.changes))


def _options(environment: Environment, options: Options, given: dict[str, Any]) -> Options:
    """Those of an earlier installation, overlaid by what was given."""
    chosen = {name: value for name, value in given.items() if value is not None}
    options = replace(options, **{**chosen, "local": Local(chosen.get("local", options.local))})
    if options.local is Local.PIPE:
        program = options.program or _own_program()
        user = options.user or environment.config.server.user or "postroom"
        options = replace(options, program=program, user=_checked_user(environment, user, "--user"))
    if options.mailman:
        if not Path(options.mailman).is_absolute() or not Path(options.mailman).is_file():
            environment.fail(f"--mailman: {options.mailman}: give the absolute path of the program", ExitStatus.USAGE)
        user = _checked_user(environment, options.mailman_user or "list", "--mailman-user")
        options = replace(options, mailman_user=user)
    if options.maps:
        options = replace(options, maps=str(Path(options.maps).absolute()))
    return options


def _own_program() -> str:
    beside = Path(sys.executable).with_name("postroom-deliver")
    return str(beside) if beside.exists() else shutil.which("postroom-deliver") or "/usr/bin/postroom-deliver"


def _checked_user(environment: Environment, user: str, option: str) -> str:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return environment.fail(f"{option}: there is no user {user!r}: make one, or name another", ExitStatus.USAGE)
    if found.pw_uid == 0 or user == "postfix":
        environment.fail(f"{option}: pipe(8) runs nothing as {user}: name another", ExitStatus.USAGE)
    return user


@postfix.command()
@_changing
@click.pass_obj
def uninstall(environment: Environment, directory: Path | None, dry_run: bool, reload: bool) -> None:
    """Give every setting back the value it had, and its way of writing.

    What somebody else changed meanwhile stays and is reported; our milter is taken out of lists all the same.
    Exit status 1 when postroom is not installed there.
    """
    from postroom.mta.postfix import find_leftovers, plan_uninstall, preview, take_out
    from postroom.mta.postfix import uninstall as remove
    from postroom.mta.postfix_state import read_state

    instance = _instance(directory)
    state = read_state(instance.directory)
    if state is None:
        environment.fail(f"postroom is not installed in {instance.directory}")
    removal = plan_uninstall(instance, state)
    _show_changes(environment, removal.changes, preview(instance, lambda copy: take_out(copy, state, removal)))
    for each in removal.kept:
        reason = "is still named in main.cf" if each.before == each.after else "was changed meanwhile"
        click.echo(f"{each.file}: {each.name} {reason} and keeps {each.after!r}", err=True)
    for each in find_leftovers(instance, state):
        text = f"{each.name} still names our milter, and its mail will wait: postconf -PX {each.name}"
        click.echo(f"{each.file}: {text}", err=True)
    if dry_run:
        return
    remove(instance, state, removal)
    _say(environment, f"taken out of {instance.directory}")
    _reload(environment, instance, wanted=reload, needed=bool(removal.changes))


@postfix.command()
@instance_option
@json_option
@click.pass_obj
def status(environment: Environment, directory: Path | None) -> None:
    """What is in place, and what drifted.

    Exit status 1 when something is missing, was changed by somebody else, or is not what the configuration wants now.
    """
    from postroom.mta.postfix import Standing
    from postroom.mta.postfix import status as look
    from postroom.mta.postfix_hints import find_hints
    from postroom.mta.postfix_state import read_state

    instance = _instance(directory)
    state = read_state(instance.directory)
    if state is None:
        environment.fail(f"postroom is not installed in {instance.directory}: run `postroom postfix install`")
    items = look(instance, environment.config, state)
    environment.show(_STATUS, [(each.file, each.name, each.standing, each.now, each.wanted) for each in items])
    _hint(find_hints(instance))
    drifted = [each for each in items if each.standing is not Standing.IN_PLACE]
    if drifted:
        environment.fail(f"{len(drifted)} of {len(items)} settings drifted; `postroom postfix install` puts them right")


def _instance(directory: Path | None) -> Postfix:
    from postroom.mta.postfix_tool import Postfix

    return Postfix(directory)


def _say(environment: Environment, text: str) -> None:
    click.echo(text, err=environment.as_json)


def _show_changes(environment: Environment, changes: tuple[Change, ...], difference: str) -> None:
    if environment.as_json:
        names = ("file", "name", "before", "after")
        show_json([dict(zip(names, (each.file, each.name, each.before, each.after), strict=True)) for each in changes])
    elif difference:
        click.echo(difference.encode("utf-8", "backslashreplace"), nl=False)  # main.cf need not be UTF-8
    else:
        click.echo("nothing to change")


def _hint(hints: Iterable[Hint]) -> None:
    for hint in hints:
        click.echo(f"note: {hint.subject}: {hint.text} ({hint.remedy})", err=True)


def _reload(environment: Environment, instance: Postfix, *, wanted: bool, needed: bool) -> None:
    from postroom.mta.postfix_tool import PostfixFailed

    if not wanted:
        if needed:
            _say(environment, f"takes effect with: postfix -c {instance.directory} reload")
        return
    try:
        instance.reload()
    except PostfixFailed as error:
        click.echo(f"not reloaded: {error}", err=True)
