"""`postroom restore`: everything that mail servers read from files, made anew from the directory."""

from __future__ import annotations

from pathlib import Path

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option
from postroom.cli.postfix import instance_option

COLUMNS = ("file", "rows", "was")


@click.command()
@click.option(
    "--to", "target", type=click.Path(path_type=Path), metavar="DIR", help="Default: `postroom` beside main.cf."
)
@click.option("--type", "kind", metavar="TYPE", help="Kind of map: hash, lmdb, cdb, texthash; default: Postfix' own.")
@click.option("--check", is_flag=True, help="Compare, write nothing; exit status 1 when something differs.")
@instance_option
@json_option
@click.pass_obj
def restore(
    environment: Environment, target: Path | None, kind: str | None, check: bool, directory: Path | None
) -> None:
    """Write the maps that Postfix and Dovecot read, from the directory alone.

    Domains, mailboxes, aliases, and the passwords (hashed) of who may log in. Files are replaced whole, and only those
    that differ, are damaged, or have a wrong owner or mode. A map of which the directory has nothing (transports,
    senders that are refused) is made empty where there is none, and left alone where somebody wrote one. `postroom
    postfix install --maps DIR` lets Postfix read them.

    \b
    Examples:
      postroom restore --check
      postroom restore && postroom postfix install --maps /etc/postfix/postroom --reload
    """
    from postroom.hookspecs import MapSource
    from postroom.mta.maps import Standing, compare, write
    from postroom.mta.postfix_state import read_state
    from postroom.mta.postfix_tool import Postfix

    source = environment.lender().directory
    if not isinstance(source, MapSource):
        environment.fail('the directory keeps no list of what is ours: set [directory] provider = "accounts"')
    postfix = Postfix(directory)
    state = read_state(postfix.directory)
    installed = Path(state.options.maps) if state and state.options.maps else postfix.directory / "postroom"
    place = (target or installed).absolute()
    kind = kind or postfix.expanded("default_database_type")["default_database_type"]
    files = list(compare(place, source.maps(), source.logins(), postfix, kind))
    wanted = [file for file in files if file.standing not in (Standing.CURRENT, Standing.OWN)]
    if not check and wanted:
        write(place, wanted, postfix, kind)
    environment.show(COLUMNS, [(str(place / file.name), file.rows, file.standing) for file in files])
    missed = state and str(place) == state.options.maps and any(each.standing is Standing.MISSING for each in wanted)
    if not check and missed:  # a process of Postfix that found no map defers for as long as it lives
        click.echo(f"what was missing takes effect with: postfix -c {postfix.directory} reload", err=True)
    if check and wanted:
        click.get_current_context().exit(ExitStatus.NO)
