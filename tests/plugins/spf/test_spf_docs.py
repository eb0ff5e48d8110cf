"""The handler's page says what the settings are."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from postroom.config import Config, parse_config
from postroom.plugins import LoadedHandler, load_plugin
from postroom_spf.handler import handler
from postroom_spf.settings import Level, SpfSettings

PAGE = (Path(__file__).parents[3] / "docs/handlers/spf.md").read_text()
SECTION = PAGE.split("## Settings")[1].split("\n## ")[0]


def test_the_table_lists_every_setting_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", SECTION, re.MULTILINE)
    defaults = SpfSettings()
    assert [name for name, _ in rows] == [item.name for item in dataclasses.fields(SpfSettings)]
    for name, shown in rows:
        value = getattr(defaults, name)
        expected = "none" if value in ("", ()) else f"`{str(value).lower() if isinstance(value, bool) else value}`"
        assert shown == expected, name


def test_the_example_is_a_configuration() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    loaded = load_plugin("spf", handler, parse_config(example, "docs/handlers/spf.md"))
    assert isinstance(loaded, LoadedHandler)
    assert isinstance(loaded.base_settings, SpfSettings)
    assert loaded.base_settings.level is Level.REJECT_FAIL
    assert isinstance(load_plugin("spf", handler, Config()), LoadedHandler)
