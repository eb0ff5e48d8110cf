"""`postroom accounts list|transport|sender-transport|blacklist`: addresses that another program serves or reads."""

from __future__ import annotations

import click
from postroom.hookspecs import CommandEnvironment

from postroom_accounts.commands.opening import json_option, opened_accounts
from postroom_accounts.records import Route

_AFTERWARDS = "Postfix learns of it by `postroom restore`."


@click.group("list")
def list_group() -> None:
    """Mailing lists: addresses whose mail goes to a list manager after before-local.

    \b
    Examples:
      postroom accounts list add talk@example.org --to lmtp:inet:127.0.0.1:8024
      postroom accounts list add @lists.example.org --to command
    """


@list_group.command("add")
@click.argument("address")
@click.option("--to", required=True, metavar="NEXT-HOP", help="lmtp:SOCKET, or command: [delivery] list_command.")
@click.pass_obj
def add_list(environment: CommandEnvironment, address: str, to: str) -> None:
    """Send a list's mail to its manager, with that for its command addresses (ADDRESS-request, -bounces …).

    `@domain` stands for everybody in the domain who is nobody else. One that is there is led elsewhere.
    """
    with opened_accounts(environment, create=True) as opened:
        address, to = opened.lists.put(address, to)
        click.echo(f"list {address} goes to {to}")


@list_group.command("remove")
@click.argument("address")
@click.pass_obj
def remove_list(environment: CommandEnvironment, address: str) -> None:
    """Take no more mail for a list. Its manager is not told."""
    with opened_accounts(environment) as opened:
        click.echo(f"list {opened.lists.remove(address)} is removed")


@list_group.command("list")
@json_option
@click.pass_obj
def list_lists(environment: CommandEnvironment) -> None:
    """All lists."""
    with opened_accounts(environment) as opened:
        found = opened.lists.all()
    environment.show(("list", "to"), found.items(), title="Lists")


def route_group(route: Route, what: str, name: str, value: str, example: str) -> click.Group:
    """The same commands over each of Postfix' tables."""
    group = click.Group(route.value, help=f"{what}\n\n\b\nExample:\n  postroom accounts {route} add {example}")

    @group.command("add", help=f"Add one, or change what it says. {_AFTERWARDS}")
    @click.argument("name", metavar=name)
    @click.argument("value", metavar=value)
    @click.pass_obj
    def add(environment: CommandEnvironment, name: str, value: str) -> None:
        with opened_accounts(environment, create=True) as opened:
            click.echo(f"{route} of {opened.routes.put(route, name, value)} is {value}")

    @group.command("remove", help=f"Take one away. {_AFTERWARDS}")
    @click.argument("name", metavar=name)
    @click.pass_obj
    def remove(environment: CommandEnvironment, name: str) -> None:
        with opened_accounts(environment) as opened:
            click.echo(f"{route} of {opened.routes.remove(route, name)} is removed")

    @group.command("list", help="All of them.")
    @json_option
    @click.pass_obj
    def list_(environment: CommandEnvironment) -> None:
        with opened_accounts(environment) as opened:
            found = opened.routes.of(route)
        environment.show(("name", "value"), found.items(), title=route.value.capitalize())

    return group


GROUPS = (
    list_group,
    route_group(
        Route.TRANSPORT,
        "Transports of Postfix by the recipient's domain or address.",
        "DOMAIN",
        "TRANSPORT",
        "partner.example smtp:[10.0.0.5]:25",
    ),
    route_group(
        Route.SENDER_TRANSPORT,
        "Transports of Postfix by the sender's domain or address, where the recipient has none.",
        "SENDER",
        "TRANSPORT",
        "example.org smtp:[relay.example.org]:587",
    ),
    route_group(
        Route.BLACKLIST,
        "Senders whom Postfix does not take mail from, by domain or address.",
        "SENDER",
        "ACTION",
        '@spam.example "REJECT no mail from you"',
    ),
)
