"""What holds for all commands alike, the plugins' among them: help, wrong options, JSON, pipes, odd terminals."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from postroom.cli.main import postroom, run
from postroom.cli.output import show_table

Result = tuple[int, str, str]


def walk(group: click.Group, context: click.Context, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from walk(command, click.Context(command, info_name=name, parent=context), (*path, name))


ALL = dict(walk(postroom, click.Context(postroom, info_name="postroom")))
GROUPS = sorted(name for name, command in ALL.items() if isinstance(command, click.Group))


def has_json(command: click.Command) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "postroom.toml"
    path.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}"\n'
        f'[milter]\nlisten = ["unix:{tmp_path}/milter.sock"]\n[dns]\nnameservers = ["127.0.0.1:1"]\ntimeout = "0.2s"\n'
    )
    return path


@pytest.fixture
def call(config: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: str) -> Result:
        status = run(postroom, ["--config", str(config), *arguments], "postroom")
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", sorted(ALL))
def test_help_is_there_and_every_option_in_it_is_explained(call: Callable[..., Result], name: str) -> None:
    status, out, err = call(*name.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: postroom {name}")
    assert max(map(len, out.splitlines())) <= 120
    unexplained = [each.opts for each in ALL[name].params if isinstance(each, click.Option) and not each.help]
    assert unexplained == []


@pytest.mark.parametrize("name", sorted({*GROUPS, *(name for name in ALL if " " not in name)}))
def test_help_of_a_group_has_an_example(name: str) -> None:
    assert f"  postroom {name.split()[0]}" in (ALL[name].help or "") + (ALL[name].epilog or "")


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_option_that_is_none_is_named_in_one_line(call: Callable[..., Result], name: str) -> None:
    status, out, err = call(*name.split(), "--no-such-option")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--no-such-option" in err
    assert f"postroom {name} --help" in err


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_alone_shows_its_help_and_knows_no_other_command(call: Callable[..., Result], name: str) -> None:
    status, out, err = call(*name.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"Usage: postroom {name}")
    status, out, err = call(*name.split(), "no-such-command")
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("name", sorted(name for name, command in ALL.items() if has_json(command)))
def test_what_is_printed_as_json_is_json_or_nothing(call: Callable[..., Result], tmp_path: Path, name: str) -> None:
    command = ALL[name]
    arguments = ["x@example.org" for each in command.params if isinstance(each, click.Argument) and each.required]
    options = {option for each in command.params for option in each.opts}
    if "--postfix-config" in options:
        arguments += ["--postfix-config", str(tmp_path)]  # no Postfix: nothing here is about the host's own
    if "--dry-run" in options:
        arguments.append("--dry-run")
    status, out, err = call(*name.split(), *arguments, "--json")
    assert status in (0, 1, 2, 75), err
    assert "this is a defect" not in err
    if out:
        json.loads(out)
    else:
        assert status != 0
        assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["config", "list"], ["config", "list", "--json"], ["--help"]])
def test_a_reader_that_has_enough_is_no_error(config: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "postroom.cli.main", "--config", config, *arguments],
        stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_server_that_hangs_up_is_an_error(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(ALL["config list"], "callback", hang_up)
    status, _, err = call("config", "list")
    assert (status, err.count("\n")) == (1, 1)
    assert "hung up" in err


PROGRAMS = [
    ["postroom.cli.main", "--config", "{config}", "handlers", "list"],
    ["postroom.cli.mail_handlers_control", "--config", "{config}", "--list"],
]


def run_program(
    arguments: list[str], config: Path, redirection: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *(each.format(config=config) for each in arguments)]
    shell = ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *words]
    return subprocess.run(
        shell, capture_output=True, encoding="latin-1", env={**os.environ, **environment}, timeout=60, check=False
    )


@pytest.mark.parametrize("arguments", PROGRAMS)
def test_a_full_or_closed_standard_output_gives_no_traceback(config: Path, arguments: list[str]) -> None:
    full = run_program(arguments, config, ">/dev/full")
    assert (full.returncode, full.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in full.stderr
    closed = run_program(arguments, config, ">&-")
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize("arguments", PROGRAMS)
def test_what_the_locale_cannot_write_is_written_as_escapes(
    call: Callable[..., Result], config: Path, arguments: list[str]
) -> None:
    call("handlers", "add", "spf", "--stage", "before-queue", "--type", "sender", "--address", "жук@example.org")
    shown = run_program(arguments, config, "", PYTHONIOENCODING="latin-1")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\\u0436\\u0443\\u043a@example.org" in shown.stdout
    shown = run_program(arguments, config, "", LANG="C", LC_ALL="C")
    assert "жук@example.org".encode() in shown.stdout.encode("latin-1")


COLUMNS = ("enabled", "priority", "handler", "stage", "type", "address", "context", "mode", "on error", "program")
ROW = (True, 5, "grey", "before-data", "recipient", "somebody.with.a.name@example.org", "", "active", "declared", "")


@pytest.mark.parametrize("width", [20, 80, 100, 200])
def test_a_narrow_terminal_loses_nothing(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert show_table(COLUMNS, [ROW, ROW]) == 2
    shown = capsys.readouterr().out
    assert "…" not in shown
    for cell in ("yes", "5", "grey", "before-data", "recipient", "active", "declared"):
        assert shown.count(cell) == 2
    assert shown.count("somebody.with.a.name@example.org") == 2 or width == 100


def test_what_fails_before_the_first_row_prints_no_half_list(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (("one", 1 // number) for number in (0,))
    with pytest.raises(ZeroDivisionError):
        show_table(("name", "number"), rows, as_json=True)
    assert capsys.readouterr().out == ""
    show_table(("name",), [], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(("uid", "remedy"), [(1000, "; do it as root, or as whom that belongs to"), (0, "")])
def test_who_may_not_is_told_who_may(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, uid: int, remedy: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/postfix/main.cf")

    monkeypatch.setattr(ALL["config list"], "callback", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert call("config", "list") == (1, "", f"postroom: /etc/postfix/main.cf: Permission denied{remedy}\n")
