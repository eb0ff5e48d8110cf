"""`postroom accounts export|import`: everything as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from postroom.hookspecs import CommandEnvironment

from postroom_accounts.commands.opening import opened_accounts
from postroom_accounts.records import InvalidAccount
from postroom_accounts.transfer import export, import_, write_private

MAX_FILE = 256 << 20


@click.command("export")
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
        try:
            write_private(output, text)
        except OSError as error:
            environment.fail(f"{output}: cannot be written: {error.strerror}; name another file")
        click.echo(f"{output}: written")


@click.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.pass_obj
def import_command(environment: CommandEnvironment, file: Any) -> None:
    """Add or change what a TOML file names, all of it or nothing; `-` reads standard input."""
    name = getattr(file, "name", "standard input")
    try:
        text = file.read(MAX_FILE + 1)
    except UnicodeDecodeError:
        environment.fail(f"{name}: not UTF-8; save it as UTF-8 text", 2)
    if len(text) > MAX_FILE:  # never a part of it: that may be valid, too
        environment.fail(f"{name}: longer than {MAX_FILE >> 20} million characters; import it in parts", 2)
    with opened_accounts(environment, create=True) as opened:
        try:
            counts = import_(opened, text)
        except InvalidAccount as error:
            raise InvalidAccount(f"{name}: {error}") from None
    click.echo(", ".join(f"{name}: {count}" for name, count in counts.items()))
