"""`postroom accounts domain`"""

from __future__ import annotations

from typing import Any

import click
from postroom.hookspecs import CommandEnvironment

from postroom_accounts.commands.opening import json_option, opened_accounts
from postroom_accounts.commands.options import enabled, given, limits, shown, something
from postroom_accounts.records import Domain


@click.group("domain")
def domain_group() -> None:
    """Domains whose mail is ours.

    \b
    Examples:
      postroom accounts domain add example.org --quota 2G
      postroom accounts domain list
    """


@domain_group.command("add")
@click.argument("name")
@limits
@enabled
@click.pass_obj
def add_domain(environment: CommandEnvironment, /, name: str, **options: Any) -> None:
    """Take mail for a domain. Its limits hold for mailboxes that have none of their own."""
    with opened_accounts(environment, create=True) as opened:
        made = opened.domains.add(Domain(name, **given(**options)))
        click.echo(f"domain {made.name} is added")


@domain_group.command("set")
@click.argument("name")
@limits
@enabled
@click.pass_obj
def set_domain(environment: CommandEnvironment, /, name: str, **options: Any) -> None:
    """Change a domain, from the next mail on."""
    values = something(given(**options))
    with opened_accounts(environment) as opened:
        click.echo(f"domain {opened.domains.set(name, **values).name} is changed")


@domain_group.command("remove")
@click.argument("name")
@click.option("--everything", is_flag=True, help="With all its mailboxes, aliases and passwords.")
@click.pass_obj
def remove_domain(environment: CommandEnvironment, name: str, everything: bool) -> None:
    """Take no more mail for a domain. Maildirs stay on the disk."""
    with opened_accounts(environment) as opened:
        opened.domains.remove(name, everything=everything)
        click.echo(f"domain {name} is removed")


@domain_group.command("list")
@json_option
@click.pass_obj
def list_domains(environment: CommandEnvironment) -> None:
    """All domains."""
    with opened_accounts(environment) as opened:
        found = opened.domains.all()
    rows = ((each.name, each.enabled, shown(each.quota, False), shown(each.message_limit, False)) for each in found)
    environment.show(("domain", "enabled", "quota", "message limit"), rows, title="Domains")


@domain_group.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show_domain(environment: CommandEnvironment, name: str) -> None:
    """One domain, and how much is in it."""
    with opened_accounts(environment) as opened:
        found = opened.domains.get(name)
        boxes = len(opened.mailboxes.all(found.name))
        aliases = len(opened.targets.all(alias=True, domain=found.name))
    columns = ("domain", "enabled", "quota", "message limit", "mailboxes", "aliases")
    row = (found.name, found.enabled, shown(found.quota, False), shown(found.message_limit, False), boxes, aliases)
    environment.show(columns, [row])
