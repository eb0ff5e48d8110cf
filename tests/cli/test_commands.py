"""The command line as a whole: one line for each error, the right exit status, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from postroom.cli.main import postroom, run

Result = tuple[int, str, str]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration of our own, in the environment."""
    config = tmp_path / "postroom.toml"
    config.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}"\n'
        f'[milter]\nlisten = ["unix:{tmp_path}/milter.sock"]\n[dns]\nnameservers = ["127.0.0.1:1"]\ntimeout = "0.2s"\n'
    )
    monkeypatch.setenv("POSTROOM_CONFIG", str(config))


@pytest.fixture
def call(host: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: str) -> Result:
        status = run(postroom, arguments, "postroom")
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


MAIL = ("--sender", "a@there.example", "--recipient", "b@here.example", "--client", "203.0.113.5")


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("handlres",), ["'handlres'", "did you mean 'handlers'"], 2),
        (("explain",), ["--recipient", "postroom explain --help"], 2),
        (("explain", "-r", "nobody"), ["'nobody' is no address"], 2),
        (("explain", "-f", "a@@example.org", "-r", "b@c"), ["'a@@example.org' is no address"], 2),
        (("trace", ""), ["the queue id is empty"], 2),
        (("explain", "-r", "b@c", "--client", "ten"), ["--client 'ten' is no IP address"], 2),
        (("explain", "-r", "b@c", "--stage", "before-lunch"), ["before-lunch"], 2),
        (("try", *MAIL, "/no/such/file"), ["/no/such/file", "No such file"], 1),
        (("plugins", "enable", "gray"), ["no plugin named 'gray'", "grey"], 1),
        (("plugins", "disable", "gray"), ["nothing is registered for 'gray'"], 1),
        (("plugins", "enable", "dk_sign"), ["single addresses", "handlers add dk_sign"], 1),
        (("config", "list", "--table", "moon"), ["no table 'moon'"], 2),
        (("--config", "/no/such.toml", "handlers", "list"), ["/no/such.toml", "no such file"], 2),
    ],
)
def test_an_error_is_one_line_with_the_remedy(
    call: Callable[..., Result], arguments: tuple[str, ...], words: list[str], status: int
) -> None:
    got, _, error = call(*arguments)
    assert got == status
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_a_wrong_configuration_names_file_key_and_remedy(call: Callable[..., Result], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[milter]\nworker = 3\n")
    status, _, error = call("--config", str(wrong), "handlers", "list")
    assert status == 2
    assert error == f"postroom: {wrong}: [milter]: unknown key 'worker'; did you mean 'workers'?\n"


def test_a_table_of_no_plugin_is_noticed(call: Callable[..., Result], tmp_path: Path) -> None:
    odd = tmp_path / "odd.toml"
    odd.write_text(f'[paths]\nstate = "{tmp_path}"\n[handlers.gray]\ntimeout = "3s"\n')
    for command in (("serve", "--check"), ("doctor",)):
        _, out, error = call("--config", str(odd), *command)
        assert "[handlers.gray] configures" in " ".join((out + error).split())
        assert "handlers.grey" not in out + error


def test_a_registry_that_is_not_there_is_a_reason_to_try_again(call: Callable[..., Result], tmp_path: Path) -> None:
    config = tmp_path / "pg.toml"
    config.write_text('[registry]\nurl = "postgresql+psycopg://nobody:hidden@127.0.0.1:1/none"\ntimeout = "1s"\n')
    status, _, error = call("--config", str(config), "explain", *MAIL)
    assert status == 75
    assert error.count("\n") == 1
    assert "hidden" not in error


def test_help_needs_no_configuration_and_lists_core_and_plugins(call: Callable[..., Result]) -> None:
    status, out, _ = call("--help")
    assert status == 0
    assert "explain" in out
    assert "Commands of plugins" in out
    assert "grey" in out


def test_turning_a_plugin_on_and_off_acts_on_the_plan(call: Callable[..., Result]) -> None:
    assert call("explain", *MAIL)[0] == 1
    assert call("plugins", "enable", "grey", "spf")[0] == 0
    status, out, _ = call("explain", *MAIL, "--json")
    assert status == 0
    assert [(row["stage"], row["handler"]) for row in json.loads(out)] == [
        ("before-data", "grey"),
        ("before-queue", "spf"),
    ]
    assert call("plugins", "disable", "grey")[0] == 0
    rows = json.loads(call("explain", *MAIL, "--json")[1])
    assert [row["why"] for row in rows if row["handler"] == "grey"] == ["does not act: disabled"]
    history = json.loads(call("handlers", "history", "--json")[1])
    assert [entry["what"] for entry in history] == ["disable grey", "enable grey, spf"]


def test_a_login_and_an_own_network_are_exempt_from_greylisting(call: Callable[..., Result]) -> None:
    call("plugins", "enable", "grey")
    for more in (("--auth-user", "alice"), ("--client", "127.0.0.1")):
        status, out, _ = call("explain", *MAIL, *more, "--json")
        assert status == 1
        assert "exempt" in json.loads(out)[0]["why"]


def test_try_runs_the_real_handlers(call: Callable[..., Result], tmp_path: Path) -> None:
    call("plugins", "enable", "grey")
    mail = tmp_path / "mail.eml"
    mail.write_text("From: a@there.example\nSubject: x\n\nhello\n")
    status, out, error = call("try", *MAIL, str(mail), "--json")
    assert status == 1
    assert error == ""
    (row,) = json.loads(out)
    assert (row["handler"], row["verdict"]) == ("grey", "DEFER")
    assert row["reply"].startswith("451 4.7.1 ")


def test_try_shows_the_mail_as_handlers_left_it(
    host: None, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    program = tmp_path / "stamp"
    program.write_text("#!/bin/sh\necho 'X-Stamp: yes'\ncat\necho PASS >&2\n")
    program.chmod(0o755)
    run(
        postroom,
        [
            "handlers",
            "add",
            "stamp",
            "--stage",
            "before-queue",
            "--type",
            "global",
            "--exec",
            str(program),
            "--enabled",
        ],
        "postroom",
    )
    mail = tmp_path / "mail.eml"
    mail.write_bytes(b"Subject: caf\xe9\n\nhello\n")
    capfdbinary.readouterr()
    assert run(postroom, ["try", *MAIL, str(mail), "--show-mail"], "postroom") == 0
    assert capfdbinary.readouterr().out.endswith(b"X-Stamp: yes\r\nSubject: caf\xe9\r\n\r\nhello\r\n")


def test_config_shows_every_setting_and_no_secret(call: Callable[..., Result], tmp_path: Path) -> None:
    config = tmp_path / "secret.toml"
    config.write_text('[redis]\nurl = "redis://:hidden@127.0.0.1:1/0"\n')
    status, out, _ = call("--config", str(config), "config", "list", "--json")
    assert status == 0
    keys = {row["key"]: row["value"] for row in json.loads(out)}
    assert keys["milter.workers"] == "0"
    assert "hidden" not in out
    assert "handlers.grey.wait" in keys
    assert call("config", "check")[0] == 0


def test_doctor_names_what_is_wrong_with_the_remedy(call: Callable[..., Result]) -> None:
    status, out, _ = call("doctor", "--json", "--postfix-config", "/no/such/directory")
    assert status == 1
    findings = {row["what"]: row for row in json.loads(out)}
    assert findings["milter"]["level"] == "error"
    assert "postroom serve" in findings["milter"]["remedy"]
    assert findings["registrations"]["level"] == "warning"
    assert findings["dns"]["level"] == "warning"


def test_a_cell_cannot_steer_a_terminal() -> None:
    from postroom.cli.output import text_of

    assert text_of("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
    assert text_of("caf\udce9") == "caf\\udce9"
