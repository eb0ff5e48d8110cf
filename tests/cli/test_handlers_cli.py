"""`postroom handlers`: what each verb does to the registry, prints, and answers with; errors are one line."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from postroom.cli.compose import Environment
from postroom.cli.handlers import handlers as handlers_group
from postroom.cli.main import run
from postroom.config import Config, Paths, setting
from postroom.hookspecs import HandlerInfo, Placement, hookimpl
from postroom.plugins import Handlers, load_plugin
from postroom.registration import Mode, OnError, Registration, Stage, Type
from postroom.verdict import Verdict


@dataclass(frozen=True)
class Settings:
    debug: bool = setting(False, help="Say more.", word=True)
    level: int = setting(1, help="How strict.", least=1, most=6)


class Plugin:
    """Acts at the stages of its placements."""

    def __init__(self, *placements: Placement) -> None:
        self._placements = placements

    @hookimpl
    def describe(self) -> HandlerInfo:
        stages = frozenset(placement.stage for placement in self._placements)
        return HandlerInfo("for tests", self._placements, settings=Settings, stages=stages)

    @hookimpl
    def before_data(self) -> Verdict:
        raise NotImplementedError

    @hookimpl
    def before_queue(self) -> Verdict:
        raise NotImplementedError

    @hookimpl
    def before_remote(self) -> Verdict:
        raise NotImplementedError


@dataclass
class Line:
    """The command line of one host."""

    environment: Environment
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What the command printed: on stdout when it ended well, else its one line on stderr."""

        @click.group()
        @click.pass_context
        def root(context: click.Context) -> None:
            self.environment.as_json = False
            context.obj = self.environment

        root.add_command(handlers_group)
        assert run(root, ["handlers", *arguments], "postroom") == status
        out, err = self.capsys.readouterr()
        if status == 0:
            assert err == ""
            return out
        assert err.count("\n") == 1, err
        assert err.startswith("postroom")
        return err

    @property
    def now(self) -> list[Registration]:
        return list(self.environment.open_registry().list())

    @property
    def generation(self) -> int:
        return self.environment.open_registry().generation()


@pytest.fixture
def line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    environment = Environment()
    config = Config(paths=Paths(state=tmp_path / "state", run=tmp_path / "run"))
    plugins: dict[str, Any] = {
        "grey": Plugin(Placement(Stage.BEFORE_DATA, Type.GLOBAL, 5)),
        "scan": Plugin(
            Placement(Stage.BEFORE_QUEUE, Type.RECIPIENT, 20), Placement(Stage.BEFORE_REMOTE, Type.SENDER, 21)
        ),
    }
    loaded = {name: load_plugin(name, plugin, config) for name, plugin in plugins.items()}
    environment.__dict__["config"] = config
    environment.__dict__["_handlers"] = Handlers(loaded)  # type: ignore[arg-type]  # none of them is an observer
    return Line(environment, capsys)


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "footer"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


GREY = Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, "", 5)
SCAN_IN = Registration("scan", Stage.BEFORE_QUEUE, Type.RECIPIENT, "bob@example.org", 20)
SCAN_OUT = Registration("scan", Stage.BEFORE_REMOTE, Type.SENDER, "bob@example.org", 21)


# add


def test_add_registers_the_default_placements(line: Line) -> None:
    out = line("add", "grey")
    assert out == "registered, not enabled: grey at before-data for all (global), priority 5\n"
    assert line.now == [GREY]


def test_add_for_an_address_takes_the_placements_that_have_one(line: Line) -> None:
    line("add", "scan", "--address", "Bob@Example.ORG", "--enabled")
    assert {each.key for each in line.now} == {SCAN_IN.key, SCAN_OUT.key}
    assert {each.priority for each in line.now} == {20, 21}
    assert all(each.enabled for each in line.now)
    assert line.generation == 1


