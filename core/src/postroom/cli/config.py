"""`postroom config`: every setting there is, with its value in force, its default and what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from postroom.cli.compose import Environment
from postroom.cli.output import json_option
from postroom.config import Config

COLUMNS = ("key", "value", "default", "what it does")


@click.group()
def config() -> None:
    """Show and check the configuration.

    \b
    Examples:
      postroom config list
      postroom config list --table milter
      postroom --config new.toml config check
    """


@config.command("list")
@click.option("--table", metavar="NAME", help="Only that table, for example milter or handlers.grey.")
@json_option
@click.pass_obj
def list_settings(environment: Environment, table: str | None) -> None:
    """Every setting, with its value in force and its default. Secrets are not shown."""
    rows = [*core_rows(environment.config), *_handler_rows(environment)]
    shown = [row for row in rows if table is None or row[0].startswith(f"{table}.")]
    if not shown:
        environment.fail(f"there is no table {table!r}", status=2)
    environment.show(COLUMNS, shown)


@config.command()
@click.pass_obj
def check(environment: Environment) -> None:
    """Read the configuration and every handler's table; say what is wrong. Exit status 2 when something is."""
    problems = [each.text for each in environment.handlers().problems]
    if problems:
        environment.fail("; ".join(problems), status=2)
    click.echo(f"{environment.config.source}: well-formed")


def core_rows(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """(key, value in force, default, what it does) of the core's tables."""
    default = Config()
    for table in dataclasses.fields(Config):
        settings = getattr(config, table.name)
        if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
            yield from rows_of(table.name, settings, getattr(default, table.name))


def rows_of(table: str, settings: Any, default: Any) -> Iterator[tuple[str, str, str, str]]:
    for item in dataclasses.fields(settings):
        secret = bool(item.metadata.get("secret"))
        value, usual = getattr(settings, item.name), getattr(default, item.name)
        yield (
            f"{table}.{item.name}",
            "(set, not shown)" if secret and value else written(value),
            written(usual),
            item.metadata.get("help", ""),
        )


def _handler_rows(environment: Environment) -> Iterator[tuple[str, str, str, str]]:
    handlers = environment.handlers()
    for name in handlers.names():
        handler = handlers.by_name[name]
        yield from rows_of(f"handlers.{name}", handler.base_settings, handler.info.settings())


def written(value: Any) -> str:
    """A value as one writes it in the file."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case tuple() | list():
            return "[" + ", ".join(written(each) for each in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {written(each)}" for key, each in value.items()) + "}"
        case int() | float() if type(value) in (int, float):
            return str(value)
        case _:
            return f'"{value}"'
