"""`postroom quarantine`: what was held, by whom and why; let it go or delete it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option, show_json
from postroom.config import Duration, parse_duration
from postroom.registration import Stage

if TYPE_CHECKING:
    from postroom.hookspecs import Reinjector
    from postroom.quarantine import Held, Quarantine

F = TypeVar("F", bound=Callable[..., Any])
Matches = Callable[["Held"], bool]

_COLUMNS = ("id", "held", "stage", "handler", "sender", "recipients", "subject", "size", "state")


@click.group()
def quarantine() -> None:
    """List, show, release, delete and expire what was held.

    \b
    Examples:
      postroom quarantine list --handler clamav
      postroom quarantine show 20260102T030405-0123456789abcdef
      postroom quarantine release 20260102T030405-0123456789abcdef
      postroom quarantine delete --older 30d --yes
      postroom quarantine expire --dry-run
    """


def _filters(command: F) -> F:
    """The options that choose among what is held."""
    for option in (
        click.option("--older", metavar="AGE", help='Held for longer than that, such as "30d".'),
        click.option("--handler", help="Held by that handler."),
        click.option("--stage", type=click.Choice([str(stage) for stage in Stage]), help="Held at that stage."),
        click.option("--recipient", metavar="PATTERN", help='For a recipient that matches, such as "*@example.org".'),
        click.option("--sender", metavar="PATTERN", help='From a sender that matches; "<>" is the null sender.'),
    ):
        command = option(command)
    return command


@quarantine.command("list")
@_filters
@json_option
@click.pass_obj
def list_held(environment: Environment, /, **filters: str | None) -> None:
    """What is held, oldest first."""
    matches = _matcher(filters)
    environment.show(_COLUMNS, _rows(_open(environment), matches))


def _rows(held: Quarantine, matches: Matches) -> Iterator[tuple[Any, ...]]:
    for each in held.list():
        if matches(each):
            yield (
                each.id, _when(each.time), each.stage, each.handler, each.sender or "<>", each.recipients,
                each.subject, each.size, "released" if each.released else "held",
            )  # fmt: skip


@quarantine.command()
@click.argument("id_", metavar="ID")
@click.option("--raw", is_flag=True, help="The mail alone, octet for octet, as it was held.")
@json_option
@click.pass_obj
def show(environment: Environment, id_: str, raw: bool) -> None:
    """One mail: why it was held, and its header."""
    held = _open(environment)
    if raw:
        _checked(environment, partial(held.get, id_))
        for chunk in held.chunks(id_):
            sys.stdout.buffer.write(chunk)
        return
    each: Held = _checked(environment, partial(held.get, id_))
    facts = {
        "id": each.id,
        "held": _when(each.time),
        "stage": str(each.stage),
        "handler": each.handler,
        "reason": each.reason,
        "sender": each.sender,
        "recipients": list(each.recipients),
        "queue_id": each.queue_id,
        "client": each.client,
        "traffic": each.traffic,
        "subject": each.subject,
        "size": each.size,
        "released": _when(each.released) if each.released else None,
        "arrived": list(each.arrived),
    }  # never the permit: whoever has it passes the handler
    if environment.as_json:
        show_json(facts)
    else:
        environment.show(("fact", "value"), facts.items())


@quarantine.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--again", is_flag=True, help="Also what was released before.")
@click.pass_obj
def release(environment: Environment, ids: tuple[str, ...], again: bool) -> None:
    """Hand mails back to the mail server; the handler that held one lets it pass this time.

    A released mail stays listed until it is deleted. Exit status 75 when the mail server does not take it.
    """
    held = _open(environment)
    for id_ in ids:
        each: Held = _checked(environment, partial(held.get, id_))
        if each.released and not again:
            environment.fail(f"{id_} was released at {_when(each.released)} already: use --again to send it once more")
    for id_ in ids:
        each = _checked(environment, partial(held.get, id_))
        try:
            held.release(id_, _reinjector(environment, each.stage))
        except OSError as error:
            environment.fail(f"{id_} is still held: the mail server did not take it: {error}", ExitStatus.TRY_AGAIN)
        click.echo(f"released: {id_} for {', '.join(each.recipients)}")


@quarantine.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--yes", is_flag=True, help="Delete; without it a filter only tells how many mails it would be.")
@click.pass_obj
def delete(environment: Environment, /, ids: tuple[str, ...], yes: bool, **filters: str | None) -> None:
    """Delete mails for good, by id or by filter.

    With a filter and without --yes it only counts, and ends with status 1.
    """
    held = _open(environment)
    if bool(ids) == any(filters.values()):
        raise click.UsageError("give ids, or at least one filter such as --older 30d, and not both")
    if ids:
        for id_ in ids:
            _checked(environment, partial(held.get, id_))
        chosen = list(ids)
    else:
        matches = _matcher(filters)
        found = [each for each in held.list() if matches(each)]
        chosen = [each.id for each in found]
        if not yes:
            size = sum(each.size for each in found)
            environment.fail(f"{len(found)} mail(s), {size} octets, would be deleted: add --yes to do it")
    for id_ in chosen:
        _checked(environment, partial(held.delete, id_))
    click.echo(f"deleted: {len(chosen)} mail(s)")


@quarantine.command()
@click.option(
    "--older-than", metavar="AGE", help='Held for longer than that, such as "7d". Default: [quarantine] keep.'
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, delete nothing.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.pass_obj
def expire(environment: Environment, older_than: str | None, dry_run: bool, yes: bool) -> None:
    """Delete what has been held, and was released, too long ago.

    The server does the same by itself, by [quarantine] keep. A mail whose release is under way stays: until it has
    arrived, or five days have gone. Says how many mails it is first, and asks unless --yes.
    """
    age, held = _age(environment, older_than), _open(environment)
    found = list(held.expirable(age))
    if not found:
        click.echo(f"expire: nothing is older than {age}", err=True)
        return
    size = sum(each.size for each in found)
    since = f"held between {_when(found[0].time)} and {_when(found[-1].time)}"
    click.echo(f"expire: {len(found)} mail(s), {size} octets, older than {age}, {since}", err=True)
    if dry_run:
        return
    if not yes and not sys.stdin.isatty():
        environment.fail("nothing is done: add --yes to delete them")
    if not yes and not click.confirm("delete them?", err=True):
        environment.fail("nothing is done")
    gone = held.expire(age)
    click.echo(f"expired: {gone.mails} mail(s), {gone.octets} octets")


def _age(environment: Environment, older_than: str | None) -> Duration:
    if older_than is None:
        keep = environment.config.quarantine.keep
        if not keep:
            raise click.UsageError("[quarantine] keep is 0, for ever: say --older-than AGE")
        return keep
    try:
        return parse_duration(older_than)
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from None


def _open(environment: Environment) -> Quarantine:
    from postroom.quarantine import open_quarantine
    from postroom.services.clock import SystemClock

    return open_quarantine(environment.config, SystemClock())


def _reinjector(environment: Environment, stage: Stage) -> Reinjector:
    """At before-local the permit of the mail lets it pass one handler; the milter front knows marks alone."""
    from postroom.services.reinject import open_reinjector

    reinjector = open_reinjector(environment.config)
    if stage is Stage.BEFORE_LOCAL:
        return reinjector
    return reinjector.for_stages({Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE})


def _checked(environment: Environment, action: Callable[[], Any]) -> Any:
    from postroom.quarantine import NotHeld

    try:
        return action()
    except NotHeld as error:
        return environment.fail(str(error.args[0]))


def _matcher(filters: dict[str, str | None]) -> Matches:
    """Whether a mail is what all the filters ask for."""
    older = filters.get("older")
    try:
        before = time.time() - parse_duration(older) if older else None
    except ValueError as error:
        raise click.UsageError(f"--older: {error}") from None

    def matches(held: Held) -> bool:
        sender = filters.get("sender")
        return (
            (before is None or held.time < before)
            and (not filters.get("handler") or held.handler == filters["handler"])
            and (not filters.get("stage") or held.stage == filters["stage"])
            and (not sender or (not held.sender if sender == "<>" else _like(held.sender, sender)))
            and (not filters.get("recipient") or any(_like(each, filters["recipient"]) for each in held.recipients))
        )

    return matches


def _like(address: str, pattern: str | None) -> bool:
    return fnmatchcase(address.lower(), (pattern or "").lower())


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
