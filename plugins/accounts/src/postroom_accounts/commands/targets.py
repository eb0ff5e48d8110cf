"""`postroom accounts alias|forward|resolve`: where mail for an address goes."""

from __future__ import annotations

import click
from postroom.hookspecs import CommandEnvironment
from postroom.mail import Address

from postroom_accounts.commands.opening import json_option, opened_accounts
from postroom_accounts.directory import open_directory
from postroom_accounts.records import InvalidAccount, check_address


def _target_group(name: str, *, alias: bool, help: str) -> click.Group:
    """`alias` and `forward` have the same commands over the same table."""
    group = click.Group(name, help=help)
    what = "an alias" if alias else "a mailbox that forwards"

    everybody = " The address `@domain` stands for everybody else there." if alias else ""

    @group.command("add", help=f"Add targets to {what}.{everybody}")
    @click.argument("address")
    @click.argument("targets", nargs=-1, required=True)
    @click.pass_obj
    def add(environment: CommandEnvironment, address: str, targets: tuple[str, ...]) -> None:
        with opened_accounts(environment, create=alias) as opened:
            click.echo(f"{address} leads to {', '.join(opened.targets.add(address, targets, alias=alias))}")

    @group.command("set", help=f"Replace the targets of {what}.")
    @click.argument("address")
    @click.argument("targets", nargs=-1, required=True)
    @click.pass_obj
    def set_(environment: CommandEnvironment, address: str, targets: tuple[str, ...]) -> None:
        with opened_accounts(environment) as opened:
            click.echo(f"{address} leads to {', '.join(opened.targets.set(address, targets, alias=alias))}")

    @group.command("remove", help=f"Take targets away from {what}; without TARGETS all of them.")
    @click.argument("address")
    @click.argument("targets", nargs=-1)
    @click.pass_obj
    def remove(environment: CommandEnvironment, address: str, targets: tuple[str, ...]) -> None:
        with opened_accounts(environment) as opened:
            opened.targets.remove(address, targets, alias=alias)
            click.echo(f"{address} leads no more to {', '.join(targets) or 'anybody else'}")

    @group.command("list", help="All of them.")
    @click.option("--domain", metavar="DOMAIN", help="Those of one domain.")
    @json_option
    @click.pass_obj
    def list_(environment: CommandEnvironment, domain: str | None) -> None:
        with opened_accounts(environment) as opened:
            found = opened.targets.all(alias=alias, domain=domain)
        environment.show((name, "targets"), found.items(), title=name.capitalize())

    @group.command("show", help="Its targets, and where its mail ends up in the end.")
    @click.argument("address")
    @json_option
    @click.pass_obj
    def show(environment: CommandEnvironment, address: str) -> None:
        with opened_accounts(environment) as opened:
            targets = opened.targets.of(address, alias=alias)
        directory = open_directory(environment.config)
        wanted = Address(f"nobody{address}") if address.startswith("@") else Address(address)
        ends = [each.text for each in directory.expand(wanted)]
        directory.close()
        environment.show((name, "targets", "ends at"), [(address, targets, ends)])

    return group


_EXAMPLE = "\n\n\b\nExample:\n  postroom accounts {}"
alias_group = _target_group(
    "alias",
    alias=True,
    help=f"Addresses that stand for others.{_EXAMPLE.format('alias add sales@example.org bob@example.org')}",
)
forward_group = _target_group(
    "forward",
    alias=False,
    help=f"Mailboxes whose mail goes on to others.{_EXAMPLE.format('forward add bob@example.org bob@example.net')}",
)


@click.command("resolve")
@click.argument("address")
@json_option
@click.pass_obj
def resolve(environment: CommandEnvironment, address: str) -> None:
    """Where mail for an address ends up, and whether it is taken. Exit status 1 when there is nobody."""
    directory = open_directory(environment.config)
    try:
        given = Address(check_address(address))
        rows = []
        for each in directory.expand(given):
            mailbox = directory.mailbox(each)
            here = bool(directory.is_local(each))
            what = (
                ((mailbox.next_hop or mailbox.maildir) if mailbox.enabled else "disabled")
                if mailbox
                else "nobody"
                if here
                else "elsewhere"
            )
            rows.append((each.text, here, what))
    except InvalidAccount as error:
        environment.fail(str(error), error.exit_status)
    finally:
        directory.close()
    environment.show(("address", "ours", "where"), rows)
    if all(row[2] in ("nobody", "disabled") for row in rows):
        environment.fail(f"nobody gets mail for {address}")
