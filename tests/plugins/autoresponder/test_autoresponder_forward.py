"""Copies for somebody else, and loops: of copies, and of two autoresponders set against each other."""

from __future__ import annotations

import pytest
from plugins.autoresponder.responding import ALICE, BOB, MAIL, Console, Desk, vouch
from postroom.authentication_results import FINDING
from postroom.mail import NULL_SENDER, Address, parse_message
from postroom.testing import FakeServices, StaticDirectory, envelope
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.handler import AutoresponderFinding
from postroom_autoresponder.settings import AutoresponderSettings

CARL = "carl@elsewhere.example"


def test_a_copy_is_the_mail_below_one_line(console: Console, desk: Desk) -> None:
    console("set", BOB, "--forward", CARL)
    octets = b"Received: x\r\n" + MAIL + b"\xff\0\r\n.\r\n"
    assert desk.receive(octets) is Silence.NO_TEXT
    (copy,) = desk.sent
    assert (copy.sender, copy.recipients) == (Address(BOB), (Address(CARL),))
    assert copy.mail == b"Delivered-To: bob@recipient.example\r\n" + octets
    assert console.counts() == {"no-text": 1, "forwarded": 1, "remembered addresses": 0}


def test_what_gets_no_reply_is_forwarded_all_the_same(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--forward", CARL)
    assert desk.receive(b"List-Id: <x.y>\r\n" + MAIL) is Silence.LIST_MAIL
    assert desk.receive(sender="") is Silence.NULL_SENDER
    assert [each.sender for each in desk.sent] == [Address(BOB), NULL_SENDER]  # a bounce stays one


def test_spam_and_what_conditions_leave_out_is_not_forwarded(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--forward", CARL, "--if-subject", "hello")
    assert desk.receive(b"X-Spam-Flag: YES\r\n" + MAIL) is Silence.SPAM
    assert desk.receive(MAIL.replace(b"Subject: hello", b"Subject: bye")) is Silence.CONDITION
    assert not desk.sent


def test_a_copy_that_comes_back_is_not_sent_again(console: Console, desk: Desk) -> None:
    console("set", BOB, "--forward", CARL)
    desk.receive()
    back = b"Received: by elsewhere.example\r\n" + desk.sent[0].mail
    desk.receive(back, sender=BOB)
    assert len(desk.sent) == 1
    desk.receive(b"Received: x\r\n" * 60 + MAIL)
    assert len(desk.sent) == 1


def test_a_copy_that_is_not_taken_is_named_and_the_reply_goes_out(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--forward", CARL)
    submit = desk.services.reinject.submit

    def refusing(sender: Address, recipients: tuple[Address, ...], mail: object) -> None:
        if recipients[0].text == CARL:
            raise OSError("no such user")
        submit(sender, recipients, mail)

    desk.services.reinject.submit = refusing
    assert desk.receive() is None
    assert len(desk.sent) == 1
    assert "no such user" in str(desk.services.log.lines)


def test_another_handlers_finding_of_spam_counts(console: Console, desk: Desk) -> None:
    class Found:
        is_spam = True

    console.set()
    desk.services.findings["spam"] = Found()
    assert desk.receive() is Silence.SPAM
    desk.settings = AutoresponderSettings(answer_spam=True)
    assert desk.receive() is None


@pytest.mark.parametrize(
    ("name", "facts", "replies"),
    [
        ("spf", {"result": "pass", "identity": "mailfrom", "domain": "sender.example"}, True),
        ("spf", {"result": "pass", "identity": "helo", "domain": "sender.example"}, False),
        ("spf", {"result": "fail", "identity": "mailfrom", "domain": "sender.example"}, False),
        ("dk_check", {"passed_domains": ("sender.example",)}, True),
        ("dk_check", {"passed_domains": ("stranger.example",)}, False),
    ],
)
def test_findings_of_the_same_stage_count(
    console: Console, desk: Desk, name: str, facts: dict[str, object], replies: bool
) -> None:
    console.set()
    del desk.services.findings[FINDING]
    assert desk.receive() is Silence.UNAUTHENTICATED
    desk.services.findings[name] = type("Found", (), facts)()
    assert desk.receive() is (None if replies else Silence.UNAUTHENTICATED)


def test_clients_of_our_own_need_nobody_to_vouch(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--interval", "0")
    del desk.services.findings[FINDING]
    assert desk.receive(auth_user="alice") is None
    assert desk.receive(client=None) is None
    assert desk.receive() is Silence.UNAUTHENTICATED
    desk.settings = AutoresponderSettings(authenticated_only=False)
    assert desk.receive() is None


def test_an_alias_that_the_directory_knows_is_the_mailbox(console: Console, desk: Desk) -> None:
    from postroom.hookspecs import Mailbox

    directory = StaticDirectory([Mailbox(Address(BOB))], {"office@recipient.example": (BOB, "eve@recipient.example")})
    desk.services.directory = directory
    console.set()
    assert desk.receive(MAIL.replace(b"To: bob@", b"To: office@")) is None
    assert desk.receive(sender="office@recipient.example") is Silence.OWN_ADDRESS


def play(services: FakeServices, first: tuple[str, str, bytes], most: int = 50) -> list[tuple[str, str]]:
    """Deliver a mail, and whatever comes of it, to the two mailboxes; every reply that was sent."""
    services.findings[FINDING] = vouch()
    desk = Desk(services, AutoresponderSettings(authenticated_only=False))
    queue, replies = [first], list[tuple[str, str]]()
    while queue and len(replies) < most:
        sender, recipient, mail = queue.pop(0)
        desk.sent.clear()
        desk.receive(mail, sender=sender, recipient=recipient)
        for each in desk.sent:
            replies.append((recipient, str(each.recipients[0])))
            queue.append((str(each.sender), str(each.recipients[0]), each.mail))
    return replies


def test_two_autoresponders_end_after_one_reply(console: Console, services: FakeServices) -> None:
    for address in (ALICE, BOB):
        console("set", address, "--text", "I am away.", "--interval", "0", "--daily-limit", "1000")
    assert play(services, (ALICE, BOB, MAIL)) == [(BOB, ALICE)]


def test_one_that_knows_no_rfc_is_answered_once_in_the_interval(console: Console, services: FakeServices) -> None:
    """The other side answers every mail from its own address, with nothing that says what it is."""
    console.set()
    desk = Desk(services)
    silences = []
    for number in range(20):
        mail = b"From: alice@sender.example\r\nTo: bob@recipient.example\r\nSubject: Re: Re: %d\r\n\r\nI am away\r\n"
        silences.append(desk.receive(mail % number))
        desk.clock.advance(60)
    assert silences == [None] + [Silence.TOO_SOON] * 19


def test_two_that_forward_to_each_other_end(console: Console, services: FakeServices) -> None:
    console("set", ALICE, "--forward", BOB)
    console("set", BOB, "--forward", ALICE)
    replies = play(services, ("dora@x.example", BOB, MAIL))
    assert replies == [(BOB, ALICE), (ALICE, BOB)]


def test_a_verdict_is_pass_and_says_what_came_of_it(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--forward", CARL)
    verdict = desk.verdict()
    assert verdict.reason == "replied; forwarded"
    assert verdict.finding == AutoresponderFinding(None, True)
    silent = desk.verdict()
    assert silent.reason == "silent: too-soon; forwarded"
    assert ("info", "Exiting. No need to respond.", {"reason": "too-soon"}) in desk.services.log.lines


def test_the_null_sender_sends_the_reply_to_the_envelope_sender_alone(console: Console, desk: Desk) -> None:
    console.set()
    desk.receive(b"Reply-To: eve@evil.example\r\nReturn-Path: <eve@evil.example>\r\n" + MAIL)
    (reply,) = desk.sent
    assert (reply.sender, reply.recipients) == (NULL_SENDER, (Address(ALICE),))
    assert envelope(ALICE).sender == Address(ALICE)
    assert b"eve" not in reply.mail
    assert parse_message(reply.mail).get(b"To") == f"Alice <{ALICE}>"
