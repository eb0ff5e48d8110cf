"""The wrappers before qmail-local and qmail-remote, started as qmail-lspawn and qmail-rspawn do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from postroom.fronts.qmail import local
from postroom.mail import TrafficClass
from qmail.house import MAIL, House, Start, envelope, one_answer
from requirements import require_root

QUEUED = b"Received: (qmail 4711 invoked from network); 1 Jan 2026 00:00:00 -0000\n"
WORDS = [b"popuser", b"/home/popuser", b"1-bob", b"", b"", b"local.test", b"a@sender.example", b"./Maildir/"]
REMOTE = [b"far.example", b"a@local.test", b"c@far.example"]
AWAY = b"Mail service unavailable - try again later (#4.3.0)\n"


@pytest.fixture
def virtual(house: House) -> House:
    (house.root / "control/virtualdomains").write_text("# ours\nlocal.test:1\nother.test:2\n")
    return house


# qmail-local


def test_local_passes_the_queues_own_file_on(virtual: House) -> None:
    virtual.given("before-local look global needs=body | pass")
    ended = virtual.local(WORDS, QUEUED + MAIL)
    (noted,) = virtual.notes()
    assert (ended.status, ended.said) == (0, b"did 1+0+0\n")
    assert noted.mail == QUEUED + MAIL
    assert noted.argv[1:] == [b"--", *WORDS]
    assert (noted.pid, noted.cwd, noted.position, noted.fds) == (ended.pid, str(virtual.root), 0, [0, 1, 2])
    ((found, _),) = virtual.calls("look")
    assert [each.text for each in found.recipients] == ["bob@local.test"]
    assert (found.sender.text, found.queue_id) == ("a@sender.example", "qp4711")
    assert str(found.session.client_address) == "203.0.113.9"
    assert (found.session.helo, found.traffic) == ("helo.example", TrafficClass.INBOUND)


def test_local_edits_are_made_and_the_sender_may_change(virtual: House) -> None:
    virtual.given("before-local edit global needs=headers | pass | add X-For: bob | sender new@sender.example")
    assert virtual.local(WORDS, QUEUED + MAIL).status == 0
    (noted,) = virtual.notes()
    assert noted.mail == QUEUED + MAIL.replace(b"Subject: hello\n", b"Subject: hello\nX-For: bob\n")
    assert noted.argv[8] == b"new@sender.example"
    assert noted.position == 0


def test_local_results_of_the_first_stage_are_believed_and_forged_ones_are_not(virtual: House) -> None:
    virtual.given("before-local look global needs=headers | pass | result dkim=pass")
    ours = b"Authentication-Results: mx.test.example; spf=pass\n"
    forged = b"Authentication-Results: mx.test.example; spf=fail\n"
    assert virtual.local(WORDS, QUEUED + ours + MAIL.replace(b"From:", forged + b"From:")).status == 0
    (noted,) = virtual.notes()
    assert noted.mail.startswith(b"Authentication-Results: mx.test.example;\n\tspf=pass;\n\tdkim=pass\n" + QUEUED)
    assert b"spf=fail" not in noted.mail


@pytest.mark.parametrize(
    ("trace", "traffic"),
    [
        (QUEUED, "inbound"),
        (QUEUED + b"Authentication-Results: mx.test.example; auth=pass\n", "authenticated"),
        (QUEUED.replace(b"from network", b"by uid 89"), "inbound"),  # qmail-smtpd may run as any user
        (b"Received: (qmail 1 invoked by uid 1000); x\nReceived: (qmail 2 invoked from network); x\n", "local"),
        (b"Received: (qmail 1 invoked for bounce); x\nX-None: 1\n", "inbound"),
        (b"", "inbound"),
    ],
)
def test_local_knows_where_the_mail_came_from(virtual: House, trace: bytes, traffic: str) -> None:
    virtual.given("before-local look global | pass")
    assert virtual.local(WORDS, trace + MAIL).status == 0
    assert str(virtual.calls("look")[0][0].traffic) == traffic


@pytest.mark.parametrize(
    ("verdict", "status", "report"),
    [
        ("reject 7.1 go away", 100, b"go away (#5.7.1)\n"),
        ("defer 2.2 Mailbox full", 111, b"Mailbox full (#4.2.2)\n"),
        ("stop taken", 0, b""),
        ("quarantine odd", 0, b""),
    ],
)
def test_local_answers(virtual: House, verdict: str, status: int, report: bytes) -> None:
    virtual.given(f"before-local no recipient:bob@local.test | {verdict}")
    ended = virtual.local(WORDS)
    assert (ended.status, ended.said) == (status, report)
    assert virtual.notes() == []


@pytest.mark.parametrize("status", [0, 100, 111, 64, 99])
def test_local_the_originals_status_is_the_answer(virtual: House, status: int) -> None:
    virtual.answer(status=status, report="its own words\n")
    ended = virtual.local(WORDS)
    assert (ended.status, ended.said) == (status, b"its own words\n")


def test_local_without_the_server_is_tried_again(closed_house: House) -> None:
    ended = closed_house.local(WORDS)
    assert (ended.status, ended.said) == (111, AWAY)
    thread = one_answer(closed_house, lambda client: client.close())
    assert closed_house.local(WORDS).status == 111
    thread.join(30)
    assert closed_house.notes() == []


def test_local_a_full_disk_is_temporary(virtual: House) -> None:
    virtual.given("before-local edit global needs=headers | pass | add X-Tag: 1")
    ended = virtual.local(WORDS, MAIL + b"x" * 100_000, Start(file_size=50_000))
    assert (ended.status, ended.said) == (111, b"Unable to handle the message (#4.3.0)\n")


def test_local_the_original_always_gets_a_file_that_it_can_rewind(virtual: House) -> None:
    assert virtual.local(WORDS, pipe=True).status == 0
    assert virtual.notes()[0].mail == MAIL


@pytest.mark.parametrize("words", [[], [b"too", b"few"], [*WORDS, b"too many"]])
def test_local_leaves_a_wrong_command_line_to_the_original(virtual: House, words: list[bytes]) -> None:
    virtual.given("before-local no global | reject")
    assert virtual.local(words).status == 0
    assert virtual.notes()[0].argv[1:] == [b"--", *words]


def test_local_runs_as_the_recipient(virtual: House) -> None:
    require_root()
    virtual.given("before-local edit global needs=headers | pass | add X-For: bob")
    assert virtual.local(WORDS, start=Start(uid=65534)).status == 0
    assert b"X-For: bob\n" in virtual.notes()[0].mail


@pytest.mark.parametrize(
    ("user", "domain", "address"),
    [
        (b"1-bob", b"local.test", b"bob@local.test"),
        (b"1-bob-ext", b"LOCAL.test", b"bob-ext@LOCAL.test"),
        (b"bob", b"local.test", b"bob@local.test"),
        (b"wild-x", b"a.b.star.test", b"x@a.b.star.test"),
        (b"root-bob", b"here.test", b"root-bob@here.test"),  # control/locals comes first
        (b"joe-Boss", b"user.test", b"Boss@user.test"),
        (b"all-x", b"anywhere.example", b"x@anywhere.example"),
        (b"1-\xff", b"local.test", b"\xff@local.test"),
    ],
)
def test_the_prefix_of_virtual_domains_is_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: bytes, domain: bytes, address: bytes
) -> None:
    (tmp_path / "locals").write_text("here.test\n")
    lines = "#x\nlocal.test:1  \n.star.test:wild\nhere.test:root\nboss@user.test:joe\n:all\n"
    (tmp_path / "virtualdomains").write_text(lines)
    monkeypatch.setattr(local, "CONTROL", str(tmp_path))
    assert local.real_address(user, domain) == address


# qmail-remote


def test_remote_is_found_by_path_and_passes_the_mail_on(house: House) -> None:
    house.given("before-remote look global needs=body | pass")
    ended = house.remote(REMOTE, QUEUED.replace(b"from network", b"by uid 0") + b"Subject: x\n\nx\n")
    assert (ended.status, ended.said) == (0, b"rok\0K203.0.113.1 accepted message\n\0")
    (noted,) = house.notes()
    assert noted.argv[1:] == REMOTE
    assert (noted.pid, noted.cwd, noted.fds) == (ended.pid, str(house.root / "queue/mess"), [0, 1, 2])
    ((found, _),) = house.calls("look")
    assert [each.text for each in found.recipients] == ["c@far.example"]
    assert found.traffic is TrafficClass.LOCAL


def test_remote_edits_are_made(house: House) -> None:
    house.given("before-remote sign global needs=body | pass | insert DKIM-Signature: v=1 | sender srs@local.test")
    assert house.remote(REMOTE, QUEUED + MAIL).status == 0
    (noted,) = house.notes()
    assert noted.mail == b"DKIM-Signature: v=1\n" + QUEUED + MAIL
    assert noted.argv[1:] == [b"far.example", b"srs@local.test", b"c@far.example"]


@pytest.mark.parametrize(
    ("verdict", "report"),
    [
        ("reject 7.1 I refuse", b"r\0DI refuse (#5.7.1)\n\0"),
        ("defer 7.1 try later", b"r\0Ztry later (#4.7.1)\n\0"),
        ("stop taken", b"r\0Ktaken over by a mail handler\n\0"),
        ("quarantine odd", b"r\0Ktaken over by a mail handler\n\0"),
        ("raise secret", b"r\0ZService unavailable - try again later (#4.7.1)\n\0"),
    ],
)
def test_remote_reports(house: House, verdict: str, report: bytes) -> None:
    house.given(f"before-remote no global | {verdict}")
    ended = house.remote(REMOTE)
    assert (ended.status, ended.said) == (0, report)
    assert house.notes() == []


def test_remote_several_recipients_are_answered_for_one_by_one(house: House) -> None:
    house.given("before-remote no recipient:c@far.example | reject 7.1 not you")
    ended = house.remote([*REMOTE, b"d@far.example"])
    said = b"hnot you\n\0stry again later\n\0Kanswered for each recipient\n\0"
    assert (ended.status, ended.said) == (0, said)
    assert house.notes() == []  # the next run is without the one that was refused


def test_remote_without_the_server_is_tried_again(closed_house: House) -> None:
    ended = closed_house.remote(REMOTE)
    assert (ended.status, ended.said) == (0, b"r\0Z" + AWAY + b"\0")

    def half(client: socket.socket) -> None:
        client.recv(10)

    thread = one_answer(closed_house, half)
    assert closed_house.remote(REMOTE).said.startswith(b"r\0Z")
    thread.join(30)
    assert closed_house.notes() == []


def test_remote_the_original_is_lost(house: House) -> None:
    (house.root / "bin/qmail-remote.moved").unlink()
    ended = house.remote(REMOTE)
    assert (ended.status, ended.said) == (0, b"r\0ZUnable to handle the message (#4.3.0)\n\0")


def test_remote_null_and_raw_senders(house: House) -> None:
    house.given("before-remote look global | pass")
    for sender in (b"", b"#@[]", b"\xff@local.test"):
        assert house.remote([b"far.example", sender, b"\xe4@far.example"]).status == 0
    assert [noted.argv[2] for noted in house.notes()] == [b"", b"#@[]", b"\xff@local.test"]
    assert [found.sender.text for found, _ in house.calls("look")] == ["", "", "\udcff@local.test"]


# The whole way


def test_who_logged_in_is_known_at_every_later_stage(virtual: House) -> None:
    virtual.given("before-queue tag global needs=headers | pass")
    virtual.given("before-remote look global needs=headers | pass")
    start = Start({"TCPREMOTEIP": "203.0.113.9", "SMTPAUTHUSER": "al"})
    assert virtual.queue(envelope(b"a@local.test", b"c@far.example"), start=start).status == 0
    queued = virtual.notes()[0].mail
    assert queued == b"Authentication-Results: mx.test.example; auth=pass\n".replace(b"; ", b";\n\t") + MAIL
    assert virtual.remote(REMOTE, QUEUED + queued).status == 0
    ((found, _),) = virtual.calls("look")
    assert found.traffic is TrafficClass.AUTHENTICATED
