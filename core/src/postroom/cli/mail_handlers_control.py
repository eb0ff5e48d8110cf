"""`mail_handlers_control`: the reference's tool, with its options and its two table forms.

It prints with nothing but the standard library, since panels call it often; what loads plugins is imported when used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import NoReturn

from postroom.cli.streams import open_streams
from postroom.config import Config, ConfigError, load_config
from postroom.registration import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    InvalidRegistration,
    Registration,
    Stage,
    Type,
    check_address,
    check_name,
)
from postroom.registry import Difference, Registry, RegistryError, acting_order, compared

NAME = "mail_handlers_control"
COMMANDS = ("add", "list", "enable", "disable", "remove")
COLUMNS = ("E", "prior", "address", "name", "type", "queue")
RULE = "-----"
ALIGNED_ROWS = 1000
"""Rows whose width is looked at before a terminal sees the first one."""


class WrongUsage(Exception):
    """What is missing or too much on the command line, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUsage(f"{message}; see {NAME} --help")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=NAME, allow_abbrev=False, description="Register, list, enable, disable and remove handlers.")
    command = parser.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("add", "register a handler; off, unless --enabled is given"),
        ("list", "print what is registered"),
        ("enable", "let a registration act"),
        ("disable", "let it act no more; its data is kept"),
        ("remove", "take it out"),
    ):
        command.add_argument(f"--{name}", dest="command", action="store_const", const=name, help=what)
    parser.add_argument("--priority", type=int, metavar="N", help=f"{MIN_PRIORITY} to {MAX_PRIORITY}; lower acts first")
    parser.add_argument("--name", help="the handler")
    parser.add_argument("--mailname", metavar="ADDRESS-OR-DOMAIN", help="whose mail; not for type global")
    parser.add_argument("--queue", choices=list(map(str, Stage)), metavar="QUEUE", help=", ".join(Stage))
    parser.add_argument("--type", choices=list(map(str, Type)), metavar="TYPE", help=", ".join(Type))
    parser.add_argument("--executable", metavar="FILE", help="program; without it, the installed plugin of that name")
    parser.add_argument("--context", metavar="TEXT", help="settings of this registration")
    parser.add_argument("--enabled", action="store_true", help="with --add: let it act at once")
    parser.add_argument("--global", dest="only_global", action="store_true", help="with --list: only type global")
    parser.add_argument("--extent", action="store_true", help="with --list: contexts and programs")
    parser.add_argument("--config", metavar="FILE", help="configuration; default $POSTROOM_CONFIG")
    return parser


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    open_streams()
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 no such registration, 2 wrong usage, 75 try again."""
    try:
        given = make_parser().parse_args(arguments)
        _check_options(given)
        config = load_config(given.config)
        with Registry.open(config.registry_url, float(config.registry.timeout)) as registry:
            _command(given, config, registry)
            sys.stdout.flush()
    except (WrongUsage, ConfigError, InvalidRegistration) as error:
        return _say(str(error), 2)
    except RegistryError as error:
        return _say(str(error), error.exit_status)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads: nothing is left to flush
        return 0
    except OSError as error:
        sys.stdout = None  # what it could not take now, it cannot take at the end
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _say("stopped", 130)
    return 0


def _say(text: str, status: int) -> int:
    sys.stderr.write(f"{NAME}: {' '.join(text.split())}\n")
    return status


_FOR_ADD = ("priority", "executable", "context", "enabled")
_FOR_LIST = ("only_global", "extent")


def _check_options(given: argparse.Namespace) -> None:
    spelled = {"only_global": "global"}
    foreign = [*([] if given.command == "add" else _FOR_ADD), *([] if given.command == "list" else _FOR_LIST)]
    if given.command == "list":
        foreign += ["name", "type", "queue"]
        if given.mailname is not None and given.only_global:
            raise WrongUsage("--mailname and --global exclude each other: leave one out")
    for name in foreign:
        if getattr(given, name) not in (None, False):
            raise WrongUsage(f"--{spelled.get(name, name)} does not go with --{given.command}: leave it out")
    needed = () if given.command == "list" else ("name", "type", "queue")
    for name in needed:
        if getattr(given, name) is None:
            raise WrongUsage(f"--{given.command} needs --{name}")


def _command(given: argparse.Namespace, config: Config, registry: Registry) -> None:
    match given.command:
        case "list":
            _list(given, registry)
        case "add":
            _add(given, config, registry)
        case "enable":
            _edit(given, registry, lambda found: replace(found, enabled=True))
        case "disable":
            _edit(given, registry, lambda found: replace(found, enabled=False))
        case _:
            _edit(given, registry, lambda _: None)


def _named(given: argparse.Namespace) -> Registration:
    """The registration that the options name, with everything else as by default."""
    type_ = Type(given.type)
    try:
        address = check_address(type_, given.mailname or "")
    except InvalidRegistration as error:
        raise InvalidRegistration(str(error).replace("--address", "--mailname")) from None
    return Registration(check_name(given.name), Stage(given.queue), type_, address)


def _add(given: argparse.Namespace, config: Config, registry: Registry) -> None:
    from postroom.cli.registering import check_against, check_program, choose_placements, find_handler
    from postroom.cli.who import who

    wanted = replace(_named(given), enabled=given.enabled, context=given.context or "")
    if given.executable is not None:
        wanted = replace(wanted, executable=check_program(given.executable))
    else:
        from postroom.plugins import find_handlers

        handlers = find_handlers(config)
        handler = find_handler(given.name, handlers)
        check_against(wanted, handlers)
        addresses = [wanted.address] if wanted.address else []
        wanted = replace(wanted, priority=choose_placements(handler, wanted.stage, wanted.type, addresses)[0].priority)
    if given.priority is not None:
        wanted = replace(wanted, priority=given.priority)
    registry.add(wanted, who=who())


def _edit(
    given: argparse.Namespace, registry: Registry, changed: Callable[[Registration], Registration | None]
) -> None:
    from postroom.cli.registering import Target, refuse_unregistered
    from postroom.cli.who import who

    target = Target(*_named(given).key)
    with registry.change(who()) as change:
        found = change.find(target.chosen)
        pairs = [(before, changed(before)) for before in found]
        change.put([Difference(before, after) for before, after in pairs if before != after])
    if not found:
        raise refuse_unregistered(registry, target)


# The two table forms


def _list(given: argparse.Namespace, registry: Registry) -> None:
    found = _in_order(given, registry)
    lines = extent_lines(found) if given.extent else plain_lines(found, aligned=sys.stdout.isatty())
    for line in lines:
        sys.stdout.write(line + "\n")


def _in_order(given: argparse.Namespace, registry: Registry) -> Iterator[Registration]:
    """By address, and there by name; then those for all, in the order in which they act."""
    if given.mailname is not None:
        address = compared(given.mailname)
        found: Iterable[Registration] = registry.list(address=address) if address else ()
        return iter(sorted(found, key=_by_name))
    for_all = sorted(registry.list(type=Type.GLOBAL), key=acting_order)
    if given.only_global:
        return iter(for_all)
    others = (each for each in registry.list() if each.type is not Type.GLOBAL)
    return chain(_by_address(others), for_all)


def _by_address(found: Iterable[Registration]) -> Iterator[Registration]:
    for _, group in groupby(found, key=lambda each: each.address):
        yield from sorted(group, key=_by_name)


def _by_name(found: Registration) -> tuple[str, str, str]:
    return (found.handler, found.stage, found.type)


def plain_lines(found: Iterable[Registration], *, aligned: bool) -> Iterator[str]:
    """The form of `--list`: columns divided by tabs as in the reference, or set to a terminal's width of them."""
    rows = chain([COLUMNS], map(_cells, found))
    if not aligned:
        yield from map("\t".join, rows)
        return
    first = list(islice(rows, ALIGNED_ROWS))
    widths = [max(len(cell) for cell in column) for column in zip(*first, strict=True)]
    for row in chain(first, rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(found: Registration) -> tuple[str, ...]:
    mark = "X" if found.enabled else ""
    cells = (mark, str(found.priority), found.address or "all", found.handler, str(found.type), str(found.stage))
    return tuple(map(_visible, cells))


def extent_lines(found: Iterable[Registration]) -> Iterator[str]:
    """The form of `--list --extent`. An empty context is `none` for all mail, and no cell for an address."""
    yield RULE
    yield "| name | address | context |"
    yield RULE
    for each in found:
        context = each.context or ("none" if each.type is Type.GLOBAL else "")
        cells = [each.handler, each.address or "all", *([context] if context else [])]
        yield f"| {' | '.join(map(_visible, cells))} |"
        yield f"| Exec: | {_visible(each.executable or f'plugin {each.handler}')} |"
        yield RULE


def _visible(text: str) -> str:
    """Control characters written out: a line stays a line, and a terminal obeys nobody's context."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


if __name__ == "__main__":
    main()
