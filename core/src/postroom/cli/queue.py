"""`postroom queue`: what waits in the mail server's queue, and what to do with it."""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import click

from postroom.cli.compose import Environment
from postroom.cli.output import json_option, show_json, text_of
from postroom.cli.postfix import instance_option
from postroom.config import Size, parse_duration
from postroom.mta.queue import NULL_SENDER, QueueAction, QueuedMail, QueueFilter

if TYPE_CHECKING:
    from postroom.mta.queue_postfix import PostfixQueue
    from postroom.mta.queue_qmail import QmailQueue

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ("id", "queue", "arrived", "size", "sender", "recipients", "reason")
SHOWN = 5
"""Mails that are named before something is done to more of them."""


@click.group()
def queue() -> None:
    """See what waits in the queue of Postfix or qmail, and act on it.

    \b
    Examples:
      postroom queue list --queue deferred --reason "connection refused"
      postroom queue show 4bWx1y2Fz9z1k
      postroom queue hold --sender '*@example.org'
      postroom queue delete --sender '<>' --older 2d --yes
      postroom queue list --mta qmail
    """


class MailServer(enum.StrEnum):
    """Whose queue it is."""

    POSTFIX = "postfix"
    QMAIL = "qmail"


QMAIL_ROOT = Path("/var/qmail")
_QUEUES = ("incoming", "active", "deferred", "hold", "maildrop", "todo", "waiting", "bouncing")
_QUEUE_HELP = f"In that queue: {', '.join(_QUEUES[:5])}; qmail's: {', '.join(_QUEUES[5:])}."


def _server_options(command: F) -> F:
    """Whose queue: collected in the parameters."""
    for option in (
        click.option("--qmail-root", type=click.Path(path_type=Path), help=f"qmail's directory. Default: {QMAIL_ROOT}"),
        click.option(
            "--mta",
            type=click.Choice([each.value for each in MailServer]),
            help="Default: postfix; qmail where only that is installed.",
        ),
    ):
        command = option(command)
    return instance_option(command)


def _age(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """The time that was so long ago."""
    try:
        return None if value is None else time.time() - parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _filters(command: F) -> F:
    for option in (
        click.option("--queue", type=click.Choice(_QUEUES), metavar="NAME", help=_QUEUE_HELP),
        click.option("--newer", metavar="AGE", callback=_age, help="Came within that time."),
        click.option("--older", metavar="AGE", callback=_age, help='Came longer ago than that, such as "2d".'),
        click.option("--reason", metavar="TEXT", help="Waits for a reason that has this text in it."),
        click.option("--recipient", metavar="PATTERN", help='For a recipient that matches, such as "*@example.org".'),
        click.option("--sender", metavar="PATTERN", help=f'From a sender that matches; "{NULL_SENDER}": the null one.'),
    ):
        command = option(command)
    return _server_options(json_option(command))


def _filter(given: dict[str, Any], ids: Sequence[str] = ()) -> QueueFilter:
    return QueueFilter(
        frozenset(ids), given["sender"], given["recipient"], given["reason"], given["queue"],
        arrived_before=given["older"], arrived_after=given["newer"],
    )  # fmt: skip


@queue.command("list")
@_filters
@click.pass_obj
def list_queue(environment: Environment, /, **given: Any) -> None:
    """What waits, as it is read: a long queue begins to show at once."""
    with closing(_open(given).mails()) as mails:
        environment.show(_COLUMNS, map(_row, _filter(given).choose(mails)))


def _row(mail: QueuedMail) -> tuple[Any, ...]:
    recipients = [each.address for each in mail.recipients]
    sender = mail.sender or NULL_SENDER
    return (mail.id, mail.queue, _when(mail.arrived), mail.size, sender, recipients, "; ".join(mail.reasons))


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


@queue.command()
@click.argument("id_", metavar="ID")
@click.option("--raw", is_flag=True, help="The mail alone, octet for octet, as it is in the queue.")
@_server_options
@json_option
@click.pass_obj
def show(environment: Environment, /, id_: str, raw: bool, **given: Any) -> None:
    """One mail: its envelope, why it waits, and its header."""
    waiting = _open(given)
    if raw:
        for chunk in waiting.show(id_, body=True):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    header = b"".join(waiting.show(id_, body=False)).decode("utf-8", "backslashreplace")
    with closing(waiting.mails()) as mails:
        mail = next((each for each in mails if each.id == id_), None)
    if mail is None:
        environment.fail(f"{id_} has left the queue, or is damaged: it is not listed")
    facts = {
        "id": mail.id, "queue": mail.queue, "arrived": _when(mail.arrived), "size": mail.size,
        "sender": mail.sender or NULL_SENDER,
    }  # fmt: skip
    if environment.as_json:
        recipients = [{"address": each.address, "reason": each.reason} for each in mail.recipients]
        show_json({**facts, "recipients": recipients, "header": header})
        return
    rows = [*facts.items(), *(("recipient", " ".join((each.address, each.reason))) for each in mail.recipients)]
    environment.show(("fact", "value"), rows)
    click.echo()
    for line in header.splitlines():
        click.echo(text_of(line.expandtabs()))


def _acting(command: F) -> F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing."),
        click.option("--yes", is_flag=True, help="Do it without asking."),
        click.option("--all", "everything", is_flag=True, help="Every mail in the queue."),
    ):
        command = option(command)
    return click.argument("ids", metavar="[ID]...", nargs=-1)(_filters(command))


