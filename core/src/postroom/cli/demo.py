"""`postroom demo`: real mails through real handlers on a private Postfix, shown step by step."""

from __future__ import annotations

import os
import signal
from types import FrameType

import click

from postroom.cli.demo_cases import CASES
from postroom.cli.demo_house import CARL, FRIEND, FRIEND_ADDRESS, House, open_house
from postroom.cli.output import CommandFailed
from postroom.testing.processes import ProgramMissing, ServerFailed

WANTED = ("grey", "spf")


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, to send mails by hand.")
@click.pass_context
def demo(context: click.Context, keep: bool) -> None:
    """Send real mails through a private Postfix and show what the handlers do with them.

    Everything lives in a temporary directory and on free loopback ports; nothing under /etc is touched, and all of it
    is stopped at the end. Exit status 0 if each mail ended as it should.

    \b
    Examples:
      postroom demo
      postroom demo --keep
    """
    _check_host()
    signal.signal(signal.SIGTERM, _interrupt)
    click.echo("Starting a private Postfix, postroom serve, a nameserver and a next hop …")
    try:
        with open_house() as house:
            _introduce(house)
            wrong = [case.title for number, case in enumerate(CASES, 1) if not case.show(house, number)]
            _conclude(wrong)
            if keep:
                _stay(house)
            context.exit(1 if wrong else 0)
    except (ServerFailed, ProgramMissing) as error:
        raise CommandFailed(str(error)) from None


def _check_host() -> None:
    if os.geteuid() != 0:
        raise CommandFailed("Postfix starts as root, so the demo does: run it with sudo")
    from importlib.metadata import entry_points

    from postroom.hookspecs import ENTRY_POINT_GROUP

    installed = {entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP)}
    if missing := [name for name in WANTED if name not in installed]:
        packages = " ".join(f"postroom-{name}" for name in missing)
        raise CommandFailed(f"the demo shows {' and '.join(WANTED)}: install them first: pip install {packages}")


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a signal handler's signature
    raise KeyboardInterrupt  # so that a `with` ends what it began


def _introduce(house: House) -> None:
    click.echo(f"\nPostfix listens on 127.0.0.1:{house.postfix.smtp_port}; for each mail it asks postroom serve.")
    click.echo("These handlers are registered (postroom handlers list):\n")
    click.echo(house.server.succeed("handlers", "list").rstrip())


def _conclude(wrong: list[str]) -> None:
    click.echo()
    if wrong:
        click.secho(f"{len(wrong)} of {len(CASES)} mails ended otherwise than they should:", bold=True)
        for title in wrong:
            click.echo(f"  {title}")
    else:
        click.secho(f"All {len(CASES)} mails ended as they should.", bold=True)


def _stay(house: House) -> None:
    port, base = house.postfix.smtp_port, house.server.base
    click.echo(f"""
It goes on running until Ctrl-C. Send a mail yourself, as if from {FRIEND_ADDRESS}:

  swaks --server 127.0.0.1:{port} --from {FRIEND} --to {CARL} --xclient-addr {FRIEND_ADDRESS}

Look at what became of it, and change what acts:

  ls {base}/mail/*/*/Maildir/new
  postroom --config {house.server.config_path} handlers list
  tail -f {house.server.log_path}
""")
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        click.echo("stopping")
