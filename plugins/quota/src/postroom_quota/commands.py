"""`postroom quota …`"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from postroom.config import Duration, Size
from postroom.hookspecs import CommandEnvironment, Mailbox, Services
from postroom.mail import Address, Envelope

from postroom_quota.backends import open_store
from postroom_quota.dovecot import SourceFailed
from postroom_quota.ledger import total_of
from postroom_quota.maildir import Counter, Stopped, count
from postroom_quota.maildirsize import definition_of
from postroom_quota.measure import Measure, limit_of
from postroom_quota.settings import QuotaSettings, Source
from postroom_quota.warning import readable

F = TypeVar("F", bound=Callable[..., Any])

HANDLER = "check-quota"
PATIENCE = 60.0
"""Seconds that a command waits for one mailbox."""


def _json(command: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )(command)


@click.group("quota")
def quota() -> None:
    """How full mailboxes are, and counting them anew.

    \b
    Examples:
      postroom quota show
      postroom quota show bob@example.org --json
      postroom quota recount bob@example.org
    """


@quota.command()
@click.argument("addresses", nargs=-1)
@click.option("--over", type=click.IntRange(0, 1000), metavar="PERCENT", help="Only those at least that full.")
@_json
@click.pass_obj
def show(environment: CommandEnvironment, addresses: tuple[str, ...], over: int | None) -> None:
    """Usage, limit, and what is on its way; without ADDRESSES of all mailboxes."""
    services, settings = environment.services(HANDLER), environment.settings(HANDLER)
    rows = _rows(environment, services, settings, _chosen(environment, services, addresses))
    if over is not None:
        rows = (row for row in rows if row[3] is not None and row[3] >= over)
    columns = ("mailbox", "used", "limit", "percent", "on its way", "state")
    if not environment.as_json:
        rows = ((row[0], _text(row[1]), _text(row[2]), *row[3:]) for row in rows)
    environment.show(columns, rows, title="Mailboxes")


@quota.command()
@click.argument("addresses", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every mailbox of this host.")
@click.pass_obj
def recount(environment: CommandEnvironment, addresses: tuple[str, ...], everything: bool) -> None:
    """Count Maildirs anew, write their maildirsize, and forget what was on its way."""
    if bool(addresses) == everything:
        raise click.UsageError("name mailboxes, or give --all")
    services, settings = environment.services(HANDLER), environment.settings(HANDLER)
    store = open_store(services.state)
    failed = 0
    for mailbox in _chosen(environment, services, addresses):
        if not mailbox.maildir:
            click.echo(f"{mailbox.address}: its Maildir is not known", err=True)
            failed += 1
            continue
        definition = definition_of(limit_of(mailbox, settings))
        try:
            usage = count(Path(mailbox.maildir), trash=settings.trash, definition=definition)
        except (OSError, Stopped) as error:
            words = error.strerror if isinstance(error, OSError) else "stopped"
            click.echo(f"{mailbox.address}: {mailbox.maildir}: {words}", err=True)
            failed += 1
            continue
        store.forget(mailbox.address.key)
        there = Path(mailbox.maildir).is_dir()
        kept = "" if usage.recorded else " (maildirsize could not be written)" if there else " (it has no Maildir yet)"
        click.echo(f"{mailbox.address}: {readable(usage.octets)} in {usage.messages} mails{kept}")
    if failed:
        environment.fail(f"{failed} mailboxes could not be counted")


def _chosen(environment: CommandEnvironment, services: Services, addresses: tuple[str, ...]) -> Iterator[Mailbox]:
    if not addresses:
        yield from services.directory.mailboxes()
        return
    for text in addresses:
        mailbox = services.directory.mailbox(Address(text))
        if mailbox is None:
            environment.fail(f"there is no mailbox {text}")
        else:
            yield mailbox


def _rows(
    environment: CommandEnvironment, services: Services, settings: QuotaSettings, mailboxes: Iterator[Mailbox]
) -> Iterator[tuple[Any, ...]]:
    store, counter = open_store(services.state), Counter()
    settings = replace(settings, count_time=Duration(PATIENCE))
    now = round(services.clock.now() * 1000)
    if settings.source is Source.POLICY:
        environment.fail('a policy server says only yes or no: ask Dovecot with doveadm, or set source = "doveadm"')
    for mailbox in mailboxes:
        measure = Measure(Envelope(), settings, counter, PATIENCE, services.log)
        try:
            found = measure.measure(_with_limit(mailbox), 0, 0.0)
        except (SourceFailed, OSError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            yield (mailbox.address.text, None, mailbox.quota, None, 0, words)
            continue
        limit = found.limit if settings.source is Source.DOVEADM else limit_of(mailbox, settings)
        used = found.used
        coming = total_of(store.ledger(found.key), used, now) - used if used is not None else 0
        percent = used * 100 // limit if used is not None and limit else None
        state = "unknown" if used is None else "full" if limit and used + coming >= limit else "ok"
        yield (mailbox.address.text, used, limit, percent, coming, state)
    counter.close()


def _with_limit(mailbox: Mailbox) -> Mailbox:
    """So that a mailbox without a limit is counted, too."""
    return replace(mailbox, quota=mailbox.quota if mailbox.quota and mailbox.quota > 0 else 1 << 62)


def _text(octets: int | None) -> str | None:
    return None if octets is None else str(Size(octets)) if octets % 1024 == 0 and octets else readable(octets)
