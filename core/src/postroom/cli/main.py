"""`postroom`: finds the command, and turns every error into one line and an exit status.

Commands are imported when they are called: `postroom --help` costs no database and no plugin's imports.
"""

from __future__ import annotations

import errno
import importlib
import os
import select
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus
from postroom.cli.streams import open_streams, settle_output
from postroom.config import ConfigError
from postroom.registration import InvalidRegistration

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("postroom.cli.serve:serve", "Run the server: milter and LMTP."),
    "demo": ("postroom.cli.demo:demo", "Send real mails through a private Postfix and show what happens."),
    "doctor": ("postroom.cli.doctor:doctor", "Look for what is wrong, and say what to do."),
    "handlers": ("postroom.cli.handlers:handlers", "Register, enable, disable and list handlers."),
    "plugins": ("postroom.cli.plugins:plugins", "List, enable and disable installed plugins."),
    "explain": ("postroom.cli.explain:explain", "Show what would act on a mail, in which order, and why."),
    "try": ("postroom.cli.try_mail:try_mail", "Run a mail from a file through the handlers; nothing is delivered."),
    "config": ("postroom.cli.config:config", "Show and check the configuration."),
    "trace": ("postroom.cli.trace:trace", "Show one mail's way through the handlers, from the log."),
    "log": ("postroom.cli.log:log", "Show what handlers did, from the log."),
    "postfix": ("postroom.cli.postfix:postfix", "Put postroom into Postfix, and take it out again."),
    "qmail": ("postroom.cli.qmail:qmail", "Put handlers into qmail, and take them out again."),
    "msmtp": ("postroom.cli.msmtp:msmtp", "Put handlers before msmtp, and take them out again."),
    "queue": ("postroom.cli.queue:queue", "See what waits in the mail server's queue, and act on it."),
    "import": ("postroom.cli.import_plesk:import_", "Take over handlers from another system."),
    "manual": ("postroom.cli.manual:manual", "Write manual pages."),
    "service": ("postroom.cli.service:service", "Write the files for systemd and logrotate."),
    "restore": ("postroom.cli.restore:restore", "Write Postfix' and Dovecot's maps from the directory."),
    "quarantine": ("postroom.cli.quarantine:quarantine", "List, show, release and delete what was held."),
}


class LazyGroup(click.Group):
    """The core's commands by name, and those of plugins by entry point."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(_plugin_commands(context))]

    def get_command(self, context: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return _plugin_commands(context, cmd_name).get(cmd_name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(context, name)
        if command is None:
            import difflib

            close = difflib.get_close_matches(name, self.list_commands(context), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", context)
        return name, command, args[1:]

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            if _nobody_reads():
                raise
            raise click.ClickException("a server hung up in the middle: try again, and see its log") from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        if plugins := _plugin_commands(context):
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, plugins[name].get_short_help_str(80)) for name in sorted(plugins)])


def _plugin_commands(context: click.Context, only: str | None = None) -> dict[str, click.Command]:
    """Commands by name. A command is called like its handler unless it brings a name of its own.

    A plugin that cannot be loaded has no command; `postroom plugins list` says why.
    """
    from postroom.hookspecs import ENTRY_POINT_GROUP
    from postroom.plugins import Observer, load_plugin

    found: dict[str, click.Command] = {}
    entry_points = sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda each: each.name != only)
    environment = context.find_root().obj or Environment()
    for entry_point in entry_points:
        try:
            loaded = load_plugin(entry_point.name, entry_point.load(), environment.config)
            hook = None if isinstance(loaded, Observer) else loaded.hooks.get("commands")
            command = hook() if hook else None
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a broken plugin must not take the command line down
            if entry_point.name == only:
                raise click.ClickException(f"plugin {only} cannot be used: {error}") from None
            continue
        if command is not None:
            found[command.name or entry_point.name] = command
            if only is not None and only in found:
                break
    return found


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done, 1 the answer is no, 2 wrong usage, 75 try again.",
)
@click.option(
    "--config", "config_path", metavar="FILE", help="Default: $POSTROOM_CONFIG, then /etc/postroom/postroom.toml."
)
@click.version_option(package_name="postroom", prog_name="postroom")
@click.pass_context
def postroom(context: click.Context, config_path: str | None) -> None:
    """Mail handlers for Postfix, qmail and msmtp.

    \b
    Examples:
      postroom plugins enable grey             act on all mail from now on
      postroom explain --sender a@example.org --recipient b@example.net
      postroom handlers list
      postroom doctor
    """
    context.obj = Environment(config_path)


def run(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
    """The exit status of a click command; an error is one line on stderr."""
    try:
        result = command.main(
            args=list(arguments) if arguments is not None else None, prog_name=name, standalone_mode=False
        )
        if sys.stdout is not None:  # or Python flushes it later, when nobody says any more what went wrong
            sys.stdout.flush()
        return result if isinstance(result, int) else ExitStatus.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        return ExitStatus.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else name
        return _say(where, f"{error.format_message().rstrip('.')}; see '{where} --help'", error.exit_code)
    except click.ClickException as error:
        return _say(name, error.format_message(), error.exit_code)
    except (ConfigError, InvalidRegistration) as error:
        return _say(name, str(error), ExitStatus.USAGE)
    except (click.Abort, KeyboardInterrupt):
        return _say(name, "stopped", 130)
    except SystemExit as end:
        if end.code != ExitStatus.NO or not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at its end
        return ExitStatus.DONE  # click makes "the answer is no" of a reader that has enough (`| head`)
    except Exception as error:  # no traceback reaches a user
        if os.environ.get("POSTROOM_TRACEBACK"):
            raise
        return _say(name, *_explain_failure(error))


def _nobody_reads() -> bool:
    """Whether standard output goes to a pipe or socket whose other end is closed."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (AttributeError, OSError):  # closed, or no file
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))  # poll(2)


def _explain_failure(error: Exception) -> tuple[str, int]:
    from postroom.pipeline import PipelineUnavailable

    status = getattr(error, "exit_status", None)
    if isinstance(status, int):
        return str(error), status
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        denied = error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0
        remedy = "; do it as root, or as whom that belongs to" if denied and place else ""
        return f"{place}{error.strerror or error}{remedy}", ExitStatus.NO
    if isinstance(error, PipelineUnavailable):
        return str(error), ExitStatus.TRY_AGAIN
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}; this is a defect: set POSTROOM_TRACEBACK=1 to see where", ExitStatus.NO


def _say(name: str, text: str, status: int) -> int:
    click.echo(f"{name}: {' '.join(text.split())}", err=True)
    return int(status)


def main(arguments: Sequence[str] | None = None) -> Any:
    open_streams()
    try:
        sys.exit(run(postroom, arguments, "postroom"))
    finally:
        settle_output()


if __name__ == "__main__":
    main()