def test_add_takes_several_addresses_and_every_value(line: Line) -> None:
    line(
        *["add", "scan", "--type", "recipient", "--address", "a@example.org", "--address", "b@example.org"],
        *["--priority", "7", "--context", "level=3, debug", "--mode", "shadow", "--on-error", "skip"],
    )
    assert line.now == [
        Registration(
            *("scan", Stage.BEFORE_QUEUE, Type.RECIPIENT, address, 7, False, "level=3, debug"),
            Mode.SHADOW,
            OnError.SKIP,
        )
        for address in ("a@example.org", "b@example.org")
    ]


def test_add_elsewhere_than_by_default(line: Line) -> None:
    line("add", "grey", "--type", "recipient-domain", "--address", "b\u00fccher.example")
    line("add", "scan", "--stage", "before-remote", "--type", "global")
    assert [each.key for each in line.now] == [
        ("scan", Stage.BEFORE_REMOTE, Type.GLOBAL, ""),
        ("grey", Stage.BEFORE_DATA, Type.RECIPIENT_DOMAIN, "xn--bcher-kva.example"),
    ]
    assert [each.priority for each in line.now] == [21, 5]


def test_add_a_program(line: Line, program: str) -> None:
    line("add", "footer", "--exec", program, "--stage", "before-local", "--type", "global", "--context", "any words")
    assert line.now == [
        Registration("footer", Stage.BEFORE_LOCAL, Type.GLOBAL, context="any words", executable=program)
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gray"], "there is no handler 'gray': did you mean 'grey'?"),
        (["x"], "there is no handler 'x': installed: grey, scan"),
        (["a/b"], "'a/b' is no handler name"),
        (["grey", "--stage", "later"], "'later' is not one of 'before-data'"),
        (["grey", "--type", "everybody"], "'everybody' is not one of 'global'"),
        (["grey", "--stage", "before-local"], "grey does not act at before-local: it has hooks for before-data"),
        (["grey", "--context", "nonsense"], "context 'nonsense' of grey: 'nonsense' is no setting"),
        (["grey", "--context", "level=9"], "level: 9 is too large: at most 6"),
        (["grey", "--priority", "99999"], "99999 is not in the range"),
        (["grey", "--address", "bob@example.org"], "has no default for 'bob@example.org'"),
        (["grey", "--type", "global", "--address", "x@example.org"], "type global takes no address"),
        (["scan"], "scan has no default without an address"),
        (["scan", "--type", "recipient"], "type recipient needs an address"),
        (["scan", "--type", "recipient", "--address", "example.org"], "'example.org' is no address"),
        (["scan", "--type", "recipient", "--address", "a b@example.org"], "is no address: leave out blanks"),
        (["scan", "--type", "recipient", "--address", "a@b..example"], "has no possible domain"),
        (["scan", "--type", "sender-domain", "--address", ".example.org"], "has no possible domain"),
        (["scan", "--type", "sender-domain", "--address", "x" * 64 + ".example"], "has no possible domain"),
        (["scan", "--type", "sender-domain", "--address", "\u00e4..example"], "has no possible domain"),
        (["scan", "--type", "sender-domain", "--address", "."], "has no possible domain"),
        (["scan", "--type", "recipient", "--address", '"a b" c@example.org'], "is no address: leave out blanks"),
        (["scan", "--type", "recipient", "--address", "a@b@example.org"], "more than one '@'"),
        (["scan", "--type", "recipient-domain", "--address", "a@example.org"], "takes a domain"),
        (["f", "--exec", "/nowhere/f", "--stage", "before-data", "--type", "global"], "/nowhere/f: there is no such"),
        (["f", "--exec", "/etc", "--stage", "before-data", "--type", "global"], "/etc: is no program"),
        (["f", "--exec", "/etc/passwd", "--stage", "before-data", "--type", "global"], "is not executable; run `chmod"),
        (["f", "--exec", sys.executable], "is a program, which has no defaults: give --stage and --type"),
    ],
)
def test_what_cannot_be_added_is_named_and_changes_nothing(line: Line, arguments: list[str], said: str) -> None:
    assert said in line("add", *arguments, status=2)
    assert line.generation == 0


