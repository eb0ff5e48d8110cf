"""`postroom try`: a mail from a file through the real handlers, without a mail server."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from postroom.cli.compose import Environment
from postroom.cli.output import ExitStatus, json_option
from postroom.cli.pretend import chosen_stages, pretend_envelope, pretend_options
from postroom.hookspecs import CallRecord
from postroom.mail import Envelope, Message, parse_message
from postroom.plugins import Hook, Observer
from postroom.registration import Stage
from postroom.verdict import Action, Outcome

MAX_MAIL = 200 << 20
COLUMNS = ("stage", "handler", "verdict", "reason", "reply", "ms", "recipients")


@click.command("try")
@pretend_options
@click.argument("file", required=False, default="-")
@click.option("--show-mail", is_flag=True, help="Print the mail as it left the last stage, on stdout, after the table.")
@json_option
@click.pass_obj
def try_mail(environment: Environment, /, stages: tuple[str, ...], file: str, show_mail: bool, **facts: Any) -> None:
    """Run a mail from FILE (or standard input) through the handlers, and show what each of them says.

    The handlers are the real ones and keep their state: a greylisted sender has been seen afterwards. Nothing is
    delivered, bounced or quarantined.

    \b
    Examples:
      postroom try -f a@example.org -r b@example.net --client 192.0.2.1 mail.eml
      postroom try -r b@example.net --stage before-queue --show-mail < mail.eml

    Exit status 1 when a recipient would be refused, held or deferred.
    """
    envelope = pretend_envelope(environment.config, **facts)
    message = parse_message(_read(file))
    records: list[CallRecord] = []
    handlers = environment.handlers()
    watch = Observer("try", {"after_call": Hook(lambda record: records.append(record), frozenset({"record"}))})
    pipeline = environment.pipeline(dataclasses.replace(handlers, observers=(*handlers.observers, watch)))
    wanted = chosen_stages(stages)
    pipeline.start_handlers()
    try:
        selection = pipeline.select(envelope, wanted)
        refused, message = False, message
        for stage in wanted:
            limit = environment.config.milter.content_timeout
            seen = None if stage is Stage.BEFORE_DATA else message
            outcome = pipeline.run(selection, stage, envelope, seen, time_limit=float(limit))
            refused = refused or any(each.action is not Action.PASS for each in outcome.dispositions.values())
            envelope, message = _onward(envelope, message, outcome)
            if not envelope.recipients:
                break
    finally:
        pipeline.stop_handlers()
    environment.show(COLUMNS, [_row(record) for record in records])
    if not records:
        click.echo("nothing acts on this mail; 'postroom explain' shows why", err=True)
    if show_mail:
        for chunk in message.chunks():
            sys.stdout.buffer.write(chunk)
    if refused:
        click.get_current_context().exit(ExitStatus.NO)


def _read(file: str) -> bytes:
    if file == "-":
        octets = sys.stdin.buffer.read(MAX_MAIL + 1)
    else:
        with Path(file).open("rb") as stream:
            octets = stream.read(MAX_MAIL + 1)
    if len(octets) > MAX_MAIL:
        raise click.UsageError(f"{file}: longer than {MAX_MAIL >> 20} MiB")
    return octets


def _onward(envelope: Envelope, message: Message, outcome: Outcome) -> tuple[Envelope, Message]:
    """What the next stage sees: the recipients that go on, and the first one's mail."""
    going_on = outcome.going_on()
    changed = outcome.messages.get(going_on[0]) if going_on else None
    return envelope.with_recipients(going_on), changed or message


def _row(record: CallRecord) -> tuple[Any, ...]:
    verdict = record.verdict
    reply = verdict.reply.line(verdict.action) if verdict.reply and not verdict.action.goes_on else ""
    word = f"{verdict.action} (shadow)" if record.shadow else str(verdict.action)
    recipients = [str(each) for each in record.recipients]
    return (str(record.stage), record.handler, word, verdict.reason, reply, round(record.seconds * 1000, 1), recipients)
