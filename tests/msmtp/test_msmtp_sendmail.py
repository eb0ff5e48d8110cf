"""The sendmail wrapper before a real msmtp, into a loopback sink."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msmtp.conftest import Desk
from postroom.cli.output import ExitStatus
from postroom.fronts.sendmail import CommandLine, NotForUs, NotUnderstood
from postroom.mail import TrafficClass
from postroom.testing.ports import free_port
from qmail.house import one_answer

WITH_BCC = b"From: me@here.example\nTo: Bob <b@far.example>\nCc: c@far.example\nBcc: secret@far.example\n\nhello\n"


def test_a_mail_goes_out_through_the_handlers(desk: Desk) -> None:
    desk.house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    desk.house.given("before-remote sign global needs=body | pass | insert DKIM-Signature: v=1")
    done = desk.send("-i", "-f", "me@here.example", "--", "b@far.example")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (received,) = desk.sink.wait(1)
    assert (received.sender, received.recipients) == ("me@here.example", ("b@far.example",))
    assert received.field("X-Tag") == ["1"]
    assert received.field("DKIM-Signature") == ["v=1"]
    assert received.mail.endswith(b"\r\n\r\nhello\r\n")
    ((found, message),) = desk.house.calls("sign")
    assert message.get(b"X-Tag") == "1"
    assert (found.traffic, found.session.submitted_locally) == (TrafficClass.LOCAL, True)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize(
    ("words", "recipients"),
    [
        (["b@far.example"], {"b@far.example"}),
        (["-t"], {"b@far.example", "c@far.example", "secret@far.example"}),
        (["-ti"], {"b@far.example", "c@far.example", "secret@far.example"}),
        (["--read-recipients", "d@far.example"], {f"{user}@far.example" for user in ("b", "c", "secret", "d")}),
        (["-oi", "-oem", "-odi", "-F", "My Name", "-a", "default", "b@far.example"], {"b@far.example"}),
        (["-i", "-fme@here.example", "b@far.example", "c@far.example"], {"b@far.example", "c@far.example"}),
        (["--from=me@here.example", "-bm", "--", "-odd@far.example"], {"-odd@far.example"}),
        (["-N", "off", "-R", "off", "b@far.example"], {"b@far.example"}),
    ],
)
def test_sendmails_options(desk: Desk, words: list[str], recipients: set[str], changed: bool) -> None:
    edits = " | add X-Tag: 1" if changed else ""
    desk.house.given(f"before-queue look global needs=headers | pass{edits}")
    done = desk.send(*words, mail=WITH_BCC)
    assert (done.returncode, done.stderr) == (0, b"")
    (received,) = desk.sink.wait(1)
    assert (received.sender, set(received.recipients)) == ("me@here.example", recipients)
    assert received.field("Bcc") == []
    assert received.field("X-Tag") == (["1"] if changed else [])
    ((found, message),) = desk.house.calls("look")
    assert {each.text for each in found.recipients} == recipients
    assert found.sender.text == "me@here.example"
    assert message.get(b"Bcc") is None


def test_the_sender_is_the_one_that_msmtp_will_use(desk: Desk) -> None:
    desk.house.given("before-queue look global | pass")
    assert desk.send("b@far.example").returncode == 0
    assert desk.send("-f", "other@here.example", "b@far.example").returncode == 0
    mail = b"From: Third <third@here.example>\n\nx\n"
    assert desk.send("--read-envelope-from", "b@far.example", mail=mail).returncode == 0
    expected = ["me@here.example", "other@here.example", "third@here.example"]
    assert [found.sender.text for found, _ in desk.house.calls("look")] == expected
    assert [received.sender for received in desk.sink.wait(3)] == expected


def test_sender_and_recipients_may_change(desk: Desk) -> None:
    desk.house.given(
        "before-queue route global | pass | sender new@here.example | addrcpt d@far.example | delrcpt b@far.example"
    )
    assert desk.send("-t", "-f", "me@here.example", mail=WITH_BCC).returncode == 0
    (received,) = desk.sink.wait(1)
    assert received.sender == "new@here.example"
    assert set(received.recipients) == {"c@far.example", "secret@far.example", "d@far.example"}


def test_resent_fields_name_the_recipients(desk: Desk) -> None:
    desk.house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    mail = b"From: a@b.example\nTo: old@far.example\nResent-To: new@far.example\n\nx\n"
    assert desk.send("-t", mail=mail).returncode == 0
    assert desk.sink.wait(1)[0].recipients == ("new@far.example",)


def test_recipients_that_cannot_be_read_are_refused_for_good(desk: Desk) -> None:
    desk.house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    nested = b"(" * 5000 + b")" * 5000
    done = desk.send("-t", mail=b"From: a@b.example\nTo: " + nested + b" new@far.example\n\nx\n")
    assert (done.returncode, desk.sink.received) == (77, [])
    assert b"The recipients in the mail cannot be read (#5.1.3)" in done.stderr


@pytest.mark.parametrize(
    ("verdict", "status", "said"),
    [
        ("reject 7.1 not you", 77, b"sendmail: the mail is refused: not you (#5.7.1)\n"),
        ("defer 7.1 not now", 75, b"sendmail: the mail is refused: not now (#4.7.1)\n"),
        ("raise secret /path", 75, b"sendmail: the mail is refused: Service unavailable - try again later (#4.7.1)\n"),
        ("stop taken", 0, b""),
        ("quarantine odd", 0, b""),
    ],
)
@pytest.mark.parametrize("stage", ["before-queue", "before-remote"])
def test_what_handlers_answer(desk: Desk, stage: str, verdict: str, status: int, said: bytes) -> None:
    desk.house.given(f"{stage} no global | {verdict}")
    done = desk.send("b@far.example")
    assert (done.returncode, done.stderr) == (status, said)
    assert desk.sink.received == []


@pytest.mark.parametrize("words", [["--bogus"], ["-bs"], ["-q"], [], ["-a", "nobody", "b@far.example"], ["--version"]])
def test_msmtps_exit_status_is_kept(desk: Desk, words: list[str]) -> None:
    theirs = desk.send(*words, program=desk.msmtp)
    ours = desk.send(*words)
    assert ours.returncode == theirs.returncode
    assert ours.stdout == theirs.stdout


def test_msmtps_answers_for_servers_are_kept(desk: Desk) -> None:
    for reply in ("550 5.1.1 nobody", "450 4.2.0 later"):
        desk.sink.refuse["b@far.example"] = reply
        theirs = desk.send("b@far.example", program=desk.msmtp)
        ours = desk.send("b@far.example")
        assert (ours.returncode, reply in ours.stderr.decode()) == (theirs.returncode, reply in theirs.stderr.decode())
        assert ours.returncode in (65, 69)
    desk.write_account(free_port())
    assert desk.send("b@far.example").returncode == desk.send("b@far.example", program=desk.msmtp).returncode == 75


def test_without_the_server_the_mail_is_to_come_again(bare_desk: Desk) -> None:
    assert bare_desk.command("install") == 0
    done = bare_desk.send("b@far.example")
    assert (done.returncode, done.stderr) == (75, b"sendmail: mail service unavailable - try again later\n")

    def half(client: socket.socket) -> None:
        client.recv(10)
        client.sendall(b"V\0\0\0\6PASS\0\0")

    thread = one_answer(bare_desk.house, half)
    assert bare_desk.send("b@far.example").returncode == 75
    thread.join(30)
    assert bare_desk.sink.received == []


def test_odd_octets_pass(desk: Desk) -> None:
    desk.house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    mail = b"From: me@here.example\nSubject: \xe4\n\n.dot\n\xff\n"
    assert desk.send(b"b@far.example", mail=mail, environment={"LC_ALL": "C"}).returncode == 0
    (received,) = desk.sink.wait(1)
    assert received.mail.endswith(b"\r\n\r\n.dot\r\n\xff\r\n")


# Command lines


def test_a_command_line_is_read_as_msmtp_reads_it() -> None:
    words = b"sendmail -C rc -tioi -f a@b --account=x -Fname --read-rec to@x -X log -- -f".split()
    line = CommandLine(words)
    assert line.from_mail
    assert line.recipients == [b"to@x", b"-f"]
    assert line.options == b"-C rc -i -oi --account=x -Fname -X log".split()


@pytest.mark.parametrize("word", [b"-bs", b"-P", b"-S", b"--serverinfo", b"--rmqs=x", b"-iP"])
def test_command_lines_that_send_nothing(word: bytes) -> None:
    with pytest.raises(NotForUs):
        CommandLine([b"sendmail", word])


# Installation


@pytest.mark.parametrize("word", [b"--nonsense", b"--tls-"])
def test_command_lines_that_are_not_understood(word: bytes) -> None:
    with pytest.raises(NotUnderstood):
        CommandLine([b"sendmail", word, b"a@far.example"])


@pytest.mark.parametrize("word", ["--connect-timeout=9", "--tls-force-sslv3"])
def test_options_that_msmtp_does_not_document_pass_no_handler_by(desk: Desk, word: str) -> None:
    desk.house.given("before-queue no global | reject 7.1 not you")
    assert desk.send(word, "a@far.example").returncode == 77


def test_an_option_of_a_newer_msmtp_passes_no_handler_by(desk: Desk) -> None:
    newer = desk.house.root / "newer-msmtp"
    drop = 'for word do shift; [ "$word" = --brand-new ] || set -- "$@" "$word"; done'
    newer.write_text(f'#!/bin/sh\n{drop}\nexec {desk.msmtp} "$@"\n')
    newer.chmod(0o755)
    desk.msmtp = str(newer)
    assert desk.command("install") == 0
    done = desk.send("--brand-new", "a@far.example")
    assert done.returncode == 64
    assert b"does not know" in done.stderr
    assert desk.sink.received == []


def test_nothing_was_there_and_nothing_is_left(bare_desk: Desk) -> None:
    root = bare_desk.house.root
    before = sorted(path.name for path in root.iterdir())
    assert bare_desk.command("install") == 0
    assert bare_desk.command("install") == 0
    assert bare_desk.sendmail.stat().st_mode & 0o7777 == 0o755
    assert bare_desk.command("uninstall") == 0
    assert sorted(path.name for path in root.iterdir()) == before


def test_what_was_there_is_put_back(bare_desk: Desk) -> None:
    """As Debian's msmtp-mta leaves it: a symbolic link to msmtp."""
    bare_desk.sendmail.symlink_to(bare_desk.msmtp)
    assert bare_desk.command("install") == 0
    assert not bare_desk.sendmail.is_symlink()
    assert bare_desk.command("uninstall") == 0
    assert bare_desk.sendmail.readlink() == Path(bare_desk.msmtp)


def test_status(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.command("status") == 0
    assert "wrapped" in capsys.readouterr().out
    desk.sendmail.unlink()
    assert desk.command("status") == ExitStatus.NO


def test_no_msmtp(bare_desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    bare_desk.msmtp = str(bare_desk.house.root / "msmtp")
    assert bare_desk.command("install") == 1
    assert "install msmtp, or use --msmtp" in capsys.readouterr().err
