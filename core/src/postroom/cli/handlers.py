"""`postroom handlers`: what acts for whom, who changed it, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import groupby, islice
from typing import Any, TypeVar

import click

from postroom.cli import handlers_history
from postroom.cli.compose import Environment
from postroom.cli.output import json_option
from postroom.cli.registering import (
    Target,
    check_against,
    check_program,
    choose_placements,
    find_handler,
    find_target,
    refuse_unregistered,
)
from postroom.cli.who import who
from postroom.hookspecs import Placement
from postroom.registration import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    InvalidRegistration,
    Mode,
    OnError,
    Registration,
    Stage,
    Type,
    check_address,
    check_name,
)
from postroom.registry import Difference, acting_order, compared

T = TypeVar("T")

NARROW = "narrow it with --stage, --type, --address, or say --all"

_STAGE = click.option("--stage", type=click.Choice([*map(str, Stage)]), help="Only at this stage.")
_TYPE = click.option("--type", "type_", type=click.Choice([*map(str, Type)]), help="Only of this type.")
_ADDRESS = click.option("--address", help='Only for this address or domain; "" for all mail.')
_ALL = click.option("--all", "several", is_flag=True, help="All that match, when there are several.")
_PRIORITY = click.option(
    "--priority",
    type=click.IntRange(MIN_PRIORITY, MAX_PRIORITY),
    help="Lower acts first, inside a type. Default: the handler's own.",
)
_CONTEXT = click.option("--context", help="Settings of this registration: key=value, key=value, or a bare word.")
_MODE = click.option("--mode", type=click.Choice([*map(str, Mode)]), help="shadow: runs and logs, and does nothing.")
_ON_ERROR = click.option(
    "--on-error",
    type=click.Choice([*map(str, OnError), "declared"]),
    help="What a failure comes to; declared: as it says itself.",
)
_EXEC = click.option("--exec", "program", metavar="PROGRAM", help="Run this program instead of an installed plugin.")


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda command: reduce(lambda inner, option: option(inner), reversed(options), command)


_target_options = _options(click.argument("name"), _STAGE, _TYPE, _ADDRESS, _ALL)
_value_options = _options(_PRIORITY, _CONTEXT, _MODE, _ON_ERROR, _EXEC)


@click.group()
def handlers() -> None:
    """Register, enable, disable and list handlers.

    \b
    A handler acts only where it is registered and enabled. A change acts on the next mail.
    Examples:
      postroom handlers add grey --enabled
      postroom handlers add virus-scan --address bob@example.org --enabled
      postroom handlers add footer --exec /usr/local/bin/footer --stage before-remote --type sender-domain \\
                                   --address example.org --context "short" --enabled
      postroom handlers disable grey
      postroom handlers history
      postroom handlers rollback 12
    """


@handlers.command("list")
@_STAGE
@_TYPE
@_ADDRESS
@click.option("--name", help="Only of this handler.")
@click.option("--enabled/--disabled", "enabled", default=None, help="Only enabled, or only disabled ones.")
@click.option("--at", type=click.IntRange(0), metavar="GENERATION", help="As it was at that generation.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@json_option
@click.pass_obj
def list_registrations(
    environment: Environment,
    stage: str | None,
    type_: str | None,
    address: str | None,
    name: str | None,
    enabled: bool | None,
    at: int | None,
    limit: int | None,
) -> None:
    """What is registered: for all mail first, then by address; in the order in which they act."""
    found = environment.open_registry().list(
        handler=name,
        stage=_member(Stage, stage),
        type=_member(Type, type_),
        address=None if address is None else compared(address),
        enabled=enabled,
        at=at,
    )
    columns = ("enabled", "priority", "handler", "stage", "type", "address", "context", "mode", "on error", "program")
    environment.show(
        columns, islice((_row(each, "" if environment.as_json else "all") for each in _by_address(found)), limit)
    )


def _by_address(found: Iterable[Registration]) -> Iterator[Registration]:
    """In acting order inside an address: nothing waits for the end of a million."""
    for _, group in groupby(found, key=lambda each: each.address):
        yield from sorted(group, key=acting_order)


def _row(found: Registration, everybody: str) -> tuple[Any, ...]:
    return (
        found.enabled,
        found.priority,
        found.handler,
        str(found.stage),
        str(found.type),
        found.address or everybody,
        found.context,
        str(found.mode),
        str(found.on_error or "declared"),
        found.executable,
    )


@handlers.command()
@click.argument("name")
@click.option("--stage", type=click.Choice([*map(str, Stage)]), help="Where it acts. Default: where the handler says.")
@click.option(
    "--type", "type_", type=click.Choice([*map(str, Type)]), help="Whose mail. Default: what the handler says."
)
@click.option("--address", "addresses", multiple=True, help="An address, or a domain; may be given several times.")
@_value_options
@click.option("--enabled/--disabled", "enabled", default=False, help="Default: registered, but off.")
@click.pass_obj
def add(
    environment: Environment,
    /,
    name: str,
    stage: str | None,
    type_: str | None,
    addresses: tuple[str, ...],
    enabled: bool,
    program: str | None,
    **values: Any,
) -> None:
    """Register a handler; without --stage and --type, where it says itself that it acts."""
    check_name(name)
    where, whose = _member(Stage, stage), _member(Type, type_)
    if program is None:
        placements = choose_placements(find_handler(name, environment.handlers()), where, whose, addresses)
    else:
        program = check_program(program)
        placements = [_program_placement(name, where, whose)]
    wanted = [
        _with_values(
            Registration(
                name,
                placement.stage,
                placement.type,
                check_address(placement.type, address),
                placement.priority,
                enabled,
                executable=program or "",
            ),
            values,
        )
        for placement in placements
        for address in (addresses or ("",))
    ]
    if program is None:
        for registration in wanted:
            check_against(registration, environment.handlers())
    with environment.open_registry().change(who()) as change:
        for registration in wanted:
            change.add(registration)
    for registration in wanted:
        state = "registered and enabled" if enabled else "registered, not enabled"
        click.echo(f"{state}: {registration}, priority {registration.priority}")


def _program_placement(name: str, stage: Stage | None, type_: Type | None) -> Placement:
    if stage is None or type_ is None:
        missing = " and ".join(text for text, value in (("--stage", stage), ("--type", type_)) if value is None)
        raise InvalidRegistration(f"{name} is a program, which has no defaults: give {missing}")
    return Placement(stage, type_, Registration(name, stage, type_).priority)


@handlers.command("set")
@_target_options
@_value_options
@click.option("--enabled/--disabled", "enabled", default=None, help="Turn it on or off, too.")
@click.pass_obj
def set_values(
    environment: Environment,
    /,
    name: str,
    stage: str | None,
    type_: str | None,
    address: str | None,
    several: bool,
    enabled: bool | None,
    program: str | None,
    **values: Any,
) -> None:
    """Change a registration's priority, context, mode, on-error or program."""
    if enabled is None and program is None and all(value is None for value in values.values()):
        raise click.UsageError("nothing to set: give --priority, --context, --mode, --on-error, --exec or --enabled")
    path = check_program(program) if program else program

    def changed(found: Registration) -> Registration:
        after = _with_values(found, values)
        after = after if path is None else replace(after, executable=path)
        after = after if enabled is None else replace(after, enabled=enabled)
        if after.executable != found.executable or after.context != found.context:
            check_against(after, environment.handlers())
        return after

    _edit(environment, _target(name, stage, type_, address), changed, "set", several=several)


