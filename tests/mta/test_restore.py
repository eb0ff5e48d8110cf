"""`postroom restore`: what Postfix and Dovecot read comes back from the directory alone, as real servers take it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import find_program, wait_until
from postroom.testing.server import PostroomServer
from postroom.testing.sink import SinkServer
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

from .conftest import House, LoginServer

PASSWORD = "correct horse battery staple"  # of a test


def fill(command: Any, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    command("accounts", "domain", "add", "local.test")
    command("accounts", "domain", "add", "off.test", "--disabled")
    for user in ("bob", "ann"):
        command("accounts", "mailbox", "add", f"{user}@local.test")
    command("accounts", "mailbox", "add", "eve@off.test")
    command("accounts", "alias", "add", "info@local.test", "bob@local.test", "ann@local.test")
    command("accounts", "transport", "add", "gone.test", "error:5.7.1 no way there")
    command("accounts", "sender-transport", "add", "local.test", "smtp:[192.0.2.1]:587")
    command("accounts", "blacklist", "add", "spam.test", "REJECT no mail from you")


@pytest.fixture
def stocked(house: House) -> House:
    with house.line.config.open("a") as file:
        file.write('[directory]\nprovider = "accounts"\n')
    fill(house.line)
    return house


def maps(house: House) -> Path:
    return house.directory / "postroom"


def restore(house: House, *arguments: str, status: int = 0) -> dict[str, str]:
    house.age()
    rows = house.line.json("restore", "--postfix-config", str(house.directory), *arguments, status=status)
    return {Path(row["file"]).name: row["was"] for row in rows}


def look_up(house: House, name: str, key: str) -> str:
    house.age()
    command = [find_program("postmap") or "", "-c", str(house.directory), "-q", key, f"hash:{maps(house) / name}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def test_maps_are_made_and_only_what_changed_is_written_again(stocked: House) -> None:
    assert set(restore(stocked, "--type", "hash", "--check", status=1).values()) == {"missing"}
    assert not maps(stocked).exists()
    restore(stocked, "--type", "hash")
    assert set(restore(stocked, "--type", "hash", "--check").values()) == {"current"}
    before = {path.name: path.stat().st_ino for path in maps(stocked).iterdir()}
    stocked.line("accounts", "mailbox", "add", "zoe@local.test")
    found = restore(stocked, "--type", "hash", "--check", status=1)
    assert {name for name, was in found.items() if was != "current"} == {"vmailbox"}
    restore(stocked, "--type", "hash")
    after = {path.name: path.stat().st_ino for path in maps(stocked).iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"vmailbox", "vmailbox.db"}
    assert look_up(stocked, "vmailbox", "zoe@local.test") == "local.test/zoe/Maildir/"


def test_maps_that_postfix_missed_need_a_reload(stocked: House) -> None:
    restore(stocked, "--type", "hash")
    assert "reload" not in stocked.line.err
    stocked.postfix("install", "--maps", str(maps(stocked)))
    shutil.rmtree(maps(stocked))
    restore(stocked, "--type", "hash", "--check", status=1)
    assert "reload" not in stocked.line.err
    restore(stocked, "--type", "hash")
    assert f"takes effect with: postfix -c {stocked.directory} reload" in stocked.line.err
    restore(stocked, "--type", "hash")
    assert "reload" not in stocked.line.err


def test_postfix_finds_what_the_directory_knows(stocked: House) -> None:
    stocked.line("accounts", "alias", "add", "@local.test", "bob@local.test")
    restore(stocked, "--type", "hash")
    assert look_up(stocked, "virtual_domains", "local.test") == "postroom"
    assert look_up(stocked, "virtual_domains", "off.test") == ""
    assert look_up(stocked, "vmailbox", "eve@off.test") == ""
    assert set(look_up(stocked, "virtual", "info@local.test").split(", ")) == {"bob@local.test", "ann@local.test"}
    assert look_up(stocked, "virtual", "@local.test") == "bob@local.test"
    assert look_up(stocked, "virtual", "ann@local.test") == "ann@local.test"
    assert look_up(stocked, "transport", "gone.test") == "error:5.7.1 no way there"
    assert look_up(stocked, "sdd_transport_maps", "@local.test") == "smtp:[192.0.2.1]:587"
    assert look_up(stocked, "blacklists", "spam.test") == "REJECT no mail from you"
    assert (maps(stocked) / "vmailbox").stat().st_mode & 0o777 == 0o644
    assert (maps(stocked) / "passwd").stat().st_mode & 0o007 == 0


def test_a_local_part_in_quotes_is_found_by_postfix(stocked: House) -> None:
    stocked.line("accounts", "alias", "add", '"front desk"@local.test', "bob@local.test")
    stocked.line("accounts", "alias", "add", '"a\\"b; c"@local.test', "ann@local.test")
    restore(stocked, "--type", "hash")
    assert look_up(stocked, "virtual", '"front desk"@local.test') == "bob@local.test"
    assert look_up(stocked, "virtual", '"a\\"b; c"@local.test') == "ann@local.test"
    assert set(restore(stocked, "--type", "hash", "--check").values()) == {"current"}


def test_lost_changed_and_stale_files_come_back(stocked: House) -> None:
    restore(stocked, "--type", "hash")
    place = maps(stocked)
    whole = {path.name: path.read_bytes() for path in place.iterdir() if path.suffix != ".db"}
    (place / "virtual").write_text("mallory@local.test elsewhere@evil.example\n")
    (place / "vmailbox.db").unlink()
    (place / "virtual_domains").unlink()
    os.utime(place / "transport.db", (1, 1))
    found = restore(stocked, "--type", "hash")
    assert (found["virtual"], found["vmailbox"], found["virtual_domains"]) == ("different", "stale", "missing")
    assert found["transport"] == "stale"
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.suffix != ".db"} == whole
    shutil.rmtree(place)
    restore(stocked, "--type", "hash")
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.suffix != ".db"} == whole
    assert look_up(stocked, "virtual", "mallory@local.test") == ""


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "lacks one"])
def test_a_damaged_index_comes_back_however_new_it_is(stocked: House, damage: str) -> None:
    restore(stocked, "--type", "hash")
    index = maps(stocked) / "vmailbox.db"
    match damage:
        case "empty":
            index.write_bytes(b"")
        case "cut":
            index.write_bytes(index.read_bytes()[:5000])
        case "other":
            shutil.copyfile(maps(stocked) / "virtual.db", index)
        case _:
            delete = [find_program("postmap") or "", "-c", str(stocked.directory), "-d", "bob@local.test"]
            subprocess.run([*delete, f"hash:{maps(stocked)}/vmailbox"], check=True, timeout=60)
    assert restore(stocked, "--type", "hash", "--check", status=1)["vmailbox"] == "stale"
    found = restore(stocked, "--type", "hash")
    assert {name for name, was in found.items() if was != "current"} == {"vmailbox"}
    assert set(restore(stocked, "--type", "hash", "--check").values()) == {"current"}
    assert look_up(stocked, "vmailbox", "bob@local.test") == "local.test/bob/Maildir/"


def test_files_with_a_wrong_owner_or_mode_are_made_anew(stocked: House) -> None:
    require_root()
    restore(stocked, "--type", "hash")
    place = maps(stocked)
    right = {path.name: (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) for path in place.iterdir()}
    os.chown(place / "vmailbox", 65534, 65534)
    (place / "virtual.db").chmod(0o666)
    (place / "virtual_domains").chmod(0o600)  # Postfix' own user cannot read it
    (place / "passwd").chmod(0o644)
    found = restore(stocked, "--type", "hash", "--check", status=1)
    assert {name for name, was in found.items() if was == "wrong owner or mode"} == {
        "vmailbox", "virtual", "virtual_domains", "passwd",
    }  # fmt: skip
    restore(stocked, "--type", "hash")
    assert set(restore(stocked, "--type", "hash", "--check").values()) == {"current"}
    now = {path.name: (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) for path in place.iterdir()}
    assert now == right


def test_maps_of_the_administrator_are_left_alone(stocked: House) -> None:
    restore(stocked, "--type", "hash")
    stocked.line("accounts", "blacklist", "remove", "spam.test")
    assert restore(stocked, "--type", "hash")["blacklists"] == "different"  # ours: the last one goes, too
    own = maps(stocked) / "blacklists"
    own.write_text("spammer@evil.example REJECT\n")
    assert restore(stocked, "--type", "hash")["blacklists"] == "not ours"
    assert own.read_text() == "spammer@evil.example REJECT\n"
    own.write_text("")
    assert restore(stocked, "--type", "hash")["blacklists"] == "different"  # emptied by whatever: ours again
    restore(stocked, "--type", "hash", "--check")


def test_without_a_directory_service_it_says_so(house: House) -> None:
    house.line("restore", "--postfix-config", str(house.directory), status=1)
    assert 'set [directory] provider = "accounts"' in house.line.err


@pytest.fixture
def whole_host() -> Iterator[tuple[PostroomServer, PostfixInstance, LoginServer]]:
    require("master", "dovecot")
    require_root()
    with ExitStack() as stack:
        server = stack.enter_context(
            PostroomServer(
                {"directory": {"provider": "accounts"}},
                prepare=lambda made: fill(made.succeed),
            )
        )
        settings = PostfixSettings(main={"virtual_mailbox_domains": "", "virtual_mailbox_maps": ""})
        postfix = stack.enter_context(PostfixInstance(settings))
        yield server, postfix, stack.enter_context(LoginServer(postfix))


def test_a_postfix_whose_maps_were_deleted_takes_mail_and_logins_again(
    whole_host: tuple[PostroomServer, PostfixInstance, LoginServer],
) -> None:
    server, postfix, dovecot = whole_host
    instance = ("--postfix-config", str(postfix.etc))
    done = server.cli("accounts", "password", "bob@local.test", "--stdin", input=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    server.succeed("restore", *instance)
    place = postfix.etc / "postroom"
    login = ("--sasl", f"inet:127.0.0.1:{dovecot.auth_port}")
    server.succeed("postfix", "install", *instance, "--maps", str(place), *login, "--reload")
    shutil.rmtree(place)
    server.succeed("restore", *instance)
    assert b"{SCRAM-SHA-256}" in (place / "passwd").read_bytes()
    assert PASSWORD.encode() not in (place / "passwd").read_bytes()

    def taken() -> bool:
        with SmtpClient(postfix.smtp_port) as smtp:
            smtp.ehlo("client.example")
            return smtp.send("a@x.example", ["info@local.test"], b"Subject: x\r\n\r\nhello\r\n").ok

    wait_until(taken, "mail for an alias is taken")
    assert b"hello" in server.wait_for_mail("bob@local.test")[0]
    assert b"hello" in server.wait_for_mail("ann@local.test")[0]
    with SmtpClient(postfix.smtp_port) as smtp:
        offered = smtp.ehlo("client.example").text
        assert "SCRAM-SHA-256" in offered
        assert "PLAIN" not in offered  # no TLS here
        assert not smtp.send("a@x.example", ["nobody@local.test"], b"\r\n").ok
        smtp.command("RSET")
        assert smtp.command("MAIL FROM:<eve@spam.test>").code == 250
        assert "no mail from you" in smtp.command("RCPT TO:<bob@local.test>").text
        smtp.command("RSET")
        assert smtp.command("MAIL FROM:<a@x.example>").code == 250
        assert "no way there" in smtp.command("RCPT TO:<bob@gone.test>").text
    subprocess.run(["postconf", "-c", postfix.etc, "-e", "smtpd_sasl_security_options=noanonymous"], check=True)
    postfix.reload()

    def login_as(password: str) -> int:
        word = base64.b64encode(f"\0bob@local.test\0{password}".encode()).decode()
        with SmtpClient(postfix.smtp_port) as smtp:
            smtp.ehlo("client.example")
            return smtp.command(f"AUTH PLAIN {word}").code

    wait_until(lambda: login_as(PASSWORD) == 235, "the login is taken")
    assert login_as("wrong") == 535


def test_mail_for_a_list_passes_postfix_and_before_local_to_its_manager(
    whole_host: tuple[PostroomServer, PostfixInstance, LoginServer],
) -> None:
    server, postfix, _ = whole_host
    instance = ("--postfix-config", str(postfix.etc))
    with SinkServer(lmtp=True) as manager:
        server.succeed("accounts", "list", "add", "talk@local.test", "--to", f"lmtp:inet:127.0.0.1:{manager.port}")
        server.succeed("restore", *instance)
        server.succeed("postfix", "install", *instance, "--maps", str(postfix.etc / "postroom"), "--reload")

        def taken() -> bool:
            with SmtpClient(postfix.smtp_port) as smtp:
                smtp.ehlo("client.example")
                recipients = ["talk@local.test", "talk-bounces+x=y@local.test"]
                return smtp.send("a@x.example", recipients, b"Subject: x\r\n\r\nhello\r\n").ok

        wait_until(taken, "mail for a list is taken")
        found = manager.wait(2)
    assert {each.recipients for each in found} == {("talk@local.test",), ("talk-bounces+x=y@local.test",)}
    assert all("Postroom" in each.field("Received")[0] for each in found)
