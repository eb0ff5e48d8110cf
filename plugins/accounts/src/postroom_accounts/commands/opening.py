"""What every command of `postroom accounts` begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from postroom.hookspecs import CommandEnvironment

from postroom_accounts.records import AccountExists, InvalidAccount, NoSuchAccount
from postroom_accounts.store.accounts import Accounts

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def opened_accounts(environment: CommandEnvironment, *, create: bool = False) -> Iterator[Accounts]:
    """The directory; what is wrong with a request ends the command in one line."""
    try:
        with Accounts.open(environment.config, create=create) as accounts:
            yield accounts
    except (InvalidAccount, NoSuchAccount, AccountExists) as error:
        environment.fail(str(error), error.exit_status)
    if create and environment.config.directory.provider != "accounts":
        click.echo('note: mail does not ask accounts yet: set [directory] provider = "accounts"', err=True)


def json_option(command: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )(command)
