"""Writes what the code knows best: the tables of configuration.md, and command-line.md. `python docs/generate.py`"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from postroom.cli.compose import Environment
from postroom.cli.config import written
from postroom.cli.main import postroom
from postroom.config import Config
from postroom.plugins import CommonSettings

PAGE = Path(__file__).parent / "configuration.md"
BEGIN, END = "<!-- settings: written by docs/generate.py -->\n", "<!-- end of settings -->\n"


def tables() -> str:
    """A section a table, a row a key."""
    parts = []
    for table in dataclasses.fields(Config):
        settings = getattr(Config(), table.name)
        if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
            parts.append(section(f"[{table.name}]", settings))
    parts.append(section("[handlers.NAME], for every handler", CommonSettings()))
    return "\n".join(parts)


def section(title: str, settings: object) -> str:
    rows = [
        f"| `{item.name}` | `{written(getattr(settings, item.name)) or 'none'}` | {item.metadata['help']} |"
        for item in dataclasses.fields(settings)  # type: ignore[arg-type]  # a dataclass
    ]
    return "\n".join([f"### {title}", "", "| key | default | what it does |", "| --- | --- | --- |", *rows, ""])


def page(current: str) -> str:
    head, _, rest = current.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{tables()}\n{END}{tail}"


COMMAND_PAGE = Path(__file__).parent / "command-line.md"
INTRODUCTION = """# The command line

Every command takes `--help`; that of every group has examples. What lists takes `--json`. An error is one line on
stderr that names the thing and the remedy. Exit status: 0 done, 1 the answer is no, 2 wrong usage, 75 try again.
`mail_handlers_control` keeps the options and the two tables of the system that it comes from; `postroom-deliver` is
called by the mail server (see delivery.md).

Written by docs/generate.py.
"""


def commands(group: click.Group, context: click.Context, prefix: str) -> list[str]:
    """A section a command, groups before what is in them."""
    sections = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        path = f"{prefix} {name}"
        inner = click.Context(command, info_name=path, max_content_width=110, terminal_width=110)
        sections.append(f"## `{path}`\n\n```\n{inner.get_help()}\n```\n")
        if isinstance(command, click.Group):
            sections += commands(command, inner, path)
    return sections


def command_page() -> str:
    root = click.Context(postroom, info_name="postroom", obj=Environment())
    return "\n".join([INTRODUCTION, *commands(postroom, root, "postroom")])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    COMMAND_PAGE.write_text(command_page())
