"""What a registration has to be before a command puts it into the registry: a handler that is there, and can do it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.hookspecs import Placement
from postroom.registration import InvalidRegistration, Registration, Stage, Type
from postroom.registry import Filter, NotRegistered

if TYPE_CHECKING:
    from postroom.plugins import Handlers, LoadedHandler
    from postroom.registry import Registry
    from postroom.registry.change import Change

DEFAULT_PRIORITY = 10
SHOWN = 3
"""Registrations that a message names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which registrations of a handler a command means; None does not matter."""

    handler: str
    stage: Stage | None = None
    type: Type | None = None
    address: str | None = None

    @property
    def chosen(self) -> Filter:
        return Filter(self.handler, self.stage, self.type, self.address)

    def __str__(self) -> str:
        stage = f" at {self.stage}" if self.stage else ""
        address = f" for {self.address or 'all'}" if self.address is not None else ""
        type_ = f" ({self.type})" if self.type else ""
        return f"{self.handler}{stage}{address}{type_}"


def check_program(path: str) -> str:
    """The absolute path of an executable file; InvalidRegistration when it is none."""
    program = Path(path).absolute()
    if not program.exists():
        raise InvalidRegistration(f"{program}: there is no such program; give the path of an executable file")
    if not program.is_file():
        raise InvalidRegistration(f"{program}: is no program but something else; give the path of an executable file")
    if not os.access(program, os.X_OK):
        raise InvalidRegistration(f"{program}: is not executable; run `chmod +x {program}`")
    return str(program)


def find_handler(name: str, handlers: Handlers) -> LoadedHandler:
    """The plugin of that name; InvalidRegistration when it is not there."""
    found = handlers.get(name)
    if found is not None:
        return found
    for problem in handlers.problems:
        if problem.name == name:
            raise InvalidRegistration(f"plugin {name!r} cannot be used: {problem.text}")
    close = difflib.get_close_matches(name, handlers.names(), 1)
    hint = f"did you mean {close[0]!r}?" if close else f"installed: {', '.join(handlers.names()) or 'none'}"
    raise InvalidRegistration(f"there is no handler {name!r}: {hint} (for a program, give its path)")


def check_against(registration: Registration, handlers: Handlers) -> None:
    """InvalidRegistration or ConfigError when its handler is not there, or could not act so."""
    if registration.executable:
        check_program(registration.executable)
        return
    handler = find_handler(registration.handler, handlers)
    check_stage(handler, registration.stage)
    handler.check_context(registration.context)


def check_stage(handler: LoadedHandler, stage: Stage) -> None:
    if stage not in handler.stages:
        acts = ", ".join(each for each in Stage if each in handler.stages)
        raise InvalidRegistration(f"{handler.name} does not act at {stage}: it has hooks for {acts}")


def choose_placements(
    handler: LoadedHandler, stage: Stage | None, type_: Type | None, addresses: Sequence[str]
) -> list[Placement]:
    """Where it shall act: its default placements as far as the command leaves that open."""
    if stage is not None:
        check_stage(handler, stage)
    defaults = handler.info.placements
    fitting = [each for each in defaults if stage in (None, each.stage) and type_ in (None, each.type)]
    fitting = [each for each in fitting if type_ is not None or _fits(each.type, addresses)]
    if fitting:
        return fitting
    if type_ is None:
        if addresses or stage is None:
            types = ", ".join(sorted({str(each.type) for each in defaults})) or "nothing"
            given = f"for {addresses[0]!r}" if addresses else "without an address"
            raise InvalidRegistration(
                f"{handler.name} has no default {given}: it acts for {types}; give --type, and --address where needed"
            )
        type_ = Type.GLOBAL
    stages = [stage] if stage else list(dict.fromkeys(each.stage for each in defaults))
    if not stages:
        raise InvalidRegistration(f"{handler.name} has no default stage: say at which it shall act")
    return [Placement(each, type_, _usual_priority(defaults, each)) for each in stages]


def _fits(type_: Type, addresses: Sequence[str]) -> bool:
    match type_:
        case Type.GLOBAL:
            return not addresses
        case Type.SENDER | Type.RECIPIENT:
            return bool(addresses) and all("@" in address for address in addresses)
        case Type.SENDER_DOMAIN | Type.RECIPIENT_DOMAIN:
            return bool(addresses) and not any("@" in address for address in addresses)


def _usual_priority(defaults: Iterable[Placement], stage: Stage) -> int:
    """That of the default placement at the stage, or else of any."""
    ranked = sorted(defaults, key=lambda each: each.stage is not stage)
    return ranked[0].priority if ranked else DEFAULT_PRIORITY


def refuse_unregistered(registry: Registry, target: Target) -> NotRegistered:
    """The error that names the near misses. Outside a change: it looks further than the change did."""
    others = registry.list(handler=target.handler)
    near = [str(each) for each, _ in zip(others, range(SHOWN + 1), strict=False)]
    if near:
        more = ", …" if len(near) > SHOWN else ""
        return NotRegistered(f"{target} is not registered; registered: {', '.join(near[:SHOWN])}{more}")
    close = difflib.get_close_matches(target.handler, registry.handlers(), 3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see `postroom handlers list`"
    return NotRegistered(f"{target} is not registered; {hint}")


def find_target(change: Change, target: Target, *, several: bool, remedy: str) -> Sequence[Registration]:
    """What is meant; InvalidRegistration when it is more than one and that was not asked for. Empty: nothing is."""
    found = change.find(target.chosen)
    if len(found) > 1 and not several:
        named = ", ".join(map(str, found[:SHOWN])) + (", …" if len(found) > SHOWN else "")
        raise InvalidRegistration(f"{target} means {len(found)} registrations ({named}): {remedy}")
    return found
