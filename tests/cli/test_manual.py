"""`postroom manual`: every command has its page, and man shows each without complaint."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
from postroom.cli.compose import Environment
from postroom.cli.main import COMMANDS, postroom, run
from postroom.cli.manual import other_pages, pages
from postroom.fronts import pipe
from requirements import require


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return dict(pages(postroom, Environment()))


def all_paths(group: click.Group, context: click.Context, prefix: str) -> list[str]:
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append(f"{prefix} {name}")
        if isinstance(command, click.Group):
            found += all_paths(command, click.Context(command, info_name=name), f"{prefix} {name}")
    return found


def test_each_command_has_a_page_or_a_section_in_one(written: dict[str, str]) -> None:
    assert {f"postroom-{name}" for name in COMMANDS} <= set(written)
    text = "\n".join(written.values())
    for path in all_paths(postroom, click.Context(postroom, obj=Environment()), "postroom"):
        assert f".B {path}".replace("-", "\\-") in text, path


def test_each_option_is_explained(written: dict[str, str]) -> None:
    assert "\\-\\-position" in written["postroom-postfix"]
    assert "\\-\\-older" in written["postroom-queue"]
    assert "EXIT STATUS" in written["postroom"]


def test_man_shows_each_page(tmp_path: Path) -> None:
    require("groff")
    assert run(postroom, ["manual", str(tmp_path)], "postroom") == 0
    found = sorted(tmp_path.glob("*.1"))
    assert len(found) > len(COMMANDS)
    assert {"postroom-deliver.1", "mail_handlers_control.1"} <= {path.name for path in found}
    for path in found:
        command = ["groff", "-man", "-Tutf8", "-ww", str(path)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert shown.stderr == "", (path, shown.stderr)
        assert path.stem.upper() in shown.stdout


def test_the_programs_beside_postroom_have_pages_with_each_option() -> None:
    written = dict(other_pages())
    for option in pipe.OPTIONS:
        assert option.replace("-", "\\-") in written["postroom-deliver"], option
    for option in ("--add", "--extent", "--mailname ADDRESS"):
        assert option.replace("-", "\\-") in written["mail_handlers_control"], option


def test_text_that_looks_like_a_request_stays_text() -> None:
    @click.command(name="odd", help=".SH no section\n\n\b\n'quoted\n.TH nor this")
    def odd() -> None:
        raise NotImplementedError

    group = click.Group("postroom", commands=[odd])
    page = dict(pages(group, Environment()))["postroom-odd"]
    assert "\n.SH no" not in page
    assert "\n.TH nor" not in page
    assert "\n'quoted" not in page
