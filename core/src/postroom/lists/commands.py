"""`postroom NAME allow` and `postroom NAME deny`, the same for every handler that goes by the lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from postroom.hookspecs import CommandEnvironment
from postroom.lists.backends import open_policies
from postroom.lists.patterns import InvalidPattern, Kind, Pattern, parse_pattern
from postroom.lists.scopes import Scope, scope_of
from postroom.lists.senders import ListName, SenderLists, with_patterns, without_patterns
from postroom.lists.store import PolicyStore, change_lists, read_lists

F = TypeVar("F", bound=Callable[..., Any])

MAX_NAMED = 10
"""Patterns that a change repeats, so that its maker sees what they were taken for."""


def scope_options(command: F) -> F:
    """--server, --domain, --mailbox: whose lists or settings a command is about."""
    command = click.option("--mailbox", metavar="ADDRESS", help="For this mailbox.")(command)
    command = click.option("--domain", metavar="DOMAIN", help="For all mailboxes of this domain.")(command)
    return click.option("--server", is_flag=True, expose_value=False, help="For the whole server (the default).")(
        command
    )


def json_option(command: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )(command)


def chosen_scope(environment: CommandEnvironment, domain: str | None, mailbox: str | None) -> Scope:
    if domain is not None and mailbox is not None:
        raise click.UsageError("--domain and --mailbox exclude each other: give one of them")
    return scope_of(domain, mailbox, environment.config.host.recipient_delimiter)


def list_command(handler: str, name: ListName, text: str) -> click.Command:
    """The command that shows and changes one of the lists, under the handler's name."""

    @click.command(str(name), help=text)
    @click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
    @click.option("--kind", type=click.Choice([str(kind) for kind in Kind]), help="Default: as the pattern looks.")
    @click.option("--remove", is_flag=True, help="Take the patterns off the list.")
    @scope_options
    @json_option
    @click.pass_obj
    def command(
        environment: CommandEnvironment,
        patterns: tuple[str, ...],
        kind: str | None,
        remove: bool,
        domain: str | None,
        mailbox: str | None,
    ) -> None:
        scope = chosen_scope(environment, domain, mailbox)
        store = open_policies(environment.services(handler).state)
        if not patterns:
            if remove:
                raise click.UsageError("--remove needs the patterns to take off the list")
            listed = _lists(store, scope).named(name)
            rows = ((str(pattern.kind), pattern.text) for pattern in listed.patterns)
            environment.show(("kind", "pattern"), rows, title=f"{name} list, {scope}")
            return
        try:
            parsed = [parse_pattern(one, Kind(kind) if kind else None) for one in patterns]
            if remove:
                _remove(environment, store, scope, name, parsed)
            else:
                _add(store, scope, name, parsed)
        except InvalidPattern as error:
            raise click.UsageError(str(error)) from None
        named = ", ".join(map(str, parsed)) if len(parsed) <= MAX_NAMED else f"{len(parsed)} patterns"
        click.echo(f"{scope}: {name} {'less' if remove else 'plus'} {named}")

    return command


def _lists(store: PolicyStore, scope: Scope) -> SenderLists:
    return read_lists(store, [scope]).get(scope, SenderLists())


def _add(store: PolicyStore, scope: Scope, name: ListName, patterns: Sequence[Pattern]) -> None:
    change_lists(store, scope, lambda lists: lists.with_list(name, with_patterns(lists.named(name), patterns)))


def _remove(
    environment: CommandEnvironment, store: PolicyStore, scope: Scope, name: ListName, patterns: Sequence[Pattern]
) -> None:
    there = _lists(store, scope).named(name).patterns
    if missing := [pattern for pattern in patterns if pattern not in there]:
        environment.fail(f"{missing[0]} is not on the {name} list of {scope}: nothing changed")
    change_lists(store, scope, lambda lists: lists.with_list(name, without_patterns(lists.named(name), patterns)))
