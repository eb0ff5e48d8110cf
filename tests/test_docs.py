"""The documents say what the code does: every setting, hook, command and handler has its place, and examples run."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from postroom.cli.compose import Environment
from postroom.cli.main import COMMANDS, postroom
from postroom.config import Config, parse_config
from postroom.hookspecs import HandlerHooks
from postroom.plugins import find_handlers

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def read(name: str) -> str:
    return (DOCS / name).read_text()


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_tables_are_the_settings() -> None:
    assert generator().page(read("configuration.md")) == read("configuration.md"), "run: python docs/generate.py"


def test_the_example_configuration_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", read("configuration.md"), re.DOTALL)
    config = parse_config(example, "docs/configuration.md")
    assert config.handlers == {"grey": {"on_error": "skip"}}


def test_every_hook_is_explained_to_authors() -> None:
    text = read("writing-handlers.md") + (ROOT / "core/src/postroom/hookspecs.py").read_text()
    for name in (name for name in vars(HandlerHooks) if not name.startswith("_")):
        assert name in text


def test_the_smallest_handler_of_the_docs_works() -> None:
    from postroom.plugins import LoadedHandler, load_plugin
    from postroom.testing import message
    from postroom.verdict import Action

    example = re.findall(r"```python\n(.*?)```", read("writing-handlers.md"), re.DOTALL)[0]
    namespace: dict[str, object] = {}
    exec(compile(example, "writing-handlers.md", "exec"), namespace)
    loaded = load_plugin("no-executables", namespace["handler"], Config())
    assert isinstance(loaded, LoadedHandler)
    verdict = loaded.hooks["before_queue"](message=message(b"Subject: run.EXE\r\n\r\n"))
    assert verdict.action is Action.REJECT


def test_the_command_page_is_what_the_commands_say() -> None:
    # in a process of its own: click keeps the help option of a command's first call, which other tests may have made
    program = f"import runpy, sys; sys.stdout.write(runpy.run_path({str(DOCS / 'generate.py')!r})['command_page']())"
    page = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60).stdout.decode()
    assert page == read("command-line.md"), "run: python docs/generate.py"


def test_every_command_has_help() -> None:
    context = click.Context(postroom)
    for name in COMMANDS:
        command = postroom.get_command(context, name)
        assert command is not None
        assert command.help, name


@pytest.mark.parametrize("name", find_handlers(Config()).names())
def test_every_handler_has_a_page_that_lists_its_settings(name: str) -> None:
    handler = find_handlers(Config()).by_name[name]
    pages = [page for page in (DOCS / "handlers").glob("*.md") if f"`{name}`" in page.read_text()]
    assert pages, f"no page under docs/handlers names `{name}`"
    text = "".join(page.read_text() for page in pages)
    assert [item.name for item in dataclasses.fields(handler.info.settings) if f"`{item.name}`" not in text] == []


def test_every_file_that_the_readme_names_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", readme) + re.findall(r"^    (scripts/\w+)", readme, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_every_pyproject_is_well_formed_and_licensed() -> None:
    for path in [ROOT / "core/pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        assert project["license"] == "MIT", path


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("*/*/README.md")), *sorted(DOCS.rglob("*.md"))]
ANY = {"…", "...", "NAME", "HANDLER"}


def spoken_commands(text: str) -> list[str]:
    """Each `postroom …` in a line of its own, of a block or of an example, and in code within a sentence."""
    joined = re.sub(r"\\\n\s*", " ", text)
    shown = re.findall(r"^(?: {2,}|\$ |# |    \$ |.*&& |.*\| )(postroom [a-z-].*)$", joined, re.MULTILINE)
    fenced = [
        line
        for block in re.findall(r"^```\w*\n(.*?)^```", joined, re.DOTALL | re.MULTILINE)
        for line in re.findall(r"^(postroom [a-z-].*)$", block, re.MULTILINE)
    ]
    return [*shown, *fenced, *(" ".join(each.split()) for each in re.findall(r"`(postroom [^`]+)`", text))]


def why_not(words: list[str]) -> str:
    """What of a command line there is not; empty: it is all there."""
    command: click.Command = postroom
    context = click.Context(postroom, info_name="postroom", obj=Environment())
    rest = iter(words[1:])
    for word in rest:
        if word in ("|", "||", "&&", ";") or word.startswith((">", "<", "#")):
            break
        if word.startswith("-") and len(word) > 1:
            name, equals, _ = word.partition("=")
            found = [each for each in command.params if name in (*each.opts, *each.secondary_opts)]
            if not found and name not in ("--help", "--version"):
                return f"{command.name} has no option {name}"
            if found and isinstance(found[0], click.Option) and not (equals or found[0].is_flag):
                next(rest, None)
        elif isinstance(command, click.Group):
            several = [command.get_command(context, each) for each in word.split("|") if each not in ANY]
            if None in several:
                return f"{command.name} has no command {word}"
            if len(several) != 1 or several[0] is None:
                break  # what follows goes with each of them
            command = several[0]
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_is_one(page: Path) -> None:
    text = page.read_text().replace("postroom   unix", "")  # an entry of master.cf
    wrong = {}
    for command in spoken_commands(text):
        words = shlex.split(command, comments=True)
        if words[1:2] != ["unix"] and (why := why_not(words)):
            wrong[command] = why
    assert wrong == {}


def test_a_command_line_that_is_none_is_seen() -> None:
    assert spoken_commands("see `postroom queue\nlist --nothing`, and\n    postroom grey lisst\n") == [
        "postroom grey lisst", "postroom queue list --nothing",
    ]  # fmt: skip
    assert why_not(["postroom", "grey", "lisst"]) == "grey has no command lisst"
    assert why_not(["postroom", "queue", "list", "--nothing"]) == "list has no option --nothing"
    assert why_not(["postroom", "postfix|qmail", "instal"]) == ""
    assert why_not(["postroom", "queue", "list", "--sender", "--x", "--json", "|", "wc", "-l"]) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    tables = {each.name: getattr(Config(), each.name) for each in dataclasses.fields(Config)}
    wrong = [
        f"[{table}] {key}"
        for table, key in re.findall(r"`\[([a-z]+)\] ([a-z_]+)", page.read_text())
        if table not in tables or not hasattr(tables[table], key)
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", page.read_text()))
    ours = [str(path) for part in ("core", "plugins", "tests", "docs") for path in (ROOT / part).rglob("*.py")]
    assert [each for each in sorted(named) if not any(path.endswith(f"/{each}") for path in ours)] == []