def _act(environment: Environment, action: QueueAction, given: dict[str, Any]) -> None:
    """Find what is meant, say how much it is, ask, and do it."""
    ids, chosen = given["ids"], _filter(given, given["ids"])
    waiting = _open(given)
    waiting.check(action, chosen)
    if chosen.everything and not given["everything"]:
        raise click.UsageError("which mails: name them, choose with --sender, --older …, or say --all")
    if given["everything"] and not chosen.everything:
        raise click.UsageError("--all goes without anything else that chooses")
    found: list[QueuedMail] = []
    idle: list[QueuedMail] = []
    with closing(waiting.mails()) as mails:
        for mail in chosen.choose(mails):
            if _makes_sense(action, mail):
                found.append(mail)
            elif ids:
                idle.append(mail)
    missing = sorted(set(ids) - {mail.id for mail in (*found, *idle)})
    if missing:
        environment.fail(f"{', '.join(missing)}: not in the queue, or not chosen by the other options; nothing is done")
    if idle:
        named = ", ".join(f"{mail.id} (in {mail.queue})" for mail in idle)
        environment.fail(f"{named}: {action} changes nothing there; nothing is done")
    if environment.as_json:
        environment.show(_COLUMNS, map(_row, found))
    if not found:
        click.echo(f"nothing to {action}", err=True)
        return
    _announce(action, found)
    if given["dry_run"]:
        return
    waiting.ready(action)
    sure = given["yes"] or (bool(ids) and action is not QueueAction.DELETE)
    if not sure and not sys.stdin.isatty():
        environment.fail(f"nothing is done: add --yes to {action} them")
    if not sure and not click.confirm(f"{action} them?", err=True):
        environment.fail("nothing is done")
    if action is QueueAction.FLUSH and given["everything"]:
        waiting.flush_all()
        done = len(found)
    else:
        done = waiting.act(action, found)
    click.echo(f"{action}: {_count(done)}", err=environment.as_json)
    if done < len(found):
        environment.fail(f"{_count(len(found) - done)} had moved on meanwhile: look again")


def _makes_sense(action: QueueAction, mail: QueuedMail) -> bool:
    """Whether it makes a difference to that mail."""
    match action:
        case QueueAction.HOLD:
            return mail.queue not in ("hold", "maildrop")  # postsuper(1) holds nothing that pickup has yet to read
        case QueueAction.RELEASE:
            return mail.queue == "hold"
        case QueueAction.FLUSH:
            return mail.queue not in ("hold", "active", "maildrop")
        case QueueAction.REQUEUE:
            return mail.queue != "maildrop"  # it is where a requeued one goes
        case QueueAction.DELETE:
            return True
        case _:
            assert_never(action)


def _announce(action: QueueAction, found: Sequence[QueuedMail]) -> None:
    size = sum(mail.size for mail in found)
    recipients = sum(len(mail.recipients) for mail in found)
    shown = Size(size) if size < 1024 else Size(size >> 10 << 10)
    click.echo(f"{action}: {_count(len(found))}, {recipients} recipients, {shown} octets", err=True)
    for mail in found[:SHOWN]:
        first = mail.recipients[0].address if mail.recipients else "-"
        more = f" and {len(mail.recipients) - 1} more" if len(mail.recipients) > 1 else ""
        text = f"  {mail.id} ({mail.queue}) {_when(mail.arrived)} {mail.sender or NULL_SENDER} to {first}{more}"
        click.echo(text_of(text), err=True)
    if len(found) > SHOWN:
        click.echo(f"  … and {len(found) - SHOWN} more", err=True)


def _count(number: int) -> str:
    return "1 mail" if number == 1 else f"{number} mails"


def _command(action: QueueAction, text: str) -> None:
    @_acting
    @click.pass_obj
    def act(environment: Environment, /, **given: Any) -> None:
        _act(environment, action, given)

    queue.command(str(action), help=text)(act)


_ASKS = "Says how many that are first. Asks, unless they are named or --yes is given."
_command(QueueAction.FLUSH, f"Try to deliver mails now.\n\n{_ASKS}")
_command(QueueAction.HOLD, f"Keep mails in the queue, untried, until they are released.\n\n{_ASKS}")
_command(QueueAction.RELEASE, f"Let held mails go on. They pass no milter again.\n\n{_ASKS}")
_command(QueueAction.REQUEUE, f"Look up aliases and transports of mails again.\n\n{_ASKS}")
_command(QueueAction.DELETE, "Delete mails for ever; nobody is told.\n\nSays how many first, and asks unless --yes.")


def _open(given: dict[str, Any]) -> PostfixQueue | QmailQueue:
    directory, root = given["directory"], given["qmail_root"]
    match _server(given["mta"], directory, root):
        case MailServer.POSTFIX:
            from postroom.mta.postfix_tool import Postfix
            from postroom.mta.queue_postfix import PostfixQueue

            if root is not None:
                raise click.UsageError("--qmail-root goes with --mta qmail")
            return PostfixQueue(Postfix(directory))
        case MailServer.QMAIL:
            from postroom.mta.queue_qmail import QmailQueue

            if directory is not None:
                raise click.UsageError("--postfix-config goes with --mta postfix")
            if given.get("reason") is not None:
                raise click.UsageError("qmail's queue holds no reasons; its log does")
            return QmailQueue(root or QMAIL_ROOT)


def _has_postfix() -> bool:
    from postroom.mta.postfix_tool import PostfixFailed, find_tool

    try:
        return bool(find_tool("postqueue"))
    except PostfixFailed:
        return False


def _server(named: str | None, directory: Path | None, root: Path | None) -> MailServer:
    """The one that is named, else the one that is there; Postfix where both are."""
    if named is not None:
        return MailServer(named)
    if directory is None and (root is not None or ((QMAIL_ROOT / "queue").is_dir() and not _has_postfix())):
        return MailServer.QMAIL
    return MailServer.POSTFIX
