"""The LMTP engine on real sockets: whole mails to real Maildirs, limits, clients that misbehave, and the end."""

from __future__ import annotations

import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from core.local_mail import LOCAL, MAIL, Conversation, Office, mails, settings, tcp_listener, unix_listener
from postroom.config import LmtpSettings, Size, parse_duration
from postroom.mail import (
    AddField,
    AddRecipient,
    Address,
    AuthenticationResult,
    Edit,
    Envelope,
    Message,
    RemoveRecipient,
    ReplaceSender,
    TrafficClass,
)
from postroom.services.mark import load_key, sign_mark
from postroom.testing.sink import field_values
from postroom.verdict import Reply, Verdict, deferred, passed, quarantined, rejected, stopped


def send(conversation: Conversation, mail: bytes, count: int = 1) -> list[str]:
    """DATA and the replies, one a recipient."""
    assert conversation.ask(b"DATA").startswith("354")
    conversation.send(mail + b".\r\n")
    return [conversation.reply() for _ in range(count)]


def test_a_mail_is_in_the_maildir_when_it_is_answered_for(tmp_path: Path) -> None:
    office = Office(tmp_path)
    maildir = office.mailbox("bob")
    with office.lmtp() as server, server.talk() as client:
        assert client.begin("bob@local.test") == ["250 2.1.5 OK"]
        assert send(client, MAIL) == ["250 2.0.0 Delivered"]
        (mail,) = mails(maildir)
        assert client.ask(b"QUIT") == "221 2.0.0 Bye"
    lines = mail.split(b"\n")
    assert lines[0] == b"Return-Path: <alice@sender.test>"
    assert lines[1] == b"Delivered-To: bob@local.test"
    assert lines[2] == b"Received: from client.test ([127.0.0.1])"
    assert lines[3].startswith(b"\tby mx.local.test (Postroom) with LMTP id L")
    assert lines[4].startswith(b"\tfor <bob@local.test>; ")
    assert mail.endswith(b"Received: from a by b; now\nFrom: alice@sender.test\nSubject: hello\n\nhello\n")
    (path,) = (maildir / "new").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.name.endswith(f",S={len(mail)}")
    assert not list((maildir / "tmp").iterdir())


def test_each_recipient_has_its_own_answer(tmp_path: Path) -> None:
    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        (recipient,) = envelope.recipients
        match recipient.local_part:
            case "defer":
                return deferred("later", Reply("Not now"))
            case "reject":
                return rejected("never", Reply("Go away\nand stay there", "7.5"))
            case "stop":
                return stopped("taken")
            case "hold":
                return quarantined("odd")
            case "crash":
                raise RuntimeError("secret /path")
            case _:
                return passed(AddField(b"X-For", b" " + recipient.text.encode()))

    office = Office(tmp_path, answer)
    users = ["pass", "defer", "reject", "stop", "hold", "crash", "also"]
    boxes = {user: office.mailbox(user) for user in users}
    with office.lmtp() as server, server.talk() as client:
        client.begin(*(f"{user}@local.test" for user in users))
        assert send(client, MAIL, len(users)) == [
            "250 2.0.0 Delivered",
            "451 4.7.1 Not now",
            "550 5.7.5 and stay there",
            "250 2.0.0 Taken over",
            "250 2.0.0 Held",
            "451 4.7.1 Service unavailable - try again later",
            "250 2.0.0 Delivered",
        ]
    assert {user for user, box in boxes.items() if mails(box)} == {"pass", "also"}
    assert field_values(mails(boxes["also"])[0], "X-For") == ["also@local.test"]
    (held,) = office.quarantine.list()
    assert (held.recipients, held.handler, held.reason) == (("hold@local.test",), "scripted", "odd")
    assert b"".join(office.quarantine.chunks(held.id)) == MAIL


