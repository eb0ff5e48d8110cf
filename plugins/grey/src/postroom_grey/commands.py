"""`postroom grey …`"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import click
from postroom.hookspecs import CommandEnvironment
from postroom.lists.commands import chosen_scope, json_option, list_command, scope_options
from postroom.lists.patterns import InvalidPattern
from postroom.lists.scopes import SERVER, Level, Scope
from postroom.lists.senders import ListName

from postroom_grey.backends import open_store
from postroom_grey.change import (
    change_policy,
    parse_setting,
    read_policy,
)
from postroom_grey.decision import State
from postroom_grey.policy import Policy, check_settings, settings_for
from postroom_grey.settings import PERSONAL_SETTINGS, GreySettings
from postroom_grey.store import Entry, NetworkEntry, Store
from postroom_grey.target import Target, parse_target

F = TypeVar("F", bound=Callable[..., Any])

SHOWN = 100
"""Rows of `list`, unless it is told otherwise: there may be millions."""
ALLOWED, COUNTING = "allowed", "counting"
STATES = (*(str(state) for state in State), ALLOWED, COUNTING)


class _Place:
    """What every command works on."""

    def __init__(self, environment: CommandEnvironment, domain: str | None, mailbox: str | None) -> None:
        services = environment.services("grey")
        self.environment = environment
        self.scope = chosen_scope(environment, domain, mailbox)
        self.store: Store = open_store(services.state)
        self.now = round(services.clock.now() * 1000)
        self.settings: GreySettings = environment.settings("grey")
        self.in_file = frozenset(services.config.handlers.get("grey", {}))


@click.group("grey")
def grey() -> None:
    """Greylisting: settings, white and black lists, and who is waiting.

    \b
    Examples:
      postroom grey status
      postroom grey list
      postroom grey allow 192.0.2.0/24
    """


@grey.command()
@scope_options
@click.option("--all", "everything", is_flag=True, help="Every setting and list of every domain and mailbox.")
@json_option
@click.pass_obj
def status(environment: CommandEnvironment, domain: str | None, mailbox: str | None, everything: bool) -> None:
    """Show the settings in force, where they come from, and what is remembered."""
    place = _Place(environment, domain, mailbox)
    if everything:
        environment.show(("place", "setting", "value"), _all_policies(place.store), title="Greylisting")
    else:
        environment.show(("setting", "value", "from"), _status(place), title=f"Greylisting, {place.scope}")


@grey.command("set")
@click.argument("assignments", nargs=-1, metavar="[SETTING=VALUE]...")
@click.option("--unset", multiple=True, metavar="SETTING", help="Back to what holds without it; may be repeated.")
@scope_options
@click.pass_obj
def set_(
    environment: CommandEnvironment,
    assignments: tuple[str, ...],
    unset: tuple[str, ...],
    domain: str | None,
    mailbox: str | None,
) -> None:
    """Change settings, from the next mail on, on every host.

    \b
    Examples:
      postroom grey set wait=10m penalize=yes
      postroom grey set enabled=no --mailbox sales@example.org
      postroom grey set --unset wait --domain example.org
    """
    if not assignments and not unset:
        raise click.UsageError("nothing to set: write SETTING=VALUE, for example wait=10m, or --unset SETTING")
    names = {field.name for field in dataclasses.fields(GreySettings)}
    if unknown := sorted(set(unset) - names):
        raise click.UsageError(f"{unknown[0]!r} is no setting; there are {', '.join(sorted(names))}")
    table = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"{assignment!r} is no assignment: write SETTING=VALUE, for example wait=10m")
        table[name.strip()] = parse_setting(name.strip(), text.strip())
    place = _Place(environment, domain, mailbox)
    if wrong := check_settings(place.scope, set(table)):
        raise click.UsageError(wrong)

    def change(policy: Policy) -> Policy:
        kept = {name: value for name, value in policy.table.items() if name not in unset}
        return dataclasses.replace(policy, table=kept | table)

    changed = change_policy(place.store, place.scope, change)
    done = [f"{name}={_value(changed.overrides[name])}" for name in table] + [f"{name} unset" for name in unset]
    click.echo(f"{place.scope}: {', '.join(done)}")


grey.add_command(
    list_command(
        "grey",
        ListName.ALLOW,
        """Put senders, client names or client networks on the white list; without patterns, show the list.

        \b
        Examples:
          postroom grey allow '*@example.org' '<>'
          postroom grey allow '*.mail.example.net' 192.0.2.0/24 --domain example.com
        """,
    )
)
grey.add_command(
    list_command(
        "grey",
        ListName.DENY,
        """Put senders, client names or client networks on the black list: their mail is refused for good.

        Without patterns, show the list.

        \b
        Example:
          postroom grey deny 'spam*@example.org' --mailbox bob@example.com
        """,
    )
)


def _filters(command: F) -> F:
    command = click.option("--recipient", metavar="PATTERN", help="Only for these recipients.")(command)
    return click.argument("who", required=False, metavar="[SENDER|CLIENT]")(command)


@grey.command("list")
@_filters
@click.option("--state", type=click.Choice(STATES), multiple=True, help="Only these; may be repeated.")
@click.option("--limit", type=click.IntRange(1), help=f"At most so many; default: {SHOWN}, and all with --json.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@json_option
@click.pass_obj
def list_(
    environment: CommandEnvironment,
    who: str | None,
    recipient: str | None,
    state: tuple[str, ...],
    limit: int | None,
    everything: bool,
) -> None:
    """Show who waits, who has passed, and which client networks are allowed by now."""
    if everything and limit is not None:
        raise click.UsageError("--all and --limit exclude each other: give one of them")
    place = _Place(environment, None, None)
    names = frozenset(state) or frozenset(STATES)
    target = dataclasses.replace(_target(who, recipient), states=frozenset(each for each in State if each in names))
    if limit is None and not everything and not environment.as_json:
        limit = SHOWN
    rows = _rows(place, target, names)
    columns = ("state", "client", "sender", "recipient", "attempts", "first", "last", "may pass", "expires")
    environment.show(columns, islice(rows, limit), title="Greylisting")
    if limit is not None and not environment.as_json and next(rows, None) is not None:
        more = max(1, _count(place, target, names) - limit)  # others come and go meanwhile
        click.echo(f"and {more} more: see them with --all or --limit, or say whose you look for", err=True)


@grey.command()
@_filters
@click.pass_obj
def release(environment: CommandEnvironment, who: str | None, recipient: str | None) -> None:
    """Let a sender or client that waits through at its next attempt, however early that comes.

    \b
    Examples:
      postroom grey release alice@example.org
      postroom grey release 192.0.2.1 --recipient bob@example.com
    """
    if who is None and recipient is None:
        raise click.UsageError("say whom to release: a sender, a client address, or --recipient")
    place = _Place(environment, None, None)
    target = dataclasses.replace(_target(who, recipient), states=frozenset({State.WAITING}))
    released = place.store.release(entry.digest for entry in place.store.entries(place.now, target))
    if not released:
        environment.fail(f"nobody like that waits ({who or recipient}); see 'postroom grey list --state waiting'")
    click.echo(f"released: {released}")


@grey.command()
@_filters
@click.option("--all", "everything", is_flag=True, help="Forget everything; settings and lists stay.")
@click.pass_obj
def forget(environment: CommandEnvironment, who: str | None, recipient: str | None, everything: bool) -> None:
    """Forget a sender or a client network: it has to wait again."""
    if everything == bool(who or recipient):
        raise click.UsageError("say whom to forget: a sender, a client address, --recipient, or else --all")
    place = _Place(environment, None, None)
    target = _target(who, recipient)
    forgotten = place.store.forget(entry.digest for entry in place.store.entries(place.now, target))
    if target.sender is None and target.recipient is None:
        forgotten += place.store.forget_networks(entry.client for entry in place.store.networks(place.now, target))
    if not forgotten and not everything:
        environment.fail(f"nobody like that is remembered ({who or recipient}); see 'postroom grey list'")
    click.echo(f"forgotten: {forgotten}")


def _target(who: str | None, recipient: str | None) -> Target:
    try:
        return parse_target(who, recipient)
    except InvalidPattern as error:
        raise click.UsageError(str(error)) from None


def _rows(place: _Place, target: Target, states: frozenset[str]) -> Iterator[Sequence[Any]]:
    if target.states:
        yield from map(_entry_row, place.store.entries(place.now, target))
    yield from map(_network_row, _networks(place, target, states))


def _count(place: _Place, target: Target, states: frozenset[str]) -> int:
    entries = place.store.count_entries(place.now, target) if target.states else 0
    return entries + sum(1 for _ in _networks(place, target, states))


def _networks(place: _Place, target: Target, states: frozenset[str]) -> Iterator[NetworkEntry]:
    if target.sender is None and target.recipient is None and states & {ALLOWED, COUNTING}:
        found = place.store.networks(place.now, target)
        yield from (network for network in found if _network_state(network) in states)


def _entry_row(entry: Entry) -> Sequence[Any]:
    triple, record = entry.triple, entry.record
    due = _time(record.due) if record.state is State.WAITING else None
    times = (_time(record.first), _time(record.last), due, _time(record.expires))
    return (str(record.state), triple.client, triple.sender, triple.recipient, record.attempts, *times)


def _network_state(entry: NetworkEntry) -> str:
    return ALLOWED if entry.record.allowed_since else COUNTING


def _network_row(entry: NetworkEntry) -> Sequence[Any]:
    record = entry.record
    times = (_time(record.allowed_since), _time(record.last), None, _time(record.expires))
    return (_network_state(entry), entry.client, None, None, record.successes, *times)


def _time(milliseconds: int) -> str | None:
    return (
        datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat().replace("+00:00", "Z") if milliseconds else None
    )


def _status(place: _Place) -> Iterator[Sequence[Any]]:
    scopes = _scopes_above(place.scope)
    policies = {scope: read_policy(place.store, scope) for scope in scopes}
    settings = settings_for(place.settings, policies, scopes)
    shown = [field.name for field in dataclasses.fields(GreySettings)]
    if place.scope != SERVER:
        shown = [name for name in shown if name in PERSONAL_SETTINGS]
    for name in shown:
        origin = next(
            (str(scope) for scope in scopes if name in policies[scope].table and _counts(scope, settings)), ""
        )
        yield name, _value(getattr(settings, name)), origin or ("configuration" if name in place.in_file else "default")
    policy = policies[place.scope]
    yield "white list", len(policy.allow.patterns), str(place.scope)
    yield "black list", len(policy.deny.patterns), str(place.scope)
    if place.scope == SERVER:
        yield from _counted(place)


def _counts(scope: Scope, settings: GreySettings) -> bool:
    return settings.personal or scope.level is not Level.MAILBOX


def _scopes_above(scope: Scope) -> tuple[Scope, ...]:
    match scope.level:
        case Level.SERVER:
            return (SERVER,)
        case Level.DOMAIN:
            return (scope, SERVER)
        case Level.MAILBOX:
            return (scope, Scope(Level.DOMAIN, scope.name.rpartition("@")[2]), SERVER)


def _counted(place: _Place) -> Iterator[Sequence[Any]]:
    levels = Counter(scope.level for scope in place.store.scopes())
    yield "domains of their own", levels[Level.DOMAIN], place.store.name
    yield "mailboxes of their own", levels[Level.MAILBOX], place.store.name
    counts = place.store.counts(place.now)
    for state in State:
        yield str(state), counts.records.get(state, 0), place.store.name
    yield f"networks {ALLOWED}", counts.allowed, place.store.name
    yield f"networks {COUNTING}", counts.counting, place.store.name


def _all_policies(store: Store) -> Iterator[Sequence[Any]]:
    for scope in sorted(store.scopes(), key=lambda scope: scope.key):
        policy = read_policy(store, scope)
        for name, value in policy.overrides.items():
            yield str(scope), name, _value(value)
        for name, patterns in (("allow", policy.allow), ("deny", policy.deny)):
            for pattern in patterns.patterns:
                yield str(scope), name, str(pattern)


def _value(value: Any) -> Any:
    return value if isinstance(value, bool) or type(value) in (int, str) else str(value)
