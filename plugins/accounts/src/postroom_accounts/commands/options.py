"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from postroom.config import Size, parse_size

F = TypeVar("F", bound=Callable[..., Any])


class Limit(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3
    """A size; `none` is no limit, `domain` what the domain says."""

    name = "SIZE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value in ("none", "0"):
            return 0
        if value == "domain":
            return "domain"
        try:
            return int(parse_size(value))
        except ValueError as error:
            self.fail(f"{error}, 'none' or 'domain'", parameter, context)


def limits(command: F) -> F:
    command = click.option("--message-limit", type=Limit(), help="Largest mail that is taken.")(command)
    return click.option("--quota", type=Limit(), help="How much mail it may hold: 500M, 2G, none.")(command)


def enabled(command: F) -> F:
    return click.option("--enabled/--disabled", default=None, help="Whether it takes mail.")(command)


def given(**options: Any) -> dict[str, Any]:
    """The options that somebody gave, as fields."""
    values = {name: value for name, value in options.items() if value is not None}
    for name in ("quota", "message_limit"):
        if values.get(name) == "domain":
            values[name] = None
    return values


def shown(octets: int | None, inherited: bool = True) -> str:
    if octets is None:
        return "as the domain" if inherited else "none"
    return str(Size(octets)) if octets else "none"


def something(values: dict[str, Any]) -> dict[str, Any]:
    if not values:
        raise click.UsageError("nothing to change: give at least one option")
    return values