def test_a_wrong_one_among_several_changes_nothing(line: Line) -> None:
    line("add", "scan", "--address", "a@example.org", "--address", "b", "--type", "recipient", status=2)
    assert line.now == []
    line("add", "scan", "--address", "a@example.org", "--stage", "before-queue")
    said = line("add", "scan", "--address", "a@example.org", status=1)
    assert "scan at before-queue for a@example.org (recipient): is registered already" in said
    assert line.generation == 1


# set, enable, disable, remove


def test_enable_disable_remove(line: Line) -> None:
    line("add", "grey")
    assert line("enable", "grey") == "enabled: grey at before-data for all (global)\n"
    assert [each.enabled for each in line.now] == [True]
    assert line("enable", "grey") == "enabled already: grey at before-data for all (global)\n"
    line("disable", "grey", "--address", "")
    assert [each.enabled for each in line.now] == [False]
    line("remove", "grey", "--stage", "before-data")
    assert line.now == []
    assert line.generation == 4


def test_several_matches_want_all(line: Line) -> None:
    line("add", "scan", "--address", "bob@example.org")
    said = line("enable", "scan", status=2)
    assert "scan means 2 registrations (scan at before-queue for bob@example.org (recipient)" in said
    assert "--all" in said
    assert not any(each.enabled for each in line.now)
    line("enable", "scan", "--type", "sender")
    assert [each.key for each in line.now if each.enabled] == [SCAN_OUT.key]
    line("enable", "scan", "--all")
    assert all(each.enabled for each in line.now)


@pytest.mark.parametrize("verb", ["enable", "disable", "remove", "set"])
def test_what_is_not_registered_is_answered_with_the_near_misses(line: Line, verb: str) -> None:
    more = ["--priority", "1"] if verb == "set" else []
    line("add", "grey")
    assert "gray is not registered; did you mean 'grey'?" in line(verb, "gray", *more, status=1)
    assert "zzz is not registered; see `postroom handlers list`" in line(verb, "zzz", *more, status=1)
    said = line(verb, "grey", "--address", "Bob@example.org", *more, status=1)
    assert "grey for bob@example.org is not registered; registered: grey at before-data for all (global)" in said
    assert line.generation == 1


def test_set_changes_only_what_is_given(line: Line, program: str) -> None:
    line("add", "grey", "--context", "level=2", "--on-error", "skip")
    line("set", "grey", "--priority", "9", "--mode", "shadow")
    line("set", "grey", "--on-error", "declared", "--enabled")
    assert line.now == [Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, "", 9, True, "level=2", Mode.SHADOW, None)]
    line("set", "grey", "--exec", program, "--context", "words for a program")
    assert line.now[0].executable == program
    assert "'words for a program' is no setting" in line("set", "grey", "--exec", "", status=2)
    line("set", "grey", "--exec", "", "--context", "")
    assert (line.now[0].executable, line.now[0].context) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to set"),
        (["--context", "level=0"], "too small: at least 1"),
        (["--exec", "/nowhere/f"], "/nowhere/f: there is no such program"),
        (["--mode", "quiet"], "'quiet' is not one of"),
    ],
)
def test_what_cannot_be_set_changes_nothing(line: Line, arguments: list[str], said: str) -> None:
    line("add", "grey")
    assert said in line("set", "grey", *arguments, status=2)
    assert line.now == [GREY]
    assert line.generation == 1


def test_a_plugin_that_is_gone_can_still_be_turned_off(line: Line) -> None:
    line("add", "grey", "--enabled")
    line.environment.__dict__["_handlers"] = Handlers()
    line("disable", "grey")
    line("set", "grey", "--priority", "1")
    line("remove", "grey")
    assert line.now == []


