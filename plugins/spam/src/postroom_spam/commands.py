"""`postroom spam …`"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
from postroom.backends.deadline import Deadline
from postroom.backends.failover import Failover, NoAnswer
from postroom.backends.trouble import BackendTrouble
from postroom.hookspecs import CommandEnvironment, StateUnavailable
from postroom.lists.backends import open_policies
from postroom.lists.commands import json_option, list_command
from postroom.lists.scopes import SERVER
from postroom.lists.senders import ListName
from postroom.lists.store import read_lists
from postroom.mail import Address, Envelope, Message, parse_message

from postroom_spam.engine import Engine, Lesson, Question
from postroom_spam.engines import engines_of
from postroom_spam.fields import number
from postroom_spam.policy import consequence_of, judge
from postroom_spam.scan import find, user_of
from postroom_spam.settings import SpamSettings

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a command waits for one answer."""
TRY_AGAIN = 75


@click.group("spam")
def spam() -> None:
    """Spam filtering: servers, a mail's score, learning, white and black lists.

    \b
    Examples:
      postroom spam status
      postroom spam check mail.eml
      postroom spam learn spam junk.eml
    """


@spam.command()
@json_option
@click.pass_obj
def status(environment: CommandEnvironment) -> None:
    """Show the servers, whether they answer, and what happens to spam.

    Exit status 1: no server answers.
    """
    settings: SpamSettings = environment.settings("spam")
    rows: list[tuple[str, str]] = []
    answering = 0
    for engine in engines_of(settings):
        try:
            health = engine.health(Deadline(10))
        except BackendTrouble as trouble:
            rows.append((f"{settings.engine} at {engine.address}", str(trouble)))
            continue
        answering += 1
        told = ", ".join((health.version, *health.facts, *health.problems))
        rows.append((f"{settings.engine} at {engine.address}", told))
    required = "the engine's" if settings.engine_threshold else f"{settings.threshold:g}"
    rows += [("threshold", required), ("spam", str(settings.action))]
    if settings.high_threshold:
        rows.append((f"from {settings.high_threshold:g}", str(settings.high_action)))
    rows.append(("not scanned", f"larger than {settings.max_size}"))
    registrations = environment.registrations("spam")
    rows.append(("registrations", f"{sum(each.enabled for each in registrations)} of {len(registrations)} enabled"))
    try:
        lists = read_lists(open_policies(environment.services("spam").state), [SERVER]).get(SERVER)
        rows.append(("white list of the server", str(len(lists.allow.patterns) if lists else 0)))
        rows.append(("black list of the server", str(len(lists.deny.patterns) if lists else 0)))
    except StateUnavailable as error:
        rows.append(("lists", str(error)))
    environment.show(("what", "value"), rows, title="Spam filter")
    if not answering:
        click.get_current_context().exit(1)


@spam.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--recipient", metavar="ADDRESS", default="", help="With this recipient's preferences and lists.")
@click.option("--sender", metavar="ADDRESS", default="", help="As from this envelope sender; default: none.")
@json_option
@click.pass_obj
def check(environment: CommandEnvironment, file: Path, recipient: str, sender: str) -> None:
    """Have a mail judged, FILE or - for standard input: score, rules, and what would happen to it.

    Exit status 1: it is spam; 75: no engine came to a judgement.
    """
    settings: SpamSettings = environment.settings("spam")
    services = environment.services("spam")
    message = _read(file)
    to = Address(recipient)
    envelope = Envelope(sender=Address(sender), recipients=(to,))
    question = Question(envelope, to, user_of(to, settings.user, services.config.host.recipient_delimiter), True)
    report = _asked(environment, settings, lambda engine, deadline: engine.check(message, question, deadline))
    listing = find(envelope, to, services) if settings.lists else None
    finding = judge(report, listing, settings)
    rows = [
        ("spam", "yes" if finding.is_spam else "no"),
        ("score", number(finding.score)),
        ("threshold", number(finding.required)),
        ("would happen", str(consequence_of(finding, settings) or "delivered")),
        ("rules", ", ".join(finding.symbols)),
    ]
    if finding.remark:
        rows.append(("not scanned", finding.remark))
    no_judgement = bool(report.unfinished) and not finding.is_spam
    if no_judgement:
        rows[3] = ("would happen", f"what on_error says: it {report.unfinished}")
    if message.size() > settings.max_size:
        rows.append(("in mail", f"not scanned: larger than {settings.max_size}"))
    environment.show(("what", "value"), rows, title=str(file))
    if report.text and not environment.as_json:
        click.echo(report.text)
    if no_judgement:
        click.get_current_context().exit(TRY_AGAIN)
    if finding.is_spam:
        click.get_current_context().exit(1)


@spam.command()
@click.argument("lesson", type=click.Choice([str(lesson) for lesson in Lesson]))
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option("--recipient", metavar="ADDRESS", default="", help="For this recipient alone, where the engine can.")
@click.pass_obj
def learn(environment: CommandEnvironment, lesson: str, files: tuple[Path, ...], recipient: str) -> None:
    """Teach the engine that mails are spam, or ham, which is what is none.

    spamd must have been started with --allow-tell; rspamd's controller may want a password.

    \b
    Examples:
      postroom spam learn spam ~/Maildir/.Junk/cur/*
      postroom spam learn ham mail.eml --recipient bob@example.org
    """
    settings: SpamSettings = environment.settings("spam")
    user = user_of(Address(recipient), settings.user, environment.config.host.recipient_delimiter)
    learnt = 0
    for file in files:
        learnt += _asked(environment, settings, partial(_teach, _read(file), Lesson(lesson), user))
    rest = "" if learnt == len(files) else "; the rest were known"
    click.echo(f"{learnt} of {len(files)} learnt as {lesson}{rest}")


def _teach(mail: Message, lesson: Lesson, user: str, engine: Engine, deadline: Deadline) -> bool:
    return engine.learn(mail, lesson, user, deadline)


def _read(file: Path) -> Message:
    return parse_message(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())


def _asked(environment: CommandEnvironment, settings: SpamSettings, question: Callable[[Engine, Deadline], T]) -> T:
    services = environment.services("spam")
    try:
        return Failover("spam filter").ask(
            engines_of(settings), question, Deadline(PATIENCE), services, pause=0.0, attempt=PATIENCE
        )
    except NoAnswer as error:
        environment.fail(f"no answer: {error}; see 'postroom doctor'", TRY_AGAIN)
        raise AssertionError("fail ends the command") from None


_LISTS = "The lists are shared with greylisting: 'postroom grey' changes the same ones."

spam.add_command(
    list_command(
        "spam",
        ListName.ALLOW,
        f"""Put senders, client names or client networks on the white list; without patterns, show the list.

        A mail from there gets 100 points less. {_LISTS}

        \b
        Examples:
          postroom spam allow '*@example.org'
          postroom spam allow 192.0.2.0/24 --domain example.com
        """,
    )
)
spam.add_command(
    list_command(
        "spam",
        ListName.DENY,
        f"""Put senders, client names or client networks on the black list; without patterns, show the list.

        A mail from there gets 100 points more. {_LISTS}

        \b
        Example:
          postroom spam deny 'offers*@example.org' --mailbox bob@example.com
        """,
    )
)
