"""`postroom accounts mailbox`"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from postroom.config import Size
from postroom.hookspecs import CommandEnvironment

from postroom_accounts.commands.opening import json_option, opened_accounts
from postroom_accounts.commands.options import enabled, given, limits, shown, something
from postroom_accounts.directory import open_directory
from postroom_accounts.records import Account

F = TypeVar("F", bound=Callable[..., Any])


@click.group("mailbox")
def mailbox_group() -> None:
    """Mailboxes: who gets mail here, where, how much, in which language.

    \b
    Examples:
      postroom accounts mailbox add bob@example.org --quota 500M
      postroom accounts mailbox show bob@example.org
    """


def _mailbox_options(command: F) -> F:
    command = click.option(
        "--language", "languages", multiple=True, help="The owner's: en, de, pt-BR; may be repeated."
    )(command)
    return click.option("--maildir", metavar="PATH", help="Its Maildir; empty: the place of [delivery] root.")(command)


@mailbox_group.command("add")
@click.argument("address")
@limits
@_mailbox_options
@enabled
@click.pass_obj
def add_mailbox(environment: CommandEnvironment, /, address: str, languages: tuple[str, ...], **options: Any) -> None:
    """Add a mailbox. Nobody can log in to it before it has a password."""
    with opened_accounts(environment, create=True) as opened:
        made = opened.mailboxes.add(Account(address, languages=languages, **given(**options)))
        click.echo(f"mailbox {made.address} is added; set a password with: postroom accounts password {made.address}")


@mailbox_group.command("set")
@click.argument("address")
@limits
@_mailbox_options
@enabled
@click.option("--keep-copy/--no-keep-copy", default=None, help="Whether mail that is forwarded stays here, too.")
@click.pass_obj
def set_mailbox(environment: CommandEnvironment, /, address: str, languages: tuple[str, ...], **options: Any) -> None:
    """Change a mailbox, from the next mail on."""
    values = something(given(**options) | ({"languages": languages} if languages else {}))
    with opened_accounts(environment) as opened:
        click.echo(f"mailbox {opened.mailboxes.set(address, **values).address} is changed")


@mailbox_group.command("remove")
@click.argument("address")
@click.pass_obj
def remove_mailbox(environment: CommandEnvironment, address: str) -> None:
    """Take a mailbox away, with its forwards and its password. Its Maildir stays on the disk."""
    with opened_accounts(environment) as opened:
        opened.mailboxes.remove(address)
        click.echo(f"mailbox {address} is removed")


@mailbox_group.command("list")
@click.option("--domain", metavar="DOMAIN", help="Those of one domain.")
@json_option
@click.pass_obj
def list_mailboxes(environment: CommandEnvironment, domain: str | None) -> None:
    """All mailboxes."""
    with opened_accounts(environment) as opened:
        found = opened.mailboxes.all(domain)
        may = {login.address for login in opened.logins.all() if login.enabled}
    rows = (
        (
            each.address,
            each.enabled,
            each.address in may,
            shown(each.quota),
            shown(each.message_limit),
            each.languages,
        )
        for each in found
    )
    columns = ("mailbox", "enabled", "login", "quota", "message limit", "languages")
    environment.show(columns, rows, title="Mailboxes")


@mailbox_group.command("show")
@click.argument("address")
@json_option
@click.pass_obj
def show_mailbox(environment: CommandEnvironment, address: str) -> None:
    """One mailbox, with what its domain adds."""
    with opened_accounts(environment) as opened:
        found = opened.mailboxes.get(address)
        domain = opened.domains.get(found.address.rpartition("@")[2])
        forwards = opened.targets.of_mailbox(found.address)
    directory = open_directory(environment.config)
    mailbox = directory.mailbox_of(found, domain)
    directory.close()
    rows = [
        ("address", found.address),
        ("enabled", mailbox.enabled),
        ("maildir", mailbox.maildir),
        ("quota", str(Size(mailbox.quota)) if mailbox.quota else "none"),
        ("message limit", str(Size(mailbox.message_limit)) if mailbox.message_limit else "none"),
        ("languages", found.languages),
        ("forwards to", forwards),
        ("keeps a copy", found.keep_copy),
    ]
    environment.show(("setting", "value"), rows, title=found.address)