@handlers.command()
@_target_options
@click.pass_obj
def enable(
    environment: Environment, name: str, stage: str | None, type_: str | None, address: str | None, several: bool
) -> None:
    """Let a registration act, from the next mail on."""
    target = _target(name, stage, type_, address)
    _edit(environment, target, lambda found: replace(found, enabled=True), "enabled", several=several)


@handlers.command()
@_target_options
@click.pass_obj
def disable(
    environment: Environment, name: str, stage: str | None, type_: str | None, address: str | None, several: bool
) -> None:
    """Let a registration act no more; it is kept."""
    target = _target(name, stage, type_, address)
    _edit(environment, target, lambda found: replace(found, enabled=False), "disabled", several=several)


@handlers.command()
@_target_options
@click.pass_obj
def remove(
    environment: Environment, name: str, stage: str | None, type_: str | None, address: str | None, several: bool
) -> None:
    """Take a registration out; `rollback` brings it back."""
    _edit(environment, _target(name, stage, type_, address), lambda _: None, "removed", several=several)


def _edit(
    environment: Environment,
    target: Target,
    changed: Callable[[Registration], Registration | None],
    done: str,
    *,
    several: bool,
) -> None:
    registry = environment.open_registry()
    with registry.change(who()) as change:
        found = find_target(change, target, several=several, remedy=NARROW)
        pairs = [(each, changed(each)) for each in found]
        change.put([Difference(before, after) for before, after in pairs if before != after])
    if not found:
        raise refuse_unregistered(registry, target)
    for before, after in pairs:
        click.echo(f"{done}: {before}" if before != after else f"{done} already: {before}")


def _with_values(found: Registration, values: dict[str, Any]) -> Registration:
    """With what the command gave of priority, context, mode, on_error."""
    given = {name: value for name, value in values.items() if value is not None}
    if "mode" in given:
        given["mode"] = Mode(given["mode"])
    if "on_error" in given:
        given["on_error"] = None if given["on_error"] == "declared" else OnError(given["on_error"])
    return replace(found, **given)


def _target(name: str, stage: str | None, type_: str | None, address: str | None) -> Target:
    whose = None if address is None else compared(address)
    return Target(name, _member(Stage, stage), _member(Type, type_), whose)


def _member(kind: Callable[[str], T], value: str | None) -> T | None:
    return None if value is None else kind(value)


for _command in handlers_history.COMMANDS:
    handlers.add_command(_command)
