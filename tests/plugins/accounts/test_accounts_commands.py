"""`postroom accounts …` as people run it, with nothing secret on any of its outputs."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from postroom.cli.main import postroom, run
from postroom_accounts.commands import files
from postroom_accounts.passwords import matches

SECRET = "correct horse battery"


@dataclass
class Shell:
    base: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def run(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        self.patch.setattr(sys, "stdin", io.StringIO(stdin))
        ended = run(postroom, ["--config", str(self.base / "postroom.toml"), *arguments], "postroom")
        out, err = self.capture.readouterr()
        assert ended == status, (arguments, out, err)
        assert SECRET not in out + err
        assert "argon2id$" not in out + err
        return out + err

    def accounts(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        return self.run("accounts", *arguments, status=status, stdin=stdin)

    def json(self, *arguments: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.accounts(*arguments, "--json"))
        return found


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    text = f"""[paths]
state = "{tmp_path}/state"
run = "{tmp_path}/run"
[directory]
provider = "accounts"
[delivery]
root = "{tmp_path}/mail"
"""
    (tmp_path / "postroom.toml").write_text(text)
    return Shell(tmp_path, capsys, monkeypatch)


def test_a_house_is_set_up_and_looked_at(shell: Shell) -> None:
    shell.accounts("domain", "add", "Example.ORG", "--quota", "2G", "--message-limit", "50M")
    shell.accounts("mailbox", "add", "bob@example.org", "--language", "de")
    shell.accounts("mailbox", "add", "ann@example.org", "--quota", "none")
    shell.accounts("alias", "add", "info@example.org", "bob@example.org", "ann@example.org")
    shell.accounts("forward", "add", "ann@example.org", "ann@far.example")
    assert shell.json("domain", "list") == [
        {"domain": "example.org", "enabled": True, "quota": "2G", "message_limit": "50M"}
    ]
    assert [each["quota"] for each in shell.json("mailbox", "list")] == ["none", "as the domain"]
    shown = {each["setting"]: each["value"] for each in shell.json("mailbox", "show", "bob@example.org")}
    assert shown["quota"] == "2G"
    assert shown["maildir"] == f"{shell.base}/mail/example.org/bob/Maildir"
    (alias,) = shell.json("alias", "show", "info@example.org")
    assert alias["ends_at"] == ["bob@example.org", "ann@example.org", "ann@far.example"]
    assert [each["where"] for each in shell.json("resolve", "info@example.org")][2] == "elsewhere"
    assert "nobody gets mail" in shell.accounts("resolve", "x@example.org", status=1)
    assert "2 mailboxes" in shell.run("doctor", "--all", status=1)
    assert "service" in shell.run("plugins", "list")
    shell.accounts("mailbox", "remove", "ann@example.org")
    assert shell.json("forward", "list") == []
    shell.accounts("alias", "remove", "info@example.org")
    shell.accounts("domain", "remove", "example.org", status=1)
    shell.accounts("domain", "remove", "example.org", "--everything")
    assert shell.json("domain", "list") == []


def test_passwords_come_by_stdin_and_never_come_out(shell: Shell) -> None:
    shell.accounts("domain", "add", "example.org")
    shell.accounts("mailbox", "add", "bob@example.org")
    assert "has no password" in shell.accounts("auth", "view", "bob@example.org", status=1)
    shell.accounts("password", "bob@example.org", "--stdin", stdin=SECRET + "\n")
    (login,) = shell.json("auth", "view")
    assert (login["mailbox"], login["may_log_in"], login["methods"]) == (
        "bob@example.org", True, ["plain", "scram-sha-256"],
    )  # fmt: skip
    assert "there is no terminal" in shell.accounts("password", "bob@example.org", status=2)
    assert "at most" not in shell.accounts("password", "bob@example.org", "--stdin", stdin="short\n", status=2)
    shell.accounts("password", "bob@example.org", SECRET[:7], status=2)
    for scheme in ("argon2id", "scram-sha-256"):
        path = shell.base / f"{scheme}.passwd"
        shell.accounts("auth", "passwd-file", str(path), "--scheme", scheme)
        assert path.stat().st_mode & 0o777 == 0o600
        name, stored, *_ = path.read_text().split(":")
        assert name == "bob@example.org"
        assert matches(SECRET, stored)
    shell.accounts("password", "bob@example.org", "--disable")
    assert not shell.json("auth", "view")[0]["may_log_in"]
    shell.accounts("password", "bob@example.org", "--remove")
    assert shell.json("auth", "view") == []


def test_export_and_import(shell: Shell) -> None:
    shell.accounts("domain", "add", "example.org")
    shell.accounts("mailbox", "add", "bob@example.org")
    shell.accounts("password", "bob@example.org", "--stdin", stdin=SECRET)
    assert "password" not in shell.accounts("export")
    assert "needs --output" in shell.accounts("export", "--with-hashes", status=2)
    backup = shell.base / "backup.toml"
    shell.accounts("export", "--with-hashes", "--output", str(backup))
    assert backup.stat().st_mode & 0o777 == 0o600
    shell.accounts("domain", "remove", "example.org", "--everything")
    assert "mailbox: 1" in shell.accounts("import", str(backup))
    assert shell.json("auth", "view")[0]["may_log_in"]
    assert "no valid TOML" in shell.accounts("import", "-", stdin="[[", status=2)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("mailbox", "list"), 75, "there are no accounts yet"),
        (("mailbox", "add", "bob@example.org"), 1, "there is no domain example.org"),
        (("domain", "add", "exa mple"), 2, "is no domain"),
        (("alias", "add", "#1@example.org", "bob@example.org"), 2, "take a '#' at the beginning for a comment"),
        (("alias", "add", "b\u2028b@example.org", "bob@example.org"), 2, "is no alias"),
        (("alias", "add", "b\udcff@example.org", "bob@example.org"), 2, "is no alias"),
        (("domain", "add", "example.org", "--quota", "lots"), 2, "is no size"),
        (("domain", "add", "example.org", "--quota", "-5"), 2, "is no size"),
        (("alias", "add", "x@example.org"), 2, "Missing argument"),
    ],
)
def test_mistakes_are_one_line(shell: Shell, arguments: tuple[str, ...], status: int, words: str) -> None:
    said = shell.accounts(*arguments, status=status)
    assert words in said
    assert said.count("\n") == 1


def test_a_service_that_mail_does_not_ask_says_so(shell: Shell) -> None:
    config = shell.base / "postroom.toml"
    config.write_text(config.read_text().replace('provider = "accounts"', ""))
    assert 'set [directory] provider = "accounts"' in shell.accounts("domain", "add", "example.org")


def test_the_database_is_not_for_everybody(shell: Shell) -> None:
    shell.accounts("domain", "add", "example.org")
    mode = (shell.base / "state/accounts.sqlite").stat().st_mode
    assert mode & 0o007 == 0


def test_lists_and_postfix_tables(shell: Shell) -> None:
    shell.accounts("domain", "add", "example.org")
    shell.accounts("list", "add", "talk@example.org", "--to", "lmtp:inet:127.0.0.1:8024")
    assert shell.json("list", "list") == [{"list": "talk@example.org", "to": "lmtp:inet:127.0.0.1:8024"}]
    (resolved,) = shell.json("resolve", "talk-request@example.org")
    assert resolved["where"] == "lmtp:inet:127.0.0.1:8024"
    assert "is no next hop" in shell.accounts("list", "add", "x@example.org", "--to", "nowhere", status=2)
    tables = {"transport": "smtp:[10.0.0.5]", "sender-transport": "smtp:[10.0.0.6]", "blacklist": "REJECT no mail"}
    for table, value in tables.items():
        shell.accounts(table, "add", "far.example", value)
        (row,) = shell.json(table, "list")
        assert row["value"] == value
        shell.accounts(table, "remove", "far.example")
        assert shell.json(table, "list") == []
        assert "see `postroom accounts" in shell.accounts(table, "remove", "far.example", status=1)
    shell.accounts("list", "remove", "talk@example.org")
    shell.accounts("resolve", "talk@example.org", status=1)


def test_a_file_too_long_is_not_imported_in_part(shell: Shell) -> None:
    shell.patch.setattr(files, "MAX_FILE", 40)
    text = '[[domain]]\nname = "first.example"\n' + '[[domain]]\nname = "second.example"\n'
    assert "import it in parts" in shell.accounts("import", "-", stdin=text, status=2)
    assert "there are no accounts yet" in shell.accounts("domain", "list", status=75)
