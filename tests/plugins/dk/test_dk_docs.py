"""The page of dk and the code say the same."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from click import Group
from postroom.cli.config import written
from postroom_dk.check import CheckSettings
from postroom_dk.commands import dk
from postroom_dk.results import Status
from postroom_dk.sign import SignSettings

PAGE = Path(__file__).parents[3] / "docs" / "handlers" / "dk.md"


@pytest.mark.parametrize("settings", [CheckSettings(), SignSettings()], ids=lambda settings: type(settings).__name__)
def test_every_setting_is_on_the_page_with_its_default(settings: CheckSettings | SignSettings) -> None:
    page = PAGE.read_text()
    for item in dataclasses.fields(settings):
        default = written(getattr(settings, item.name)) or "none"
        shown = "see below" if item.name == "fields" else f"`{default}`"
        assert f"| `{item.name}` | {shown} | {item.metadata['help']} |" in page


def test_the_page_names_no_setting_that_is_gone() -> None:
    names = {item.name for kind in (CheckSettings, SignSettings) for item in dataclasses.fields(kind)}
    rows = re.findall(r"^\| `(\w+)` \| (?:see below|`[^|]*`) \| ", PAGE.read_text(), flags=re.MULTILINE)
    assert set(rows) - {"dk_check", "dk_sign"} == names


def test_every_command_and_every_result_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert isinstance(dk, Group)
    assert set(re.findall(r"`postroom dk (\w+)", page)) == set(dk.commands)
    assert set(re.findall(r"^\| `(\w+)` \| [^|`]*[^|]*\|$", page, flags=re.MULTILINE)) >= set(Status)


def test_the_fields_signed_by_default_are_on_the_page() -> None:
    assert ", ".join(SignSettings().fields) in PAGE.read_text().replace("\n", " ")
