"""`postroom trace`: one mail's way through the handlers, from the log."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from postroom.cli.compose import Environment
from postroom.cli.log_file import log_file
from postroom.cli.output import json_option
from postroom.config import Config
from postroom.logline import IDENT, LogLine, read_line

COLUMNS = ("time", "stage", "handler", "verdict", "reason", "ms", "generation", "recipients")
SYSLOG_FILES = ("/var/log/mail.log", "/var/log/maillog", "/var/log/syslog", "/var/log/messages")

CALL = re.compile(r"([A-Z]+) during call '(.*)' handler", re.DOTALL)


@click.command()
@click.argument("queue_id")
@click.option(
    "--log", "log_path", metavar="FILE", help="Default: where the configuration logs to; - is standard input."
)
@json_option
@click.pass_obj
def trace(environment: Environment, queue_id: str, log_path: str | None) -> None:
    """Show one mail's way through the handlers, from the log.

    \b
    Examples:
      postroom trace 4bWx1y2Fz9z1k
      postroom trace 4bWx1y2Fz9z1k --log /var/log/mail.log.2.gz
      ssh mx2 cat /var/log/mail.log | postroom trace 4bWx1y2Fz9z1k --log -

    A log that is compressed by gzip, bzip2 or xz is read as it is.
    Exit status 1 when the log says nothing about that mail.
    """
    if not queue_id.strip():
        environment.fail("the queue id is empty: give one, as Postfix' log or `postroom queue list` shows it", status=2)
    with log_lines(environment.config, log_path) as (place, lines):
        rows = list(rows_of(lines, queue_id))
    if not rows:
        environment.fail(f"nothing about {queue_id} in {place}; name another log with --log")
    environment.show(COLUMNS, rows, title=queue_id)


def rows_of(lines: Iterable[str], queue_id: str) -> Iterator[tuple[str, ...]]:
    """What the log says about that mail, in its order; a row has a value for each of COLUMNS."""
    for line in lines:
        if queue_id not in line:
            continue  # most lines of a mail log are others'
        read = read_line(line)
        if read is not None and read.facts.get("queue_id") == queue_id:
            yield _row(read)


def _row(line: LogLine) -> tuple[str, ...]:
    facts = line.facts
    call = CALL.fullmatch(line.event)
    verdict = call[1] if call else facts.get("outcome", "")
    if facts.get("mode") == "shadow":
        verdict = f"{verdict} (shadow)"
    reason = " ".join(filter(None, (facts.get("reason"), _failure(facts)))) if call else _told(line)
    return (
        line.time,
        facts.get("stage", ""),
        call[2] if call else facts.get("handler", ""),
        verdict,
        reason,
        facts.get("ms", ""),
        facts.get("generation", ""),
        facts.get("recipients") or facts.get("recipient") or facts.get("recipient_count", ""),
    )


def _failure(facts: Mapping[str, str]) -> str:
    return f"[{facts['error']}: {facts.get('consequence', '')}]" if facts.get("error") else ""


def _told(line: LogLine) -> str:
    """A line that is no call: its event, and why."""
    why = line.facts.get("reason") or line.facts.get("error") or line.facts.get("reply")
    return f"{line.event}: {why}" if why else line.event


@contextlib.contextmanager
def log_lines(config: Config, given: str | None) -> Iterator[tuple[str, Iterable[str]]]:
    """What the log is called, and its lines."""
    if given == "-":
        yield "standard input", sys.stdin
        return
    path = Path(given) if given else _configured(config)
    if path is not None:
        with log_file(path) as lines:
            yield str(path), lines
        return
    with _journal() as lines:
        yield "the journal", lines


def _configured(config: Config) -> Path | None:
    """The log file; None: ask the journal."""
    if config.log.target.startswith("/"):
        return Path(config.log.target)
    if config.log.target == "syslog":
        return next((path for path in map(Path, SYSLOG_FILES) if path.exists()), None)
    return None


@contextlib.contextmanager
def _journal() -> Iterator[Iterable[str]]:
    program = shutil.which("journalctl")
    if program is None:
        raise click.UsageError("the log goes to standard error and there is no journal here: name a file with --log")
    arguments = [program, "--identifier", IDENT, "--output", "short-iso-precise", "--no-pager", "--quiet"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, errors="surrogateescape") as journal:
        assert journal.stdout is not None
        yield journal.stdout