# list


def test_list_is_in_the_order_of_acting_inside_an_address(line: Line) -> None:
    line("add", "scan", "--address", "bob@example.org")
    line("add", "grey", "--enabled")
    line("add", "scan", "--stage", "before-queue", "--type", "sender", "--address", "bob@example.org")
    lines = line("list").splitlines()
    assert [each.split()[:6] for each in lines] == [
        ["enabled", "priority", "handler", "stage", "type", "address"],
        ["yes", "5", "grey", "before-data", "global", "all"],
        ["no", "20", "scan", "before-queue", "sender", "bob@example.org"],
        ["no", "20", "scan", "before-queue", "recipient", "bob@example.org"],
        ["no", "21", "scan", "before-remote", "sender", "bob@example.org"],
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--enabled"], ["grey"]),
        (["--disabled"], ["scan", "scan"]),
        (["--name", "scan", "--stage", "before-queue"], ["scan"]),
        (["--type", "global"], ["grey"]),
        (["--address", "BOB@example.org"], ["scan", "scan"]),
        (["--address", ""], ["grey"]),
        (["--at", "1"], ["grey"]),
        (["--limit", "2"], ["grey", "scan"]),
        (["--name", "nobody"], []),
    ],
)
def test_list_takes_filters(line: Line, arguments: list[str], names: list[str]) -> None:
    line("add", "grey", "--enabled")
    line("add", "scan", "--address", "bob@example.org")
    assert [each["handler"] for each in json.loads(line("list", "--json", *arguments))] == names


def test_list_as_json_is_whole(line: Line) -> None:
    line("add", "grey", "--context", "debug")
    assert json.loads(line("list", "--json")) == [
        {
            "enabled": False,
            "priority": 5,
            "handler": "grey",
            "stage": "before-data",
            "type": "global",
            "address": "",
            "context": "debug",
            "mode": "active",
            "on_error": "declared",
            "program": "",
        }
    ]


# history, diff, rollback, export, apply


def test_history_says_who_when_and_what(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    line("add", "grey")
    line("enable", "grey")
    made = json.loads(line("history", "--json"))
    assert [each["generation"] for each in made] == [2, 1]
    assert made[0]["what"] == "enable grey at before-data for all (global)"
    assert made[0]["who"].startswith("alice as ")
    assert "uid" in made[0]["who"]
    assert len(line("history", "--limit", "1").splitlines()) == 2


def test_diff_and_rollback(line: Line) -> None:
    line("add", "grey")
    line("set", "grey", "--priority", "7")
    line("add", "scan", "--address", "bob@example.org", "--type", "sender")
    expected = (
        "~ grey at before-data for all (global): priority 5 -> 7\n"
        "+ scan at before-remote for bob@example.org (sender): priority 21, disabled\n"
    )
    assert line("diff", "1") == line("diff", "1", "3") == expected
    assert line("diff", "3") == "no difference\n"
    (first, second) = json.loads(line("diff", "1", "--json"))
    assert (first["change"], first["before"]["priority"], first["after"]["priority"]) == ("changed", 5, 7)
    assert (second["change"], second["before"]) == ("added", None)
    back = (
        "~ grey at before-data for all (global): priority 7 -> 5\n"
        "- scan at before-remote for bob@example.org (sender): priority 21, disabled\n"
    )
    assert line("rollback", "1", "--dry-run") == back
    assert line.generation == 3
    assert line("rollback", "1") == back + "rolled back to generation 1; this is generation 4\n"
    assert line.now == [GREY]
    assert "there is no generation 9: the last one is 4" in line("rollback", "9", status=1)
    assert "there is no generation 9" in line("diff", "9", status=1)


def test_what_is_exported_is_applied(line: Line, tmp_path: Path) -> None:
    line("add", "grey", "--enabled", "--context", "level=2")
    line("add", "scan", "--address", "bob@example.org")
    before = line.now
    exported = line("export")
    file = tmp_path / "registry.toml"
    line("export", "-o", str(file))
    assert file.read_text() == exported
    assert line("apply", str(file)) == "no difference\n"
    line("remove", "scan", "--all")
    line("set", "grey", "--priority", "1")
    assert line("apply", str(file), "--dry-run").count("\n") == 3
    assert line.generation == 4
    assert line("apply", str(file)).splitlines()[-1] == "applied: 3 registrations, generation 5"
    assert line.now == before
    assert line("export") == exported


ENTRY = '[[registration]]\nhandler = "{}"\nstage = "{}"\ntype = "global"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ENTRY.format("gray", "before-data"), "registry.toml:5: registration 2 (gray): there is no handler 'gray'"),
        (ENTRY.format("grey", "before-local"), "registration 2 (grey): grey does not act at before-local"),
        (ENTRY.format("grey", "before-data") + 'context = "level=x"\n', "registration 2 (grey): context 'level=x'"),
        (ENTRY.format("f", "before-data") + 'executable = "/nowhere/f"\n', "(f): /nowhere/f: there is no such program"),
        (ENTRY.format("grey", "before-data") + "prio = 1\n", "did you mean 'priority'"),
    ],
)
def test_a_bad_file_is_refused_as_a_whole(line: Line, tmp_path: Path, content: str, said: str) -> None:
    line("add", "scan", "--type", "global", "--stage", "before-queue")
    file = tmp_path / "registry.toml"
    file.write_text(ENTRY.format("scan", "before-remote") + content)
    assert said in line("apply", str(file), status=2)
    assert line.generation == 1


