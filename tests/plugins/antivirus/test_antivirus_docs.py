"""The handlers' page and README say what the code does, and their examples run."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from postroom.cli.compose import Environment
from postroom.cli.config import written
from postroom.cli.main import postroom
from postroom.config import parse_config
from postroom.plugins import find_handlers
from postroom_antivirus.commands import antivirus
from postroom_antivirus.policy import Danger
from postroom_antivirus.settings import ClamavSettings, Consequence, DrwebSettings, KasperskySettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "handlers" / "antivirus.md").read_text()
README = (ROOT / "plugins" / "antivirus" / "README.md").read_text()


@pytest.mark.parametrize("kind", [ClamavSettings, DrwebSettings, KasperskySettings])
def test_the_page_lists_every_setting_with_its_default_and_meaning(kind: type) -> None:
    section = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    for field in dataclasses.fields(kind):
        assert f"`{written(getattr(kind(), field.name))}`" in rows[field.name]
        if field.name != "servers":
            assert field.metadata["help"] in rows[field.name]


def test_the_page_names_every_command_consequence_and_word_of_the_header() -> None:
    assert set(re.findall(r"^\| `postroom antivirus (\w+)", PAGE, re.MULTILINE)) == set(antivirus.commands)
    for word in (*Consequence, *Danger):
        assert f"`{word}`" in PAGE


REGISTRATIONS = [
    (mailbox.strip(), command)
    for mailbox, command in re.findall(r"^\| ([\w ]+) \| `(postroom handlers [^`]+)` \|", PAGE, re.MULTILINE)
]
IN, OUT = ("before-queue", "recipient", "bob@example.org"), ("before-remote", "sender", "bob@example.org")
MADE = {
    "both ways": {IN, OUT},
    "incoming": {IN},
    "outgoing": {OUT},
    "off": set(),
    "a whole domain": {("before-queue", "recipient-domain", "example.org")},
    "everybody": {("before-queue", "global", "")},
}


def test_all_registrations_are_tried() -> None:
    assert {mailbox for mailbox, _ in REGISTRATIONS} == set(MADE)


@pytest.mark.parametrize(("mailbox", "command"), REGISTRATIONS)
def test_the_commands_that_protect_a_mailbox_do_so(mailbox: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "postroom.toml"
    path.write_text(f'[paths]\nstate = "{tmp_path}"\nrun = "{tmp_path}"\n')
    commands = [command] if mailbox != "off" else [dict(REGISTRATIONS)["both ways"], command]
    for words in commands:
        result = CliRunner().invoke(postroom, ["--config", str(path), *shlex.split(words)[1:]])
        assert result.exit_code == 0, (words, result.output)
    enabled = [each for each in Environment(str(path)).registrations("clamav") if each.enabled]
    assert {(str(each.stage), str(each.type), each.address) for each in enabled} == MADE[mailbox]
    assert {each.priority for each in enabled} <= {20}


def test_the_readmes_configuration_is_one() -> None:
    example = re.findall(r"(?:^    .*\n|^    \[.*\n)+", README, re.MULTILINE)[1]
    handlers = find_handlers(parse_config(example.replace("\n    ", "\n").strip(), "README.md"))
    settings = handlers.by_name["clamav"].base_settings
    assert [str(server) for server in settings.servers] == ["unix:/run/clamav/clamd.ctl", "inet:192.0.2.10:3310"]
    assert settings.infected is Consequence.QUARANTINE