def test_answers_come_one_by_one_as_they_are_known(tmp_path: Path) -> None:
    first_answered = threading.Event()

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        if envelope.recipients[0].local_part == "two":
            assert first_answered.wait(10)
        return stopped("taken")

    office = Office(tmp_path, answer)
    office.mailbox("one"), office.mailbox("two")
    with office.lmtp() as server, server.talk() as client:
        client.begin("one@local.test", "two@local.test")
        assert send(client, MAIL) == ["250 2.0.0 Taken over"]  # while the second handler still waits
        first_answered.set()
        assert client.reply() == "250 2.0.0 Taken over"


def test_a_handler_that_waits_holds_up_nobody_else(tmp_path: Path) -> None:
    others_done = threading.Event()

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        if envelope.recipients[0].local_part == "slow":
            assert others_done.wait(10)
        return passed()

    office = Office(tmp_path, answer)
    office.mailbox("slow"), office.mailbox("quick")
    with office.lmtp() as server, server.talk() as slow, server.talk() as quick:
        slow.begin("slow@local.test")
        assert slow.ask(b"DATA").startswith("354")
        slow.send(MAIL + b".\r\n")
        for _ in range(5):
            quick.begin("quick@local.test")
            assert send(quick, MAIL) == ["250 2.0.0 Delivered"]
        others_done.set()
        assert slow.reply() == "250 2.0.0 Delivered"


def test_session_facts_and_traffic_reach_the_handlers(tmp_path: Path) -> None:
    seen: list[Envelope] = []

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        seen.append(envelope)
        return stopped("seen")

    office = Office(tmp_path, answer)
    office.mailbox("bob")
    told = [
        [b"XFORWARD NAME=client.test ADDR=203.0.113.9 PORT=999 HELO=he.lo IDENT=4QID SOURCE=REMOTE"],
        [b"XFORWARD NAME=[UNAVAILABLE] ADDR=127.0.0.1 IDENT=4QID SOURCE=LOCAL"],
        [b"XFORWARD ADDR=203.0.113.9 SOURCE=REMOTE", b"XPOSTROOM LOGIN=al@here.test"],
        [b"XFORWARD SOURCE=LOCAL IDENT=4QID"],
        [],
    ]
    with office.lmtp() as server, server.talk() as client:
        for commands in told:
            client.ask(b"LHLO client.test")
            for command in commands:
                assert client.ask(command) == "250 2.0.0 OK"
            client.ask(b"MAIL FROM:<>"), client.ask(b"RCPT TO:<bob@local.test>")
            assert send(client, MAIL) == ["250 2.0.0 Taken over"]
    assert [each.traffic for each in seen] == [
        TrafficClass.INBOUND,
        TrafficClass.LOCAL,
        TrafficClass.AUTHENTICATED,
        TrafficClass.LOCAL,
        TrafficClass.INBOUND,  # nobody said anything: nothing is trusted
    ]
    first = seen[0].session
    assert (str(first.client_address), first.client_port, first.client_name, first.helo) == (
        "203.0.113.9", 999, "client.test", "he.lo",
    )  # fmt: skip
    assert seen[0].queue_id == "4QID"
    assert not seen[1].session.has_client_name
    assert seen[2].session.auth_user == "al@here.test"
    assert seen[3].session.submitted_locally
    assert seen[4].queue_id.startswith("L")


def test_edits_to_the_envelope(tmp_path: Path) -> None:
    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        edits: list[Edit] = [ReplaceSender(Address("other@sender.test")), AddRecipient(Address("copy@far.test"))]
        if envelope.recipients[0].local_part == "away":
            edits.append(RemoveRecipient(envelope.recipients[0]))
        return passed(*edits)

    office = Office(tmp_path, answer)
    bob, away = office.mailbox("bob"), office.mailbox("away")
    with office.lmtp() as server, server.talk() as client:
        client.begin("bob@local.test", "away@local.test")
        assert send(client, MAIL, 2) == ["250 2.0.0 Delivered", "250 2.0.0 Forwarded"]
    (mail,) = mails(bob)
    assert field_values(mail, "Return-Path") == ["<other@sender.test>"]
    assert not mails(away)
    first, second = office.reinject.submissions
    assert (first.sender.text, [str(each) for each in first.recipients]) == ("other@sender.test", ["copy@far.test"])
    assert field_values(first.mail, "Delivered-To") == ["bob@local.test"]  # so that a loop is seen
    assert field_values(second.mail, "Delivered-To") == ["away@local.test"]