def test_what_the_file_does_not_change_needs_no_plugin(line: Line, tmp_path: Path) -> None:
    line("add", "grey")
    file = tmp_path / "registry.toml"
    line("add", "scan", "--address", "bob@example.org")
    line("export", "-o", str(file))
    file.write_text(file.read_text().replace("before-remote", "before-queue"))
    scan = line.environment.handlers().by_name["scan"]
    line.environment.__dict__["_handlers"] = Handlers({"scan": scan})
    line("apply", str(file))
    assert line.now[0] == GREY


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")])
def test_a_file_that_cannot_be_read(line: Line, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "registry.toml")
    assert "registry.toml: " in line("apply", str(tmp_path / "registry.toml"), status=2)


def test_every_verb_has_help(line: Line) -> None:
    for name, command in handlers_group.commands.items():
        assert command.help, name
        assert all(option.help for option in command.params if isinstance(option, click.Option)), name


def test_prune_says_what_it_does_before_it_does_it(line: Line) -> None:
    line("add", "grey", "--stage", "before-data")
    line("enable", "grey")
    line("disable", "grey")
    assert line("prune", "--yes") == "prune: nothing ended more than 365d ago\n"
    with closing(sqlite3.connect(line.environment.config.paths.state / "registry.sqlite")) as database:
        database.execute("UPDATE generation SET at = at - 100 * 86400 WHERE number < 3")
        database.commit()
    found = "1 change(s), 1 former registration(s)"
    says = f"prune: {found}; generation 2 will be the oldest, 3 is now\n"
    assert line("prune", "--older-than", "30d", "--dry-run") == says
    assert "--yes" in line("prune", "--older-than", "30d", status=1)
    assert line("rollback", "1", "--dry-run") == "no difference\n"
    assert line("prune", "--older-than", "30d", "--yes") == f"{says}pruned: {found}\n"
    assert "generation 1 was pruned: the oldest one is 2" in line("rollback", "1", status=1)
    assert "rolled back to generation 2" in line("rollback", "2")


@pytest.mark.parametrize("age", ["1h", "soon"])
def test_prune_wants_an_age_of_a_day_at_least(line: Line, age: str) -> None:
    assert "--older-than" in line("prune", "--older-than", age, "--yes", status=2)
