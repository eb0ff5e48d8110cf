"""Quota and accounts on a whole mail host: Postfix in front, a real directory, Maildirs, aliases and warnings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_host import LiveHost, live_host
from postroom.testing.processes import wait_until
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("quota-live")

LIMIT = 20_000


@pytest.fixture(scope="module")
def house() -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"directory": {"provider": "accounts"}, "milter": {"workers": 1, "before_data": "rcpt"}}) as host:
        say = host.server.succeed
        say("accounts", "domain", "add", "local.test", "--quota", str(LIMIT))
        for name in ("bob", "ann", "eve"):
            say("accounts", "mailbox", "add", f"{name}@local.test")
        say("accounts", "mailbox", "set", "eve@local.test", "--language", "de")
        say("accounts", "alias", "add", "info@local.test", "bob@local.test", "ann@local.test")
        host.add("check-quota", "before-data")
        host.add("check-quota", "before-queue", "--priority", "10")
        host.add("check-quota", "before-local")
        yield host


def letter(size: int) -> bytes:
    head = b"From: alice@friend.example\nTo: x@local.test\nSubject: size\n\n"
    return head + (b"y" * 71 + b"\n") * ((size - len(head)) // 72)


def new(host: LiveHost, name: str) -> list[Path]:
    return list((host.base / f"mail/local.test/{name}/Maildir/new").glob("*"))


def mail_is_taken_until_the_mailbox_is_full(house: LiveHost) -> None:
    assert house.send(recipients="bob@local.test", mail=letter(12_000)).ok
    wait_until(lambda: len(new(house, "bob")) == 1, "the mail is in the mailbox")
    sent = house.send(recipients="bob@local.test", mail=letter(12_000))
    assert not sent.ok
    assert (sent.final.code, sent.final.lines) == (452, ("4.2.2 Mailbox is full",))
    with house.client() as smtp:
        smtp.command("MAIL FROM:<alice@friend.example> SIZE=12000")
        assert "4.2.2" in str(smtp.command("RCPT TO:<bob@local.test>"))  # answered for each, and only the full one
        assert smtp.command("RCPT TO:<ann@local.test>").ok
    shown = json.loads(house.server.succeed("quota", "show", "bob@local.test", "--json"))[0]
    assert shown["limit"] == LIMIT
    assert 11_000 < shown["used"] < 13_000
    assert "12" in house.server.succeed("quota", "recount", "bob@local.test")
    size = house.base / "mail/local.test/bob/Maildir/maildirsize"
    assert size.read_text().startswith(f"{LIMIT}S\n")


def an_alias_reaches_its_mailboxes(house: LiveHost) -> None:
    before = len(new(house, "ann")), len(new(house, "bob"))
    assert house.send(recipients="info@local.test", mail=letter(1_000)).ok
    wait_until(
        lambda: (len(new(house, "ann")), len(new(house, "bob"))) == (before[0] + 1, before[1] + 1), "both have it"
    )


def who_is_unknown_bounces_and_a_directory_that_is_down_defers(house: LiveHost) -> None:
    sent = house.send(recipients="nobody@local.test")
    assert "said: 550 5.1.1" in house.wait_status(sent.queue_id, "bounced")[0]
    database = house.base / "state/accounts.sqlite"
    away = database.with_suffix(".away")
    for suffix in ("", "-wal", "-shm"):
        path = Path(f"{database}{suffix}")
        if path.exists():
            path.rename(f"{away}{suffix}")
    try:
        house.server.stop()  # a worker would keep the file that it has open
        house.server.start()
        refused = house.send(recipients="eve@local.test")
        assert 451 in {each.code for each in (refused.final, *refused.recipients.values())}
    finally:
        for suffix in ("", "-wal", "-shm"):
            path = Path(f"{away}{suffix}")
            if path.exists():
                path.rename(f"{database}{suffix}")


def the_owner_is_warned_through_the_mail_server(house: LiveHost) -> None:
    assert house.send(recipients="eve@local.test", mail=letter(16_500)).ok
    wait_until(
        lambda: any(b"Auto-Submitted: auto-generated" in each.read_bytes() for each in new(house, "eve")), "warned"
    )
    (warning,) = [each for each in new(house, "eve") if b"Auto-Submitted" in each.read_bytes()]
    assert b"Postfach" in warning.read_bytes()
    assert warning.read_bytes().startswith(b"Return-Path: <>")


def test_a_day_of_the_house(house: LiveHost) -> None:
    """In this order, because a mailbox fills."""
    mail_is_taken_until_the_mailbox_is_full(house)
    an_alias_reaches_its_mailboxes(house)
    who_is_unknown_bounces_and_a_directory_that_is_down_defers(house)
    the_owner_is_warned_through_the_mail_server(house)