def test_a_copy_that_cannot_be_handed_over_defers_the_mail(tmp_path: Path) -> None:
    office = Office(tmp_path, lambda *_: passed(AddRecipient(Address("copy@far.test"))))
    maildir = office.mailbox("bob")

    def fail(*_: object) -> None:
        raise ConnectionRefusedError(111, "refused")

    office.reinject.submit = fail  # type: ignore[assignment,method-assign]  # the mail server is down
    with office.lmtp() as server, server.talk() as client:
        client.begin("bob@local.test")
        assert send(client, MAIL) == ["451 4.3.0 Service unavailable - try again later"]
    assert not mails(maildir)


def test_authentication_results_become_one_field(tmp_path: Path) -> None:
    seen: list[Message] = []

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        seen.append(message)
        return passed(AuthenticationResult("dkim", "pass", (("header.d", "sender.test"),)))

    office = Office(tmp_path, answer)
    maildir = office.mailbox("bob")
    ours = b"Authentication-Results: mx.local.test; spf=pass smtp.mailfrom=sender.test\r\n"
    forged = b"Authentication-Results: mx.local.test; dmarc=pass\r\nAuthentication-Results: else.test; dkim=fail\r\n"
    mail = ours + b"Received: from a by b; now\r\n" + forged + b"From: a@sender.test\r\n\r\nx\r\n"
    with office.lmtp() as server, server.talk() as client:
        client.begin("bob@local.test")
        assert send(client, mail) == ["250 2.0.0 Delivered"]
    results = field_values(mails(maildir)[0], "Authentication-Results")
    assert len(results) == 2
    assert results[0].startswith("mx.local.test; ")
    assert "spf=pass" in results[0]
    assert "dkim=pass" in results[0]
    assert "dmarc" not in results[0]
    assert results[1] == "else.test; dkim=fail"
    assert all(b"dmarc" not in found.value for found in seen[0].fields)


def test_a_mail_of_our_own_that_before_local_has_seen_is_delivered_at_once(tmp_path: Path) -> None:
    office = Office(tmp_path, lambda *_: stopped("seen again"))
    maildir = office.mailbox("bob")
    sender, bob = Address("alice@sender.test"), Address("bob@local.test")
    key = load_key(office.config.paths.state)
    mark = sign_mark(key, {LOCAL}, sender, [bob], None, office.clock.now())
    forged = sign_mark(b"x" * 32, {LOCAL}, sender, [bob], None, office.clock.now())
    with office.lmtp() as server, server.talk() as client:
        client.begin("bob@local.test")
        assert send(client, mark + MAIL) == ["250 2.0.0 Delivered"]
        client.begin("bob@local.test")
        assert send(client, forged + MAIL) == ["250 2.0.0 Taken over"]
    (mail,) = mails(maildir)
    assert field_values(mail, "X-Postroom-Seen") == []


def test_a_registry_that_cannot_be_asked_defers(tmp_path: Path) -> None:
    office = Office(tmp_path, lambda *_: passed())
    maildir = office.mailbox("bob")
    office.registry.broken = True
    with office.lmtp() as server, server.talk() as client:
        client.begin("bob@local.test")
        assert send(client, MAIL) == ["451 4.3.0 Service unavailable - try again later"]
    assert not mails(maildir)


