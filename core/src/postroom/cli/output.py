"""How commands speak to people: tables on a terminal, aligned text in a pipe, JSON on request, errors in one line."""

from __future__ import annotations

import enum
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

ALIGNED_ROWS = 1000
"""Rows whose width is looked at before the first one is printed; what comes after keeps that alignment."""


READABLE = 12
"""Characters that a column of a table on a terminal needs, if it has so many."""


class ExitStatus(enum.IntEnum):
    DONE = 0
    NO = 1  # the answer is no
    USAGE = 2  # called wrongly, or the configuration is wrong
    TRY_AGAIN = 75  # sysexits.h EX_TEMPFAIL


class CommandFailed(click.ClickException):
    """Ends a command with one line on stderr and that exit status."""

    def __init__(self, message: str, status: int = ExitStatus.NO) -> None:
        super().__init__(message)
        self.exit_code = int(status)  # type: ignore[misc]  # click reads it from the instance, too


def json_option(command: F) -> F:
    """`--json`: print what the command lists as JSON."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.find_root().ensure_object(dict)
            context.obj.as_json = True

    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )
    return option(command)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", as_json: bool = False) -> int:
    """Print rows as they come; the number of them."""
    if as_json:
        return _show_json(columns, rows)
    if sys.stdout.isatty():
        return _show_rich(columns, rows, title)
    return _show_plain(columns, rows)


def text_of(value: Any) -> str:
    """A cell for people: control characters made visible, so that nothing from a mail can steer a terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(text_of(each) for each in value)
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in text)


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain_value(each) for each in value]
    return str(value).encode("utf-8", "backslashreplace").decode()


def show_json(value: Any) -> None:
    click.echo(json.dumps(_plain_value(value), ensure_ascii=False, indent=2))


def _show_json(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    names = [column.lower().replace(" ", "_") for column in columns]
    for row in rows:  # nothing is printed before the first is there: what fails at once leaves no half a list
        click.echo(",\n " if count else "[\n ", nl=False)
        values = {name: _plain_value(value) for name, value in zip(names, row, strict=True)}
        click.echo(json.dumps(values, ensure_ascii=False), nl=False)
        count += 1
    click.echo("\n]" if count else "[]")
    return count


def _show_plain(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    lines = ([text_of(value) for value in row] for row in rows)
    first = list(islice(lines, ALIGNED_ROWS))
    widths = [max(len(each) for each in column) for column in zip(columns, *first, strict=True)]
    count = 0
    click.echo(_aligned(columns, widths))
    for line in chain(first, lines):
        click.echo(_aligned(line, widths))
        count += 1
    return count


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _show_records(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> int:
    """A line for each cell that is not empty, for a terminal that is too narrow for a table."""
    width = max(map(len, columns))
    count = 0
    for count, line in enumerate(lines, 1):
        if count > 1:
            click.echo()
        for column, cell in zip(columns, line, strict=True):
            if cell:
                click.echo(f"{column.ljust(width)}  {cell}")
    return count


def _show_rich(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str) -> int:
    from rich.console import Console  # 20 ms that a pipe does not pay
    from rich.table import Table
    from rich.text import Text

    lines = ([text_of(value) for value in row] for row in rows)
    first = list(islice(lines, ALIGNED_ROWS))
    width = shutil.get_terminal_size().columns
    widths = [max(len(each) for each in column) for column in zip(columns, *first, strict=True)]
    if sum(min(each, READABLE) + 3 for each in widths) >= width:
        return _show_records(columns, chain(first, lines))
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in first:
        table.add_row(*(Text(cell) for cell in line))
    console = Console(width=width)
    console.print(table)
    count = len(first)
    for line in lines:
        console.print("  ".join(line), highlight=False, markup=False)
        count += 1
    return count
