"""`postroom log`: what handlers did, from the log, as it is written if wanted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import click

from postroom.cli.compose import Environment
from postroom.cli.output import json_option, text_of
from postroom.cli.trace import CALL, log_lines
from postroom.config import parse_duration
from postroom.logline import LogLine, read_line
from postroom.verdict import Action

COLUMNS = ("time", "queue id", "stage", "handler", "verdict", "sender", "recipients", "reason")
POLL = 0.2
"""Seconds between two looks at a log that is followed."""


@click.command()
@click.option("--since", metavar="AGE", help='Not older than that, such as "2h".')
@click.option("--handler", help="Calls of that handler.")
@click.option(
    "--verdict", type=click.Choice([each.value for each in Action], case_sensitive=False), help="Calls that ended so."
)
@click.option("--sender", metavar="PATTERN", help='From a sender that matches, such as "*@example.org".')
@click.option("--recipient", metavar="PATTERN", help="For a recipient that matches.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until it is stopped.")
@click.option(
    "--log", "log_path", metavar="FILE", help="Default: where the configuration logs to; - is standard input."
)
@json_option
@click.pass_obj
def log(
    environment: Environment,
    since: str | None,
    handler: str | None,
    verdict: str | None,
    sender: str | None,
    recipient: str | None,
    follow: bool,
    log_path: str | None,
) -> None:
    """Show what handlers did, from the log.

    \b
    Examples:
      postroom log --since 1h --verdict REJECT
      postroom log --handler grey --recipient '*@example.org'
      postroom log -f

    A mail's sender and recipients are those that the log names with it.
    """
    earliest = _earliest(since)
    with log_lines(environment.config, log_path) as (place, lines):
        if follow and not Path(place).is_file():
            raise click.UsageError(f"{place} cannot be followed: name a file with --log")
        found = (
            _row(line)
            for line in _read(_followed(Path(place)) if follow else lines)
            if _wanted(line, handler, verdict, sender, recipient) and _when(line.time) >= earliest
        )
        if not follow:
            environment.show(COLUMNS, found)
            return
        for row in found:
            click.echo("  ".join(map(text_of, row)))


def _earliest(since: str | None) -> float:
    try:
        return time.time() - parse_duration(since) if since else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None


def _read(lines: Iterable[str]) -> Iterator[LogLine]:
    for line in lines:
        read = read_line(line)
        if read is not None and CALL.fullmatch(read.event):
            yield read


def _wanted(line: LogLine, handler: str | None, verdict: str | None, sender: str | None, recipient: str | None) -> bool:
    call = CALL.fullmatch(line.event)
    assert call is not None
    recipients = line.facts.get("recipients") or line.facts.get("recipient", "")
    return (
        (handler is None or call[2] == handler)
        and (verdict is None or call[1] == verdict)
        and (sender is None or _like(line.facts.get("sender", "") or "<>", sender))
        and (recipient is None or any(_like(each, recipient) for each in recipients.replace(",", " ").split()))
    )


def _like(address: str, pattern: str) -> bool:
    return fnmatchcase(address.lower(), pattern.lower())


def _when(text: str) -> float:
    """Seconds since the epoch; a syslog date has no year, so it counts as now."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float("inf")


def _row(line: LogLine) -> tuple[str, ...]:
    call = CALL.fullmatch(line.event)
    assert call is not None
    facts = line.facts
    return (
        line.time, facts.get("queue_id", ""), facts.get("stage", ""), call[2], call[1], facts.get("sender", ""),
        facts.get("recipients") or facts.get("recipient", ""), facts.get("reason", ""),
    )  # fmt: skip


def _followed(path: Path) -> Iterator[str]:
    """New lines for ever; a file that was rotated away is opened anew, one that was emptied is read from its start."""
    file = path.open(encoding="utf-8", errors="surrogateescape")
    file.seek(0, 2)
    try:
        part = ""
        while True:
            part += file.readline()
            if part.endswith("\n"):
                yield part
                part = ""
                continue
            time.sleep(POLL)
            if os.fstat(file.fileno()).st_size < os.lseek(file.fileno(), 0, os.SEEK_CUR):  # logrotate(8): copytruncate
                file.seek(0)
                part = ""
            if not part and path.exists() and not path.samefile(f"/proc/self/fd/{file.fileno()}"):
                file.close()
                file = path.open(encoding="utf-8", errors="surrogateescape")
    finally:
        file.close()
