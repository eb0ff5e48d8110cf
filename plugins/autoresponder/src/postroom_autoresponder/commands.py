"""`postroom autoresponder …`"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from postroom.config import Duration, parse_duration
from postroom.hookspecs import CommandEnvironment
from postroom.mail import Address
from postroom.registration import Registration, Stage, Type, check_address

from postroom_autoresponder.backends import open_store
from postroom_autoresponder.change import (
    NoResponder,
    change_responder,
    conditions_of,
    read_attachment,
    read_responder,
    read_text,
    remove_responder,
    with_attachments,
)
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.preview import preview_mail
from postroom_autoresponder.responder import BrokenResponder, Responder, Season, responder_from_json, responder_name
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.store import FORWARDED, REPLIED, Store
from postroom_autoresponder.template import FIELDS

F = TypeVar("F", bound=Callable[..., Any])

HANDLER = "autoresponder"
MAX_MAIL = 64 << 20
UNSETTABLE = tuple(
    sorted({field.name.replace("_", "-") for field in dataclasses.fields(Responder)} - {"enabled", "attachments"})
)


class _Place:
    """What every command works on."""

    def __init__(self, environment: CommandEnvironment) -> None:
        services = environment.services(HANDLER)
        self.environment, self.services = environment, services
        self.delimiter = services.config.host.recipient_delimiter
        self.store: Store = open_store(services.state)
        self.now = services.clock.now()
        self.settings: AutoresponderSettings = environment.settings(HANDLER)

    def name(self, address: str) -> str:
        """A mailbox, or the plain name of a responder that registrations name in their context."""
        return responder_name(check_address(Type.RECIPIENT, address) if "@" in address else address, self.delimiter)

    def read(self, name: str) -> Responder:
        try:
            return read_responder(self.store, name)
        except NoResponder:
            self.environment.fail(f"{name} has no responder; see 'postroom autoresponder list'")
        except BrokenResponder as error:
            self.environment.fail(f"{name}: {error}; set it anew with 'postroom autoresponder set {name} …'")
        raise AssertionError  # fail() ends the command

    def change(self, name: str, change: Callable[[Responder | None], Responder]) -> tuple[Responder | None, Responder]:
        try:
            return change_responder(self.store, name, self.settings, change)
        except ValueError as error:
            raise click.UsageError(f"{name}: {error}") from None

    def is_registered(self, name: str) -> bool:
        """For the mailbox itself, enabled or not; a responder of another name is registered by hand."""
        if "@" not in name:
            return True
        key = _registration(name).key
        return any(found.key == key for found in self.environment.registrations(HANDLER))

    def activate(self, name: str) -> None:
        """The registration by which mail for the mailbox comes here; one for its domain, or for all, will do."""
        if "@" not in name:
            click.echo(f"to use it: postroom handlers add {HANDLER} --address … --context responder={name} --enabled")
            return
        domain = Address(name).domain
        for found in self.environment.registrations(HANDLER):
            wide = found.type is Type.GLOBAL or (found.type is Type.RECIPIENT_DOMAIN and found.address == domain)
            if wide and found.enabled and found.stage is Stage.BEFORE_LOCAL:
                return
        if self.environment.register(_registration(name)):
            click.echo(f"registered and enabled: {_registration(name)}")


def _registration(name: str) -> Registration:
    return Registration(HANDLER, Stage.BEFORE_LOCAL, Type.RECIPIENT, name, priority=90, enabled=True)


def _json(command: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )(command)


_ADDRESS = click.argument("address")


@click.group(HANDLER)
def autoresponder() -> None:
    """Automatic replies: texts, dates, conditions, and what came of the mail.

    \b
    Examples:
      postroom autoresponder set bob@example.org --subject Away --text-file away.txt --end 2027-01-07
      postroom autoresponder preview bob@example.org
      postroom autoresponder disable bob@example.org
    """


def _set_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--subject", help="Subject of replies, a template."),
            click.option("--text", help="Plain text, a template."),
            click.option("--text-file", type=click.File("rb"), help="Plain text from a file; -: standard input."),
            click.option("--html-file", type=click.File("rb"), help="HTML from a file; -: standard input."),
            click.option("--name", help="Display name in From."),
            click.option("--reply-to", metavar="ADDRESS", help="Where answers to the reply shall go."),
            click.option("--address", "addresses", multiple=True, help="A further address of the mailbox; repeatable."),
            click.option("--start", metavar="DATE", help="First day, or moment: 2026-12-24, 2026-12-24T17:00."),
            click.option("--end", metavar="DATE", help="Last day, or moment."),
            click.option("--time-zone", metavar="ZONE", help="Of start and end, such as Europe/Berlin."),
            click.option("--if-subject", multiple=True, metavar="TEXT", help="Only where the subject contains it."),
            click.option("--if-body", multiple=True, metavar="TEXT", help="Or only where the text contains it."),
            click.option("--always", is_flag=True, help="No condition any more."),
            click.option("--interval", metavar="DURATION", help="One reply to a sender in this time: 7d."),
            click.option("--daily-limit", type=click.IntRange(1), help="Replies to one address in 24 hours."),
            click.option("--forward", metavar="ADDRESS", help="Send a copy of each such mail there."),
            click.option(
                "--attach",
                "attachments",
                multiple=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="Attach this file, read now; repeatable.",
            ),
            click.option("--no-attachments", is_flag=True, help="Drop those that there are."),
            click.option("--unset", multiple=True, type=click.Choice(UNSETTABLE), help="Back to nothing; repeatable."),
            click.option("--enabled/--disabled", "enabled", default=None, help="Default: as it was; a new one is on."),
        )
    ):
        command = option(command)
    return command


@autoresponder.command(
    "set",
    epilog="Fields of templates: " + "; ".join(f"${{{name}}}: {what}" for name, what in FIELDS.items()) + ".",
)
@_ADDRESS
@_set_options
@click.pass_obj
def set_(environment: CommandEnvironment, /, address: str, enabled: bool | None, **options: Any) -> None:
    """Make or change the responder of a mailbox, from the next mail on, on every host.

    A new one is on, and the handler is registered for the mailbox. Conditions and addresses replace those before.

    \b
    Examples:
      postroom autoresponder set bob@example.org --text 'I am away until ${end}.' --end 2026-12-31
      postroom autoresponder set bob@example.org --subject 'Away: ${subject}' --text-file away.txt --attach map.pdf
      postroom autoresponder set info@example.org --if-subject order --forward sales@example.org
    """
    place = _Place(environment)
    name = place.name(address)
    changes = _changes(place, options)
    if not changes and enabled is None:
        raise click.UsageError("nothing to set: give a text with --text or --text-file, or another option")

    def change(before: Responder | None) -> Responder:
        told = dict(changes)
        if "attachments" in told:
            kept = () if before is None or options["no_attachments"] else before.attachments
            told["attachments"] = with_attachments(kept, told["attachments"])
        if enabled is not None:
            told["enabled"] = enabled
        return dataclasses.replace(before or Responder(), **told)

    before, changed = place.change(name, change)
    click.echo(f"{name}: {'changed' if before else 'set'}, {_state(place, changed)}")
    # One that an administrator has disabled stays so; one that is gone would let replies end without a word.
    if changed.enabled and (before is None or not before.enabled or not place.is_registered(name)):
        place.activate(name)


def _changes(place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    """What the options say of a responder's fields."""
    changes: dict[str, Any] = {word.replace("-", "_"): _default(word) for word in options["unset"]}
    plain = ("subject", "text", "name", "reply_to", "start", "end", "time_zone", "daily_limit", "forward")
    changes |= {word: options[word] for word in plain if options[word] is not None}
    try:
        for word in ("text", "html"):
            if (file := options[f"{word}_file"]) is not None:
                most = place.settings.max_text
                changes[word] = read_text(file.read(most + 1), getattr(file, "name", "-"), most)
        if options["interval"] is not None:
            changes["interval"] = Duration(parse_duration(options["interval"]))
        if options["addresses"]:
            changes["addresses"] = tuple(check_address(Type.RECIPIENT, each) for each in options["addresses"])
        if options["always"]:
            changes["conditions"] = ()
        elif options["if_subject"] or options["if_body"]:
            changes["conditions"] = conditions_of(options["if_subject"], options["if_body"])
        if options["attachments"] or options["no_attachments"]:
            most = place.settings.max_attachments
            changes["attachments"] = tuple(read_attachment(each, most) for each in options["attachments"])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return changes


