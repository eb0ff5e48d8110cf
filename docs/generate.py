"""Writes the tables of docs/configuration.md from the settings themselves: `python docs/generate.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from postroom.cli.config import written
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


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
