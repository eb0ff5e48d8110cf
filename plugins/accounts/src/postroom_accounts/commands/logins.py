"""`postroom accounts password|auth`: who may log in."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from postroom.hookspecs import CommandEnvironment

from postroom_accounts.commands.opening import json_option, opened_accounts
from postroom_accounts.passwords import CRYPT_SCHEME, SCRAM_SCHEME, crypt, scram
from postroom_accounts.transfer import passwd_file, write_private

MAX_PASSWORD_INPUT = 8192


@click.command()
@click.argument("address")
@click.option("--stdin", is_flag=True, help="Read the password from standard input, its first line.")
@click.option("--remove", is_flag=True, help="Take the password away: nobody can log in.")
@click.option("--disable", "lock", flag_value="disable", help="Keep the password, and let nobody log in.")
@click.option("--enable", "lock", flag_value="enable", help="Let its owner log in again.")
@click.pass_obj
def password(environment: CommandEnvironment, address: str, stdin: bool, remove: bool, lock: str | None) -> None:
    """Set a mailbox's password. It is asked for twice, or read from standard input; it is never an argument.

    Only hashes are kept (Argon2id, and SCRAM-SHA-256), and no command shows them.
    """
    if (stdin, remove, lock is not None).count(True) > 1:
        raise click.UsageError("--stdin, --remove, --disable and --enable exclude each other: give one of them")
    with opened_accounts(environment) as opened:
        mailbox = opened.mailboxes.get(address)
        if remove:
            opened.logins.remove(mailbox.address)
            click.echo(f"{mailbox.address} has no password any more")
        elif lock is not None:
            opened.logins.set(mailbox.address, enabled=lock == "enable")
            click.echo(f"{mailbox.address} {'may' if lock == 'enable' else 'may not'} log in")
        else:
            secret = _read_password(stdin)
            opened.logins.put(mailbox.address, crypt(secret), scram(secret))
            click.echo(f"the password of {mailbox.address} is set")


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        line = sys.stdin.readline(MAX_PASSWORD_INPUT)
        return line.rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at: use --stdin")
    secret: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return secret


@click.group()
def auth() -> None:
    """Who may log in.

    \b
    Examples:
      postroom accounts auth view bob@example.org
      postroom accounts auth passwd-file /etc/dovecot/postroom.passwd
    """


@auth.command("view")
@click.argument("addresses", nargs=-1)
@json_option
@click.pass_obj
def view(environment: CommandEnvironment, addresses: tuple[str, ...]) -> None:
    """Who may log in, how, and since when. Never a password, never a hash."""
    with opened_accounts(environment) as opened:
        found = [opened.logins.get(address) for address in addresses] if addresses else opened.logins.all()
    rows = ((each.address, each.enabled, each.methods, _time(each.changed)) for each in found)
    environment.show(("mailbox", "may log in", "methods", "password since"), rows, title="Logins")


@auth.command("passwd-file")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--scheme",
    type=click.Choice(["argon2id", "scram-sha-256"]),
    default="argon2id",
    show_default=True,
    help="Which of the two hashes of each password.",
)
@click.pass_obj
def write_passwd_file(environment: CommandEnvironment, path: Path, scheme: str) -> None:
    """Write a passwd-file for Dovecot, with the hashes, readable by its owner alone.

    scram-sha-256 serves SCRAM and passwords sent as they are; argon2id the latter only, and is harder to guess.
    """
    wanted = SCRAM_SCHEME if scheme == "scram-sha-256" else CRYPT_SCHEME
    with opened_accounts(environment) as opened:
        text = passwd_file(opened, wanted)
    write_private(path, text)
    click.echo(f"{path}: {text.count(chr(10))} logins")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