def _default(word: str) -> Any:
    return next(field.default for field in dataclasses.fields(Responder) if field.name == word.replace("-", "_"))


@autoresponder.command()
@_ADDRESS
@click.pass_obj
def enable(environment: CommandEnvironment, address: str) -> None:
    """Switch a mailbox's responder on, and register the handler for it where that is not yet done."""
    _switch(_Place(environment), address, enabled=True)


@autoresponder.command()
@_ADDRESS
@click.pass_obj
def disable(environment: CommandEnvironment, address: str) -> None:
    """Switch a mailbox's responder off; everything set stays."""
    _switch(_Place(environment), address, enabled=False)


def _switch(place: _Place, address: str, *, enabled: bool) -> None:
    name = place.name(address)
    place.read(name)
    _, changed = place.change(name, lambda before: dataclasses.replace(before or Responder(), enabled=enabled))
    click.echo(f"{name}: {_state(place, changed)}")
    if enabled:
        place.activate(name)


@autoresponder.command()
@_ADDRESS
@click.pass_obj
def remove(environment: CommandEnvironment, address: str) -> None:
    """Remove a mailbox's responder with all that it remembers, and its registration."""
    place = _Place(environment)
    name = place.name(address)
    if not remove_responder(place.store, name):
        environment.fail(f"{name} has no responder; see 'postroom autoresponder list'")
    click.echo(f"{name}: removed")
    if "@" in name and environment.unregister(_registration(name)):
        click.echo(f"no longer registered: {_registration(name)}")


