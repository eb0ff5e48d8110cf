"""The handler's page says what the code does."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from plugins.grey.greylisting import Console, Desk
from postroom.testing import envelope
from postroom_grey.commands import grey
from postroom_grey.settings import PERSONAL_SETTINGS, GreySettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "handlers" / "grey.md").read_text()
README = (ROOT / "plugins" / "grey" / "README.md").read_text()


def test_the_page_lists_every_setting_with_its_default_and_meaning() -> None:
    section = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| (.*) \|$", section, re.MULTILINE)
    words = {True: "yes", False: "no"}
    expected = [
        (
            field.name,
            words[field.default] if isinstance(field.default, bool) else str(field.default),
            field.metadata["help"],
        )
        for field in dataclasses.fields(GreySettings)
    ]
    assert listed == expected
    assert set(PERSONAL_SETTINGS) <= set(re.findall(r"`(\w+)`", section.partition("can be set for a domain")[0]))


def test_the_page_names_every_command() -> None:
    assert set(re.findall(r"`postroom grey (\w+)", PAGE)) == set(grey.commands)


EXAMPLES = sorted(
    {*re.findall(r"^\| `postroom grey ([^`]+)` \|", PAGE, re.MULTILINE)}
    | {found.strip() for found in re.findall(r"^    postroom grey ([^#\n]+)", README, re.MULTILINE)}
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_run(console: Console, desk: Desk, example: str) -> None:
    for sender in ("alice@example.org", "alice@example.net"):
        desk.receive(envelope(sender, client="192.0.2.1"))
    console(*shlex.split(example))