def test_a_mail_that_was_delivered_here_before_is_a_loop(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.mailbox("bob")
    with office.lmtp() as server, server.talk() as client:
        client.begin("bob@local.test")
        looped = b"Received: from a by b; now\r\nDelivered-To: Bob@Local.Test\r\n" + MAIL
        assert send(client, looped) == ["550 5.4.6 Mail forwarding loop for bob@local.test"]
        client.ask(b"MAIL FROM:<>"), client.ask(b"RCPT TO:<bob@local.test>")
        assert send(client, b"Received: x\r\n" * 101 + MAIL) == ["554 5.4.6 Too many hops"]


def test_another_mail_root_is_for_root_and_our_own_user_alone(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.mailbox("bob")
    other = tmp_path / "other"
    (other / "local.test/bob/Maildir").mkdir(parents=True)
    with office.lmtp() as server, server.talk() as client:  # TCP: nobody knows who that is
        client.ask(b"LHLO x"), client.ask(b"XPOSTROOM ROOT=" + str(other).encode()), client.ask(b"MAIL FROM:<>")
        assert client.ask(b"RCPT TO:<bob@local.test>").startswith("451 4.3.5 ")
    with office.lmtp(unix_listener(tmp_path / "s")) as server, server.talk() as client:
        client.ask(b"LHLO x"), client.ask(b"XPOSTROOM ROOT=" + str(other).encode()), client.ask(b"MAIL FROM:<>")
        assert client.ask(b"RCPT TO:<bob@local.test>") == "250 2.1.5 OK"
        assert send(client, MAIL) == ["250 2.0.0 Delivered"]
    assert len(mails(other / "local.test/bob/Maildir")) == 1


def test_unknown_users_are_refused_at_rcpt(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.mailbox("bob")
    with office.lmtp() as server, server.talk() as client:
        assert client.begin("nobody@local.test", "../bob@local.test", "bob+tag@local.test") == [
            "550 5.1.1 User unknown",
            "553 5.1.3 Mailbox name not allowed",
            "250 2.1.5 OK",
        ]


def test_a_large_mail_is_spooled_and_arrives_whole(tmp_path: Path) -> None:
    office = Office(tmp_path, lambda *_: passed())
    maildir = office.mailbox("bob")
    text = b"".join(b"%06d. line\r\n" % number for number in range(400_000))  # 5 MB
    with office.lmtp() as server:
        client = server.client()
        assert client.sendmail("a@b.test", ["bob@local.test"], b"A: b\r\n\r\n" + text) == {}
        client.quit()
    (path,) = (maildir / "new").iterdir()
    assert path.read_bytes().partition(b"\n\n")[2] == text.replace(b"\r\n", b"\n")


def test_limits_of_size_connections_and_silence(tmp_path: Path) -> None:
    lmtp = LmtpSettings(max_message=Size(2048), connections=2, idle_timeout=parse_duration("1s"))
    office = Office(tmp_path, config=settings(tmp_path, lmtp=lmtp))
    office.mailbox("bob")
    with office.lmtp() as server:
        with server.talk() as client:
            client.begin("bob@local.test")
            assert send(client, b"x" * 5000 + b"\r\n") == ["552 5.3.4 Message too big for system"]
            with server.talk() as second:
                with socket.create_connection(server.listening.getsockname(), timeout=20) as third:
                    assert third.recv(100) == b"421 4.3.2 Too many connections\r\n"
                assert second.ask(b"QUIT") == client.ask(b"QUIT") == "221 2.0.0 Bye"
        with server.talk() as silent:
            assert silent.reply() == "421 4.4.2 Idle too long"
            assert silent.reply() == ""


def test_a_client_that_never_reads_is_not_listened_to_for_ever(tmp_path: Path) -> None:
    lmtp = LmtpSettings(idle_timeout=parse_duration("1s"))
    office = Office(tmp_path, config=settings(tmp_path, lmtp=lmtp))
    with office.lmtp(unix_listener(tmp_path / "s")) as server, server.talk() as greedy, server.talk() as other:
        greedy.socket.setblocking(False)
        sent, deadline = 0, time.monotonic() + 60
        while sent < 1 << 26 and time.monotonic() < deadline:
            try:
                sent += greedy.socket.send(b"NOOP\r\n" * 10000)
            except BlockingIOError:
                if other.ask(b"NOOP") != "250 2.0.0 OK":  # pragma: no cover  # the other one is idle too long
                    break
            except OSError:
                break
        else:
            pytest.fail("the client was listened to for ever")
        assert sent < 1 << 26


def test_a_client_that_goes_away_in_the_middle_costs_nobody_a_mail(tmp_path: Path) -> None:
    started, going_on = threading.Event(), threading.Event()

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        started.set()
        assert going_on.wait(10)
        return passed()

    office = Office(tmp_path, answer)
    one, two = office.mailbox("one"), office.mailbox("two")
    with office.lmtp(unix_listener(tmp_path / "s")) as server:
        with server.talk() as client:
            client.begin("one@local.test", "two@local.test")
            assert client.ask(b"DATA").startswith("354")
            client.send(MAIL + b".\r\n")
            assert started.wait(10)
        with server.talk() as half:
            half.begin("one@local.test")
            half.ask(b"DATA")
            half.send(b"From: half a mail")
        with server.talk() as other:  # accepted after both hang-ups were seen
            assert other.ask(b"NOOP") == "250 2.0.0 OK"
            going_on.set()
            other.begin("two@local.test")
            assert send(other, MAIL) == ["250 2.0.0 Delivered"]
    assert len(mails(one)) == 1  # had begun
    assert len(mails(two)) == 1  # of the other client: the first one will try again


def test_drain_finishes_the_mail_in_hand_and_sends_idle_clients_away(tmp_path: Path) -> None:
    started, going_on = threading.Event(), threading.Event()

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        started.set()
        assert going_on.wait(10)
        return passed()

    office = Office(tmp_path, answer)
    maildir = office.mailbox("bob")
    with office.lmtp() as server, server.talk() as busy, server.talk() as idle:
        busy.begin("bob@local.test")
        assert busy.ask(b"DATA").startswith("354")
        busy.send(MAIL + b".\r\n")
        assert started.wait(10)
        server.engine.drain(20)
        assert idle.reply() == "421 4.3.2 Server is shutting down"
        going_on.set()
        assert busy.reply() == "250 2.0.0 Delivered"
        assert busy.reply() == "421 4.3.2 Server is shutting down"
        server.thread.join(30)
        assert not server.thread.is_alive()
    assert len(mails(maildir)) == 1


def test_a_listener_that_is_shut_down_costs_no_mail_in_hand(tmp_path: Path) -> None:
    started, going_on = threading.Event(), threading.Event()

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        started.set()
        assert going_on.wait(10)
        return passed()

    office = Office(tmp_path, answer)
    maildir = office.mailbox("bob")
    listening = tcp_listener()
    with office.lmtp(listening) as server, server.talk() as busy:
        busy.begin("bob@local.test")
        assert busy.ask(b"DATA").startswith("354")
        busy.send(MAIL + b".\r\n")
        assert started.wait(10)
        listening.shutdown(socket.SHUT_RDWR)
        going_on.set()
        assert busy.reply() == "250 2.0.0 Delivered"
        assert busy.ask(b"NOOP") == "250 2.0.0 OK"
    assert len(mails(maildir)) == 1
    assert "cannot accept connections" not in [event for _, event, _ in office.log.lines]


def test_engines_share_a_listening_socket(tmp_path: Path) -> None:
    office = Office(tmp_path)
    maildir = office.mailbox("bob")
    shared = tcp_listener()
    with office.lmtp(shared) as server, office.lmtp(shared.dup()):
        for _ in range(20):
            with server.talk() as client:
                client.begin("bob@local.test")
                assert send(client, MAIL) == ["250 2.0.0 Delivered"]
    assert len(mails(maildir)) == 20
