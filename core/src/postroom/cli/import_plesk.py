"""`postroom import plesk`: the handlers of a host that ran the reference system, registered here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option
from postroom.cli.plesk_lists import EVERYBODY, Lists, Place, Program, read_lists
from postroom.cli.registering import check_against, find_handler
from postroom.cli.who import who
from postroom.config import ConfigError
from postroom.registration import (
    InvalidRegistration,
    Registration,
    Stage,
    Type,
    check_address,
    check_name,
    check_priority,
)

if TYPE_CHECKING:
    from postroom.plugins import Handlers
    from postroom.registry import Registry

COLUMNS = ("done", "handler", "stage", "type", "address", "priority", "enabled", "context", "program", "note")

HOOKS = "/usr/local/psa/handlers/"
"""Where the reference keeps its own programs: those that have a plugin here become it."""
KNOWN: Mapping[str, str] = {
    **{
        name: name
        for name in ("grey", "spf", "check-quota", "spam", "dk_check", "dk_sign", "autoresponder", "drweb", "kaspersky")
    },
    "quota-check": "check-quota",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """One entry of the lists: what becomes of it, or why nothing does."""

    name: str
    address: str
    registration: Registration | None
    note: str = ""


@click.group("import")
def import_() -> None:
    """Take over what another system has.

    \b
    Examples:
      mail_handlers_control --list > list; mail_handlers_control --list --extent >> list
      postroom import plesk list --dry-run
    """


@import_.command()
@click.argument("lists", type=click.File(encoding="utf-8", errors="surrogateescape"), metavar="FILE")
@click.option(
    "--map", "moved", multiple=True, metavar="OLD=NEW", help="Programs below OLD are below NEW here; may be repeated."
)
@click.option("--enable", is_flag=True, help="Enable what the lists don't say is off (--extent alone says nothing).")
@click.option("--dry-run", is_flag=True, help="Show what would be registered, change nothing.")
@json_option
@click.pass_obj
def plesk(environment: Environment, lists: TextIO, moved: tuple[str, ...], enable: bool, dry_run: bool) -> None:
    """Register the handlers that mail_handlers_control lists on the old host.

    FILE (- is standard input) holds what `--list` printed, or `--list --extent`, or better both: the first says where
    handlers act, the second with which context and program. All is done in one generation.

    The reference's own programs become the installed plugins of their names; others stay programs and have to be here.
    Exit status 1 when something could not be taken over; the rest is.
    """
    found = read_lists(lists)
    if not found.places and not found.programs:
        environment.fail(f"{lists.name}: no handler in it; give what `mail_handlers_control --list --extent` printed")
    imported = _unique(take_over(found, environment.handlers(), _prefixes(moved), enable=enable))
    registry = environment.open_registry()
    rows = list(_register(registry, imported, lists.name, dry_run=dry_run))
    rows += [("not read", text, *[""] * 7, "neither form has such a line") for text in found.unread]
    environment.show(COLUMNS, rows)
    left = sum(row[0] in ("left out", "not read") for row in rows)
    if left:
        click.echo(f"{left} of {len(rows)} could not be taken over: see their notes", err=True)
        click.get_current_context().exit(ExitStatus.NO)


def _prefixes(moved: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in moved:
        old, equals, new = text.partition("=")
        if not equals or not old.startswith("/") or not new.startswith("/"):
            raise click.BadParameter(f"{text!r}: write /old/place=/new/place", param_hint="--map")
        pairs.append((old.rstrip("/"), new.rstrip("/")))
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def take_over(
    lists: Lists, handlers: Handlers, prefixes: Sequence[tuple[str, str]], *, enable: bool
) -> Iterator[Imported]:
    """A registration for each entry, or why there is none."""
    programs: dict[tuple[str, str], list[Program]] = defaultdict(list)
    for program in lists.programs:
        programs[program.name, program.address].append(program)
    places: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for place in lists.places:
        places[place.name, place.address].append(place)
    for key in dict.fromkeys([*places, *programs]):
        pairs, problem = _paired(places.get(key, []), programs.get(key, []), handlers, enable=enable)
        if problem:
            yield Imported(*key, None, problem)
        for place, called in pairs:
            yield _registration(place, called, handlers, prefixes)


def _paired(
    places: Sequence[Place], programs: Sequence[Program], handlers: Handlers, *, enable: bool
) -> tuple[list[tuple[Place, Program | None]], str]:
    """Which place has which program: the two lists have only name and address in common."""
    if not places:
        places = _usual_places(programs[0], handlers, enable=enable)
        if len(places) != len(programs):
            return [], "the list does not say where it acts: add what `mail_handlers_control --list` prints"
    if not programs:
        return [(place, None) for place in places], ""
    if len(places) == len(programs):
        return list(zip(places, programs, strict=True)), ""
    if len(set(programs)) == 1:
        return [(place, programs[0]) for place in places], ""
    return [], f"{len(places)} places and {len(programs)} different programs or contexts: register it by hand"


def _usual_places(program: Program, handlers: Handlers, *, enable: bool) -> list[Place]:
    """Where a handler of that name acts by default, for such an address."""
    handler = handlers.get(KNOWN.get(program.name, program.name))
    if handler is None:
        return []
    wants_address, is_address = program.address != EVERYBODY, "@" in program.address
    return [
        Place(program.name, program.address, each.type, each.stage, each.priority, enable)
        for each in handler.info.placements
        if (each.type is not Type.GLOBAL) == wants_address
        and (not wants_address or is_address == (each.type in (Type.SENDER, Type.RECIPIENT)))
    ]


def _registration(
    place: Place, called: Program | None, handlers: Handlers, prefixes: Sequence[tuple[str, str]]
) -> Imported:
    try:
        made = Registration(
            check_name(place.name),
            place.stage,
            place.type,
            check_address(place.type, "" if place.address == EVERYBODY else place.address),
            check_priority(place.priority),
            place.enabled,
            called.context if called else "",
        )
        executable = _executable(place.name, called, prefixes)
        if executable:
            made = replace(made, executable=executable)
            check_against(made, handlers)
            return Imported(place.name, place.address, made)
        return _as_plugin(place, made, handlers)
    except (InvalidRegistration, ConfigError) as error:
        return Imported(place.name, place.address, None, str(error))


def _executable(name: str, called: Program | None, prefixes: Sequence[tuple[str, str]]) -> str:
    """The program, moved to its place here; empty: the plugin of that name."""
    if called is None:
        if name in KNOWN:
            return ""
        raise InvalidRegistration("which program: add what `mail_handlers_control --list --extent` prints")
    path = called.executable
    for old, new in prefixes:
        if path == old or path.startswith(f"{old}/"):
            return new + path[len(old) :]
    if path == f"plugin {name}" or (path.startswith(HOOKS) and name in KNOWN):
        return ""
    if not path.startswith("/"):
        raise InvalidRegistration(f"{path!r} is no absolute path of a program")
    return path


def _as_plugin(place: Place, made: Registration, handlers: Handlers) -> Imported:
    made = replace(made, handler=KNOWN.get(made.handler, made.handler))
    find_handler(made.handler, handlers)
    try:
        check_against(made, handlers)
    except ConfigError as error:  # the reference's programs took words that say nothing to a plugin
        bare = replace(made, context="")
        check_against(bare, handlers)
        return Imported(place.name, place.address, bare, f"context {made.context!r} is left out: {error}")
    return Imported(place.name, place.address, made)


def _unique(imported: Iterator[Imported]) -> list[Imported]:
    """One for each key of the registry."""
    found: list[Imported] = []
    keys: set[tuple[str, Stage, Type, str]] = set()
    for each in imported:
        if each.registration and each.registration.key in keys:
            each = replace(each, registration=None, note="it is in the list twice; the first counts")
        elif each.registration:
            keys.add(each.registration.key)
        found.append(each)
    return found


def _register(
    registry: Registry, imported: Sequence[Imported], source: str, *, dry_run: bool
) -> Iterator[tuple[object, ...]]:
    from postroom.registry import Difference

    differences = []
    for each in imported:
        if each.registration is None:
            yield ("left out", each.name, "", "", each.address, "", "", "", "", each.note)
            continue
        before, made = registry.get(each.registration.key), each.registration
        if before != made:
            differences.append(Difference(before, made))
        done = "as it was" if before == made else "add" if before is None else "change"
        yield (
            done, made.handler, made.stage, made.type, made.address or EVERYBODY, made.priority, made.enabled,
            made.context, made.executable or f"plugin {made.handler}", each.note,
        )  # fmt: skip
    if differences and not dry_run:
        with registry.change(who(), f"import plesk {source}") as change:
            change.put(differences)
