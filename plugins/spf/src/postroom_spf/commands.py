"""`postroom spf …`: check a client by hand, and see what the registrations come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import click
from postroom.config import ConfigError, build_from_context
from postroom.hookspecs import CommandEnvironment
from postroom.mail import Address, Envelope
from postroom.registration import OnError
from postroom.verdict import Action

from postroom_spf.policy import decide
from postroom_spf.received import without_mapping
from postroom_spf.result import SpfResult
from postroom_spf.settings import Level, SpfSettings

if TYPE_CHECKING:
    from postroom_spf.check import Checked

F = TypeVar("F", bound=Callable[..., Any])

CONSEQUENCE = {Action.PASS: "goes on", Action.DEFER: "deferred", Action.REJECT: "refused"}


def _client(_context: click.Context, _parameter: click.Parameter, text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no IP address: write 192.0.2.1 or 2001:db8::1") from None


def _json(command: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )(command)


@click.group("spf")
def spf() -> None:
    """SPF: check a client by hand, and see what each result comes to.

    \b
    Examples:
      postroom spf check --client 192.0.2.1 --sender a@example.org
      postroom spf status
    """


@spf.command()
@click.option("--client", required=True, callback=_client, metavar="IP", help="The client's IP address.")
@click.option("--sender", required=True, metavar="ADDRESS", help='Envelope sender; "" for the null sender.')
@click.option("--helo", default="", metavar="NAME", help="The client's HELO.")
@click.option("--context", default="", metavar="TEXT", help="As in a registration: level=3, local_rules=…")
@_json
@click.pass_obj
def check(
    environment: CommandEnvironment, client: IPv4Address | IPv6Address, sender: str, helo: str, context: str
) -> None:
    """Check CLIENT as if it sent a mail now: result, record, every step. Exit status 1 when it would be refused.

    \b
    Example:
      postroom spf check --client 192.0.2.1 --sender alice@example.org --helo mail.example.org
    """
    from postroom_spf.check import check_in_order
    from postroom_spf.inquiry import is_allowed, lookups_for, questions

    settings = _settings(environment, context)
    services = environment.services("spf")
    steps: list[str] = []
    lookups = replace(lookups_for(settings, services, debug=False), note=steps.append)
    client = without_mapping(client)
    asked = questions(Envelope(sender=Address(sender)), client, helo, settings, services.config.host_name)
    done = check_in_order(asked, settings, lookups)
    actions = [
        Action.PASS if is_allowed(each.question, settings) else decide(settings.level, each.result) for each in done
    ]
    found = [_facts(each, action) for each, action in zip(done, actions, strict=True)]
    if environment.as_json:
        environment.show([*found[0], "steps"], [[*facts.values(), steps] for facts in found])
    else:
        for facts in found:
            told = [(name, value) for name, value in facts.items() if value]
            environment.show(("what", "found"), told, title=f"SPF, {facts['identity']} {facts['domain']}")
        environment.show(("step", "what was done"), list(enumerate(steps, 1)), title="Steps")
    if actions[-1] is not Action.PASS:
        raise click.exceptions.Exit(1)


def _facts(checked: Checked, action: Action) -> dict[str, Any]:
    from postroom_spf.header import received_spf
    from postroom_spf.policy import reply

    field = received_spf(checked, relayed=False)
    return {
        "identity": checked.question.identity,
        "domain": checked.question.domain,
        "result": checked.result,
        "by": checked.source,
        "mechanism": checked.evaluation.mechanism,
        "problem": checked.evaluation.problem,
        "explanation": checked.explanation,
        "mail": CONSEQUENCE[action],
        "reply": "" if action is Action.PASS else reply(checked).line(action),
        "header": f"{field.name.decode()}:{field.value.decode()}".replace("\r\n", ""),
    }


def _settings(environment: CommandEnvironment, context: str) -> SpfSettings:
    base: SpfSettings = environment.settings("spf")
    try:
        return build_from_context(SpfSettings, context, "--context", base)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


@spf.command()
@_json
@click.pass_obj
def status(environment: CommandEnvironment) -> None:
    """Show each registration of spf with its level, what the level refuses, and what is at odds."""
    environment.show(
        ("place", "enabled", "level", "deferred", "refused", "on error", "remark"),
        list(_status(environment)),
        title="SPF",
    )


def _status(environment: CommandEnvironment) -> Iterator[tuple[Any, ...]]:
    base: SpfSettings = environment.settings("spf")
    common = environment.config.handlers.get("spf", {}).get("on_error", OnError.SKIP)
    for registration in environment.registrations("spf"):
        place = registration.address or "all"
        on_error = str(registration.on_error or common)
        try:
            settings = build_from_context(SpfSettings, registration.context, "context", base)
        except ConfigError as error:
            yield (place, registration.enabled, "", "", "", on_error, str(error))
            continue
        yield (
            place,
            registration.enabled,
            settings.level.value,
            [result for result in SpfResult if decide(settings.level, result) is Action.DEFER],
            [result for result in SpfResult if decide(settings.level, result) is Action.REJECT],
            on_error,
            _remark(settings.level, on_error),
        )


def _remark(level: Level, on_error: str) -> str:
    if level is Level.RECORD and on_error != OnError.SKIP:
        return "the level refuses nothing, a broken check does: set on_error skip"
    if level is not Level.RECORD and on_error == OnError.SKIP:
        return "the level refuses mail, a broken check lets it in: set on_error defer"
    return ""
