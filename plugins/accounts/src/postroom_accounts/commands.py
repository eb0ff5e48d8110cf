"""`postroom accounts …`"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from postroom.config import Size, parse_size
from postroom.hookspecs import CommandEnvironment
from postroom.mail import Address

from postroom_accounts.directory import open_directory
from postroom_accounts.opening import json_option, opened_accounts
from postroom_accounts.passwords import CRYPT_SCHEME, SCRAM_SCHEME, crypt, scram
from postroom_accounts.records import Account, Domain, InvalidAccount, check_address
from postroom_accounts.routes import GROUPS
from postroom_accounts.transfer import export, import_, passwd_file, write_private

F = TypeVar("F", bound=Callable[..., Any])

MAX_PASSWORD_INPUT = 8192
MAX_FILE = 256 << 20


class _Limit(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3
    """A size; `none` is no limit, `domain` what the domain says."""

    name = "SIZE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value in ("none", "0"):
            return 0
        if value == "domain":
            return "domain"
        try:
            return int(parse_size(value))
        except ValueError as error:
            self.fail(f"{error}, 'none' or 'domain'", parameter, context)


def _limits(command: F) -> F:
    command = click.option("--message-limit", type=_Limit(), help="Largest mail that is taken.")(command)
    return click.option("--quota", type=_Limit(), help="How much mail it may hold: 500M, 2G, none.")(command)


def _enabled(command: F) -> F:
    return click.option("--enabled/--disabled", default=None, help="Whether it takes mail.")(command)


def _given(**options: Any) -> dict[str, Any]:
    """The options that somebody gave, as fields."""
    values = {name: value for name, value in options.items() if value is not None}
    for name in ("quota", "message_limit"):
        if values.get(name) == "domain":
            values[name] = None
    return values


def _shown(octets: int | None, inherited: bool = True) -> str:
    if octets is None:
        return "as the domain" if inherited else "none"
    return str(Size(octets)) if octets else "none"


@click.group("accounts")
def accounts() -> None:
    """Domains, mailboxes, aliases, forwards, limits and passwords of this host's users.

    \b
    Examples:
      postroom accounts domain add example.org --quota 2G
      postroom accounts mailbox add bob@example.org
      postroom accounts password bob@example.org
      postroom accounts alias add info@example.org bob@example.org ann@example.org
    """


@accounts.group("domain")
def domain_group() -> None:
    """Domains whose mail is ours."""


@domain_group.command("add")
@click.argument("name")
@_limits
@_enabled
@click.pass_obj
def add_domain(environment: CommandEnvironment, /, name: str, **options: Any) -> None:
    """Take mail for a domain. Its limits hold for mailboxes that have none of their own."""
    with opened_accounts(environment, create=True) as opened:
        made = opened.add_domain(Domain(name, **_given(**options)))
        click.echo(f"domain {made.name} is added")


@domain_group.command("set")
@click.argument("name")
@_limits
@_enabled
@click.pass_obj
def set_domain(environment: CommandEnvironment, /, name: str, **options: Any) -> None:
    """Change a domain, from the next mail on."""
    values = _something(_given(**options))
    with opened_accounts(environment) as opened:
        click.echo(f"domain {opened.set_domain(name, **values).name} is changed")


@domain_group.command("remove")
@click.argument("name")
@click.option("--everything", is_flag=True, help="With all its mailboxes, aliases and passwords.")
@click.pass_obj
def remove_domain(environment: CommandEnvironment, name: str, everything: bool) -> None:
    """Take no more mail for a domain. Maildirs stay on the disk."""
    with opened_accounts(environment) as opened:
        opened.remove_domain(name, everything=everything)
        click.echo(f"domain {name} is removed")


@domain_group.command("list")
@json_option
@click.pass_obj
def list_domains(environment: CommandEnvironment) -> None:
    """All domains."""
    with opened_accounts(environment) as opened:
        found = opened.domains()
    rows = ((each.name, each.enabled, _shown(each.quota, False), _shown(each.message_limit, False)) for each in found)
    environment.show(("domain", "enabled", "quota", "message limit"), rows, title="Domains")


@domain_group.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show_domain(environment: CommandEnvironment, name: str) -> None:
    """One domain, and how much is in it."""
    with opened_accounts(environment) as opened:
        found = opened.domain(name)
        boxes = len(opened.mailboxes(found.name))
        aliases = len(opened.targets(alias=True, domain=found.name))
    columns = ("domain", "enabled", "quota", "message limit", "mailboxes", "aliases")
    row = (found.name, found.enabled, _shown(found.quota, False), _shown(found.message_limit, False), boxes, aliases)
    environment.show(columns, [row])


@accounts.group("mailbox")
def mailbox_group() -> None:
    """Mailboxes: who gets mail here, where, how much, in which language."""


def _mailbox_options(command: F) -> F:
    command = click.option(
        "--language", "languages", multiple=True, help="The owner's: en, de, pt-BR; may be repeated."
    )(command)
    return click.option("--maildir", metavar="PATH", help="Its Maildir; empty: the place of [delivery] root.")(command)


@mailbox_group.command("add")
@click.argument("address")
@_limits
@_mailbox_options
@_enabled
@click.pass_obj
def add_mailbox(environment: CommandEnvironment, /, address: str, languages: tuple[str, ...], **options: Any) -> None:
    """Add a mailbox. Nobody can log in to it before it has a password."""
    with opened_accounts(environment, create=True) as opened:
        made = opened.add_mailbox(Account(address, languages=languages, **_given(**options)))
        click.echo(f"mailbox {made.address} is added; set a password with: postroom accounts password {made.address}")


@mailbox_group.command("set")
@click.argument("address")
@_limits
@_mailbox_options
@_enabled
@click.option("--keep-copy/--no-keep-copy", default=None, help="Whether mail that is forwarded stays here, too.")
@click.pass_obj
def set_mailbox(environment: CommandEnvironment, /, address: str, languages: tuple[str, ...], **options: Any) -> None:
    """Change a mailbox, from the next mail on."""
    values = _something(_given(**options) | ({"languages": languages} if languages else {}))
    with opened_accounts(environment) as opened:
        click.echo(f"mailbox {opened.set_mailbox(address, **values).address} is changed")


@mailbox_group.command("remove")
@click.argument("address")
@click.pass_obj
def remove_mailbox(environment: CommandEnvironment, address: str) -> None:
    """Take a mailbox away, with its forwards and its password. Its Maildir stays on the disk."""
    with opened_accounts(environment) as opened:
        opened.remove_mailbox(address)
        click.echo(f"mailbox {address} is removed")


@mailbox_group.command("list")
@click.option("--domain", metavar="DOMAIN", help="Those of one domain.")
@json_option
@click.pass_obj
def list_mailboxes(environment: CommandEnvironment, domain: str | None) -> None:
    """All mailboxes."""
    with opened_accounts(environment) as opened:
        found = opened.mailboxes(domain)
        may = {login.address for login in opened.logins() if login.enabled}
    rows = (
        (
            each.address,
            each.enabled,
            each.address in may,
            _shown(each.quota),
            _shown(each.message_limit),
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
        found = opened.mailbox(address)
        domain = opened.domain(found.address.rpartition("@")[2])
        forwards = opened.targets(alias=False).get(found.address, ())
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
            click.echo(f"{address} leads to {', '.join(opened.add_targets(address, targets, alias=alias))}")

    @group.command("set", help=f"Replace the targets of {what}.")
    @click.argument("address")
    @click.argument("targets", nargs=-1, required=True)
    @click.pass_obj
    def set_(environment: CommandEnvironment, address: str, targets: tuple[str, ...]) -> None:
        with opened_accounts(environment) as opened:
            click.echo(f"{address} leads to {', '.join(opened.set_targets(address, targets, alias=alias))}")

    @group.command("remove", help=f"Take targets away from {what}; without TARGETS all of them.")
    @click.argument("address")
    @click.argument("targets", nargs=-1)
    @click.pass_obj
    def remove(environment: CommandEnvironment, address: str, targets: tuple[str, ...]) -> None:
        with opened_accounts(environment) as opened:
            opened.remove_targets(address, targets, alias=alias)
            click.echo(f"{address} leads no more to {', '.join(targets) or 'anybody else'}")

    @group.command("list", help="All of them.")
    @click.option("--domain", metavar="DOMAIN", help="Those of one domain.")
    @json_option
    @click.pass_obj
    def list_(environment: CommandEnvironment, domain: str | None) -> None:
        with opened_accounts(environment) as opened:
            found = opened.targets(alias=alias, domain=domain)
        environment.show((name, "targets"), found.items(), title=name.capitalize())

    @group.command("show", help="Its targets, and where its mail ends up in the end.")
    @click.argument("address")
    @json_option
    @click.pass_obj
    def show(environment: CommandEnvironment, address: str) -> None:
        with opened_accounts(environment) as opened:
            targets = opened.targets_of(address, alias=alias)
        directory = open_directory(environment.config)
        wanted = Address(f"nobody{address}") if address.startswith("@") else Address(address)
        ends = [each.text for each in directory.expand(wanted)]
        directory.close()
        environment.show((name, "targets", "ends at"), [(address, targets, ends)])

    return group


accounts.add_command(_target_group("alias", alias=True, help="Addresses that stand for others."))
accounts.add_command(_target_group("forward", alias=False, help="Mailboxes whose mail goes on to others."))
for _group in GROUPS:
    accounts.add_command(_group)


@accounts.command()
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
        mailbox = opened.mailbox(address)
        if remove:
            opened.remove_password(mailbox.address)
            click.echo(f"{mailbox.address} has no password any more")
        elif lock is not None:
            opened.set_login(mailbox.address, enabled=lock == "enable")
            click.echo(f"{mailbox.address} {'may' if lock == 'enable' else 'may not'} log in")
        else:
            secret = _read_password(stdin)
            opened.set_password(mailbox.address, crypt(secret), scram(secret))
            click.echo(f"the password of {mailbox.address} is set")


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        line = sys.stdin.readline(MAX_PASSWORD_INPUT)
        return line.rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at: use --stdin")
    secret: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return secret


@accounts.group()
def auth() -> None:
    """Who may log in."""


@auth.command("view")
@click.argument("addresses", nargs=-1)
@json_option
@click.pass_obj
def view(environment: CommandEnvironment, addresses: tuple[str, ...]) -> None:
    """Who may log in, how, and since when. Never a password, never a hash."""
    with opened_accounts(environment) as opened:
        found = [opened.login(address) for address in addresses] if addresses else opened.logins()
    rows = ((each.address, each.enabled, each.methods, _time(each.changed)) for each in found)
    environment.show(("mailbox", "may log in", "methods", "password since"), rows, title="Logins")


@auth.command("passwd-file")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--scheme", type=click.Choice(["argon2id", "scram-sha-256"]), default="argon2id", show_default=True)
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


@accounts.command("export")
@click.option("--with-hashes", is_flag=True, help="With password hashes: whoever reads the file can try passwords.")
@click.option("--output", type=click.Path(path_type=Path), help="A file, readable by its owner alone; default: print.")
@click.pass_obj
def export_(environment: CommandEnvironment, with_hashes: bool, output: Path | None) -> None:
    """Everything as one TOML file, for a backup or another host."""
    if with_hashes and output is None:
        raise click.UsageError("--with-hashes needs --output FILE: hashes are not printed")
    with opened_accounts(environment) as opened:
        text = export(opened, with_hashes=with_hashes)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_private(output, text)
        click.echo(f"{output}: written")


@accounts.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.pass_obj
def import_command(environment: CommandEnvironment, file: Any) -> None:
    """Add or change what a TOML file names, all of it or nothing; `-` reads standard input."""
    name = getattr(file, "name", "standard input")
    try:
        text = file.read(MAX_FILE)
    except UnicodeDecodeError:
        environment.fail(f"{name}: not UTF-8; save it as UTF-8 text", 2)
    with opened_accounts(environment, create=True) as opened:
        try:
            counts = import_(opened, text)
        except InvalidAccount as error:
            raise InvalidAccount(f"{name}: {error}") from None
    click.echo(", ".join(f"{name}: {count}" for name, count in counts.items()))


@accounts.command("resolve")
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


def _something(values: dict[str, Any]) -> dict[str, Any]:
    if not values:
        raise click.UsageError("nothing to change: give at least one option")
    return values


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