@autoresponder.command("list")
@_json
@click.pass_obj
def list_(environment: CommandEnvironment) -> None:
    """Show all responders."""
    place = _Place(environment)
    columns = ("mailbox", "state", "subject", "start", "end", "forward", "attachments", "replies")
    environment.show(columns, _rows(place), title="Autoresponders")


def _rows(place: _Place) -> Iterator[Sequence[Any]]:
    for name, stored in place.store.responders():
        replies = place.store.counts(name).get(REPLIED, 0)
        try:
            found = responder_from_json(stored.document)
        except BrokenResponder:
            yield (name, "broken", "", "", "", "", 0, replies)
            continue
        subject = found.subject or place.settings.subject
        state, attached = _state(place, found), len(found.attachments)
        yield (name, state, subject, found.start, found.end, found.forward, attached, replies)


def _state(place: _Place, responder: Responder) -> str:
    if not responder.enabled:
        return "off"
    try:
        season = responder.season(place.settings, place.now)
    except (ValueError, KeyError, OSError):
        return "broken"
    match season:
        case Season.BEFORE:
            return f"begins {responder.start}"
        case Season.WITHIN:
            return "on"
        case Season.AFTER:
            return f"ended {responder.end}"


@autoresponder.command()
@_ADDRESS
@_json
@click.pass_obj
def show(environment: CommandEnvironment, address: str) -> None:
    """Show all that is set for a mailbox."""
    place = _Place(environment)
    name = place.name(address)
    responder = place.read(name)
    environment.show(("setting", "value", "from"), _shown(place, responder), title=f"Autoresponder of {name}")


def _shown(place: _Place, responder: Responder) -> Iterator[Sequence[Any]]:
    yield "state", _state(place, responder), "responder"
    for field in dataclasses.fields(Responder):
        value = getattr(responder, field.name)
        word = field.name.replace("_", "-")
        if field.name == "attachments":
            value = [f"{each.name} ({each.content_type}, {len(each.octets)} octets)" for each in value]
        elif field.name in ("conditions", "addresses"):
            value = [str(each) for each in value]
        elif value in ("", None) and hasattr(place.settings, field.name):
            default = getattr(place.settings, field.name)
            yield word, str(default) if isinstance(default, Duration) else default, "handler"
            continue
        yield word, str(value) if isinstance(value, Duration) else value, "responder"


@autoresponder.command()
@click.argument("address", required=False)
@_json
@click.pass_obj
def status(environment: CommandEnvironment, address: str | None) -> None:
    """Show how many replies were sent, and how many mails got none, by reason."""
    place = _Place(environment)
    names = [place.name(address)] if address else list(place.store.counted())
    environment.show(("mailbox", "what", "mails"), _counts(place, names), title="Autoresponder")


def _counts(place: _Place, names: Sequence[str]) -> Iterator[Sequence[Any]]:
    total: dict[str, int] = {}
    words = (REPLIED, FORWARDED, *map(str, Silence))
    for name in names:
        counts = place.store.counts(name)
        for word in words:
            if counts.get(word):
                total[word] = total.get(word, 0) + counts[word]
                yield name, word, counts[word]
        yield name, "remembered addresses", place.store.remembered(name, round(place.now * 1000))
    if len(names) != 1:
        for word in words:
            if word in total:
                yield "all", word, total[word]


@autoresponder.command()
@_ADDRESS
@click.pass_obj
def forget(environment: CommandEnvironment, address: str) -> None:
    """Forget whom a mailbox has answered, and its counts: everybody gets a reply again."""
    place = _Place(environment)
    name = place.name(address)
    click.echo(f"{name}: forgotten: {place.store.forget(name)}")


@autoresponder.command()
@_ADDRESS
@click.option("--sender", metavar="ADDRESS", default="sender@example.org", show_default=True, help="Who has written.")
@click.option("--mail", "file", type=click.File("rb"), help="The mail to answer; -: standard input.")
@click.pass_obj
def preview(environment: CommandEnvironment, address: str, sender: str, file: Any) -> None:
    """Print the reply to a mail; nothing is sent or remembered.

    Exit status 1 when there would be none, with the reason; who vouches for the sender and what is remembered are not
    asked.
    """
    place = _Place(environment)
    name = place.name(address)
    responder = place.read(name)
    octets = file.read(MAX_MAIL) if file is not None else None
    previewed = preview_mail(name, responder, sender, octets, place.settings, place.services)
    if previewed.mail:
        sys.stdout.buffer.write(previewed.mail)
        sys.stdout.buffer.flush()
    if previewed.silence is not None:
        environment.fail(f"no reply: {previewed.silence}{f' ({previewed.problem})' if previewed.problem else ''}")
