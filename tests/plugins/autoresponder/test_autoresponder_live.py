"""Through a real Postfix: mail comes in, is delivered, and its reply reaches the sender's host."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from live_host import STRANGER, LiveHost, live_host
from plugins.autoresponder.responding import parsed
from postroom.testing.sink import field_values
from requirements import require, require_root

MAIL = (
    b"From: alice@friend.example\nTo: bob@local.test\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n"
    b"Message-ID: <%d@friend.example>\n\nHello!\n"
)


@pytest.fixture(scope="module")
def host() -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host() as host:
        yield host


def counts(host: LiveHost) -> dict[str, int]:
    rows = json.loads(host.server.succeed("autoresponder", "status", "bob@local.test", "--json"))
    return {row["what"]: row["mails"] for row in rows}


def away(host: LiveHost, address: str, *settings: str) -> None:
    """A responder of that mailbox with no settings but these, and no memory."""
    host.server.cli("autoresponder", "remove", address)  # another test's, if there was one
    host.server.succeed("autoresponder", "set", address, *settings)


def test_a_sender_that_spf_vouches_for_gets_one_reply(host: LiveHost) -> None:
    host.clear()
    host.add("spf", "before-queue")
    away(host, "bob@local.test", "--text", "Ich bin im Urlaub.", "--name", "Bob")
    for number in (1, 2):
        assert host.send(mail=MAIL % number).ok
    host.server.wait_for_mail("bob@local.test", 2)
    (received,) = host.sink.wait(1)
    assert (received.sender, received.recipients) == ("", ("alice@friend.example",))
    reply = parsed(received.mail)
    assert reply["From"] == "Bob <bob@local.test>"
    assert reply["Subject"] == "Re: Grüße"
    assert reply["Auto-Submitted"] == "auto-replied"
    assert reply["In-Reply-To"] in ("<1@friend.example>", "<2@friend.example>")
    assert "Ich bin im Urlaub." in reply.get_content()
    found = counts(host)
    assert (found["replied"], found["too-soon"]) == (1, 1)


def test_a_forged_sender_gets_none_and_a_local_one_does(host: LiveHost) -> None:
    host.clear()
    host.add("spf", "before-queue")
    away(host, "bob@local.test", "--text", "Away again.")
    assert host.send("eve@shop.example", mail=MAIL % 3, client=STRANGER).ok
    host.server.wait_for_mail("bob@local.test", 1)
    assert counts(host)["unauthenticated"] == 1
    assert host.send("carl@local.test", mail=MAIL % 4, client="").ok
    (mail,) = host.server.wait_for_mail("carl@local.test")
    assert field_values(mail, "Auto-Submitted") == ["auto-replied"]
    assert field_values(mail, "X-Postroom-Seen") == []
    assert not host.sink.received


def test_two_mailboxes_here_that_both_answer_end(host: LiveHost) -> None:
    host.clear()
    for address in ("bob@local.test", "dora@local.test"):
        away(host, address, "--text", f"{address} is away.", "--interval", "0")
    mail = MAIL.replace(b"alice@friend.example>", b"dora@local.test>") % 5
    assert host.send("dora@local.test", "bob@local.test", mail, client="").ok
    (reply,) = host.server.wait_for_mail("dora@local.test")
    assert b"bob@local.test is away." in reply
    host.server.wait_for_mail("bob@local.test", 1)
    host.postfix.wait_empty()
    rows = json.loads(host.server.succeed("autoresponder", "status", "dora@local.test", "--json"))
    assert not [row for row in rows if row["what"] == "replied"]


def test_a_responder_of_another_host_that_knows_no_rfc_ends_at_the_daily_limit(host: LiveHost) -> None:
    """It answers whatever it gets from its own address, and nothing in its mail says what it is."""
    host.clear()
    host.add("spf", "before-queue")
    away(host, "bob@local.test", "--text", "Away.", "--interval", "0", "--daily-limit", "2")
    for number in range(4):
        assert host.send(mail=MAIL % (20 + number)).ok
        host.server.wait_for_mail("bob@local.test", number + 1)
        host.sink.wait(min(number + 1, 2))
    host.postfix.wait_empty()
    assert len(host.sink.received) == 2
    assert counts(host)["daily-limit"] == 2


def test_a_desk_that_opens_a_ticket_for_each_mail_gets_one_reply(host: LiveHost) -> None:
    """Each of its mails is from another address; they answer our replies."""
    host.clear()
    host.add("spf", "before-queue")
    away(host, "bob@local.test", "--text", "Away.", "--interval", "0")
    assert host.send("ticket.a@friend.example", mail=MAIL % 30).ok
    (reply,) = host.sink.wait(1)
    answer = b"In-Reply-To: %b\n" % reply.field("Message-ID")[0].encode() + MAIL % 31
    assert host.send("ticket.b@friend.example", mail=answer).ok
    host.server.wait_for_mail("bob@local.test", 2)
    host.postfix.wait_empty()
    assert len(host.sink.received) == 1
    assert counts(host)["automatic"] == 1


def test_a_copy_is_forwarded_and_the_mail_is_delivered(host: LiveHost) -> None:
    host.clear()
    away(host, "fred@local.test", "--forward", "fred@elsewhere.example")
    assert host.send(recipients="fred@local.test", mail=MAIL % 6).ok
    host.server.wait_for_mail("fred@local.test")
    (received,) = host.sink.wait(1)
    assert (received.sender, received.recipients) == ("fred@local.test", ("fred@elsewhere.example",))
    assert received.field("Delivered-To") == ["fred@local.test"]
    assert received.field("Message-ID") == ["<6@friend.example>"]
