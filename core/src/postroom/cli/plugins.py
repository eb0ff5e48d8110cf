"""`postroom plugins`: what is installed, and turning it on and off as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from postroom.cli.compose import Environment
from postroom.cli.output import json_option
from postroom.cli.who import who
from postroom.plugins import LoadedHandler
from postroom.registration import Registration, Stage, Type


@click.group()
def plugins() -> None:
    """List, enable and disable installed plugins.

    \b
    Examples:
      postroom plugins list
      postroom plugins enable grey     register its default placements, and enable all of its registrations
      postroom plugins disable grey    disable all of its registrations; they are kept
    """


@plugins.command("list")
@json_option
@click.pass_obj
def list_plugins(environment: Environment) -> None:
    """What is installed, where it acts, and what could not be loaded and why. Exit status 1 if one is broken."""
    handlers = environment.handlers()
    counts: dict[str, list[int]] = {}
    for registration in environment.open_registry().list():
        count = counts.setdefault(registration.handler, [0, 0])
        count[0] += registration.enabled
        count[1] += 1
    environment.show(
        ("plugin", "state", "version", "distribution", "stages", "enabled", "registered", "what"),
        _rows(environment, counts),
    )
    if handlers.problems:
        environment.fail(f"{len(handlers.problems)} installed plugin(s) cannot be used: see the list")


def _rows(environment: Environment, counts: dict[str, list[int]]) -> Iterator[tuple[Any, ...]]:
    handlers = environment.handlers()
    for name in handlers.names():
        handler = handlers.by_name[name]
        enabled, registered = counts.get(name, [0, 0])
        stages = [str(stage) for stage in Stage if stage in handler.stages]
        state = "enabled" if enabled else "off"
        yield (name, state, handler.version, handler.distribution, stages, enabled, registered, handler.info.summary)
    for observer in handlers.observers:
        yield (observer.name, "observer", "", "", [], 0, 0, "observes; changes nothing")
    for extension in handlers.extensions.values():
        what = "commands and diagnosis; handles no mail"
        yield (extension.name, "service", extension.version, extension.distribution, [], 0, 0, what)
    for problem in handlers.problems:
        enabled, registered = counts.get(problem.name, [0, 0])
        yield (problem.name, "broken", "", problem.distribution, [], enabled, registered, problem.text)


@plugins.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def enable(environment: Environment, names: tuple[str, ...]) -> None:
    """Register a plugin's default placements where nothing is registered, and enable all its registrations."""
    handlers = [environment.handler(name) for name in names]
    registry = environment.open_registry()
    wanted = [(handler, list(registry.list(handler=handler.name))) for handler in handlers]
    for handler, known in wanted:
        if not known and not _for_all_mail(handler):
            types = ", ".join(sorted({str(each.type) for each in handler.info.placements}))
            environment.fail(
                f"{handler.name} acts for single addresses ({types}): postroom handlers add {handler.name} --address …"
            )
    with registry.change(who(), f"enable {', '.join(names)}") as change:
        for handler, known in wanted:
            if not known:
                for registration in _for_all_mail(handler):
                    change.add(registration)
                    click.echo(f"registered and enabled: {registration}")
            for registration in known:
                if not registration.enabled:
                    change.update(replace(registration, enabled=True))
                    click.echo(f"enabled: {registration}")
            if known and all(each.enabled for each in known):
                click.echo(f"{handler.name} was enabled already")


def _for_all_mail(handler: LoadedHandler) -> list[Registration]:
    """The default placements that need no address, enabled."""
    return [
        Registration(handler.name, each.stage, each.type, priority=each.priority, enabled=True)
        for each in handler.info.placements
        if each.type is Type.GLOBAL
    ]


@plugins.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def disable(environment: Environment, names: tuple[str, ...]) -> None:
    """Disable all registrations of a plugin; they are kept. Works for one that is no longer installed, too."""
    registry = environment.open_registry()
    wanted = [(name, list(registry.list(handler=name))) for name in names]
    for name, known in wanted:
        if not known:
            environment.fail(f"nothing is registered for {name!r}; see 'postroom handlers list'")
    with registry.change(who(), f"disable {', '.join(names)}") as change:
        for name, known in wanted:
            for registration in known:
                if registration.enabled:
                    change.update(replace(registration, enabled=False))
                    click.echo(f"disabled: {registration}")
            if not any(each.enabled for each in known):
                click.echo(f"{name} was off already")
