"""Delivery to real Maildirs, LMTP servers and programs, and what their failures come to."""

from __future__ import annotations

import dataclasses
import errno
import os
import pwd
import socketserver
import stat
import threading
import time
from pathlib import Path

import pytest
from core.local_mail import MAIL, Office, mails, settings
from postroom.config import DeliveryKind, Host, SocketAddress, parse_duration
from postroom.delivery import Parcel, Report
from postroom.delivery.command import report
from postroom.delivery.parcel import lf_chunks
from postroom.delivery.trace import without_pipe_trace
from postroom.hookspecs import Mailbox
from postroom.mail import Address, Body, Field, Message, parse_message
from postroom.testing import StaticDirectory, envelope
from postroom.testing.dovecot import DovecotInstance
from postroom.testing.processes import runs, wait_until
from postroom.testing.sink import SinkServer, field_values


def parcel(recipient: str = "bob@local.test", mail: bytes = MAIL, sender: str = "alice@sender.test") -> Parcel:
    return Parcel(envelope(sender, recipient), parse_message(mail))


def maildir_office(base: Path, *mailboxes: Mailbox, create: bool = False) -> Office:
    return Office(base, config=settings(base, create=create), directory=StaticDirectory(mailboxes))


@pytest.mark.parametrize(
    ("recipient", "code"),
    [
        ("nobody@local.test", "550 5.1.1"),
        ("bob@elsewhere.test", "550 5.1.1"),
        ("..@local.test", "553 5.1.3"),
        (".hidden@local.test", "553 5.1.3"),
        ("a/b@local.test", "553 5.1.3"),
        ("bob\0@local.test", "553 5.1.3"),
        ("bob@../local.test", "553 5.1.3"),
        ('"../bob"@local.test', "553 5.1.3"),
        ("x" * 300 + "@local.test", "553 5.1.3"),
        ("bob", "553 5.1.3"),
        ("BOB@Local.Test", "250 2.0.0"),
        ("bob+tag@local.test", "250 2.0.0"),
        ('"bob"@local.test', "250 2.0.0"),
        ('"b\\ob"@local.test', "250 2.0.0"),
        ("with+plus@local.test", "250 2.0.0"),
    ],
)
def test_who_has_a_maildir(tmp_path: Path, recipient: str, code: str) -> None:
    office = maildir_office(tmp_path)
    bob, plus = office.mailbox("bob"), office.mailbox("with+plus")
    answer = office.parts.delivery.deliver(parcel(recipient))
    assert answer.line().startswith(code)
    assert (office.parts.delivery.check(Address(recipient)) is None) is answer.done
    assert len(mails(bob)) + len(mails(plus)) == answer.done
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mail"]


def test_a_mail_store_that_is_not_mounted_bounces_nothing(tmp_path: Path) -> None:
    office = maildir_office(tmp_path)
    assert office.parts.delivery.deliver(parcel()).code == "451"  # nothing below the root
    (tmp_path / "mail").rmdir()
    assert office.parts.delivery.deliver(parcel()).code == "451"
    promised = Mailbox(Address("eve@local.test"), maildir=str(tmp_path / "not/there"))
    assert maildir_office(tmp_path / "..", promised).parts.delivery.deliver(parcel("eve@local.test")).code == "451"


@pytest.mark.parametrize("part", ["local.test", "local.test/bob", "local.test/bob/Maildir"])
@pytest.mark.parametrize("what", ["dangling", "loop", "empty"])
def test_a_name_that_leads_nowhere_bounces_nothing(tmp_path: Path, part: str, what: str) -> None:
    office = maildir_office(tmp_path)
    office.mailbox("bob")
    office.mailbox("ann")
    office.mailbox("somebody", domain="other.test")
    place = tmp_path / "mail" / part
    place.rename(tmp_path / "away")
    match what:
        case "dangling":
            place.symlink_to(tmp_path / "not mounted")
        case "loop":
            place.symlink_to(place)
        case _ if place.name != "Maildir":
            place.mkdir()
    assert office.parts.delivery.deliver(parcel()).code == "451"
    nobody = office.parts.delivery.deliver(parcel("nobody@local.test"))
    assert nobody.code == ("451" if part == "local.test" else "550")


def test_the_directory_service_says_where_the_maildir_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    office = maildir_office(tmp_path, Mailbox(Address("eve@local.test"), maildir=str(tmp_path / "elsewhere")))
    assert office.parts.delivery.deliver(parcel("eve+tag@local.test")).done
    assert len(mails(tmp_path / "elsewhere")) == 1  # tmp, new and cur are made


def test_maildirs_are_made_when_wanted(tmp_path: Path) -> None:
    office = maildir_office(tmp_path, create=True)
    assert office.parts.delivery.deliver(parcel("new+tag@some.test")).done
    maildir = tmp_path / "mail/some.test/new/Maildir"
    assert len(mails(maildir)) == 1
    for directory in (maildir.parent, maildir, maildir / "tmp", maildir / "new", maildir / "cur"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert office.parts.delivery.deliver(parcel("..@some.test")).enhanced == "5.1.3"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_mail_written_by_root_belongs_to_the_maildirs_owner(tmp_path: Path) -> None:
    office = maildir_office(tmp_path, create=True)
    owner = pwd.getpwnam("nobody")
    maildir = office.mailbox("bob")
    for directory in (maildir, maildir / "new", maildir / "tmp"):
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    assert office.parts.delivery.deliver(parcel()).done
    (path,) = (maildir / "new").iterdir()
    assert (path.stat().st_uid, path.stat().st_gid) == (owner.pw_uid, owner.pw_gid)
    os.chown(tmp_path / "mail", owner.pw_uid, owner.pw_gid)
    assert office.parts.delivery.deliver(parcel("x@new.test")).done
    assert (tmp_path / "mail/new.test/x/Maildir/new").stat().st_uid == owner.pw_uid


def test_no_symbolic_link_in_a_maildir_leads_out_of_it(tmp_path: Path) -> None:
    office = maildir_office(tmp_path)
    maildir = office.mailbox("bob")
    (tmp_path / "victim").mkdir()
    (maildir / "new").rmdir()
    (maildir / "new").symlink_to(tmp_path / "victim")
    assert office.parts.delivery.deliver(parcel()).code == "451"
    assert not list((tmp_path / "victim").iterdir())
    assert not list((maildir / "tmp").iterdir())


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "452 4.3.1 Not enough space - try again later"),
        (errno.EDQUOT, "452 4.2.2 Mailbox is full"),
        (errno.EIO, "451 4.3.0 Service unavailable - try again later"),
    ],
)
def test_a_disk_that_fails_is_a_temporary_failure_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, line: str
) -> None:
    office = maildir_office(tmp_path)
    maildir = office.mailbox("bob")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)  # no real disk fails on demand
    assert office.parts.delivery.deliver(parcel()).line() == line
    assert not list((maildir / "tmp").iterdir())
    assert not mails(maildir)


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs a small file system: root")
def test_a_full_disk(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "x", str(small)], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    try:
        office = maildir_office(small)
        maildir = office.mailbox("bob")
        big = b"A: b\r\n\r\n" + b"x" * 100_000
        assert office.parts.delivery.deliver(parcel(mail=big)).line().startswith("452 4.3.1")
        assert not list((maildir / "tmp").iterdir())
        assert office.parts.delivery.deliver(parcel()).done
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_names_are_unique_and_safe(tmp_path: Path) -> None:
    office = maildir_office(tmp_path)
    maildir = office.mailbox("bob")
    for _ in range(50):
        assert office.parts.delivery.deliver(parcel()).done
    names = [path.name for path in (maildir / "new").iterdir()]
    assert len(names) == 50
    assert not any(":" in name or name.startswith(".") for name in names)


def test_a_long_name_of_our_own_bounces_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(settings(tmp_path), host=Host(name=".".join(["x" * 60] * 4)))
    office = Office(tmp_path, config=config, directory=StaticDirectory([]))
    office.mailbox("bob")
    assert office.parts.delivery.deliver(parcel()).done


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_line_ends_become_lf_wherever_a_chunk_ends(size: int) -> None:
    class Dribble(Message):
        def chunks(self):  # type: ignore[no-untyped-def]  # pieces of any size
            octets = self.header() + b"\r\n" + self.body.read()
            yield from (octets[at : at + size] for at in range(0, len(octets), size))

    mail = Dribble((Field(b"A", b" b\r\n c"),), Body(b"one\r\ntwo\rx\r\r\nthree\r"))
    assert b"".join(lf_chunks(mail)) == b"A: b\n c\n\none\ntwo\rx\r\nthree\r"


def test_what_pipe_put_on_top_is_taken_off_and_nothing_else() -> None:
    top = b"Return-Path: <a@b>\r\nX-Original-To: list@d\r\nDelivered-To: bob@d\r\n"
    rest = b"Received: x\r\nDelivered-To: bob@d\r\n\r\n"
    message, original = without_pipe_trace(parse_message(top + rest))
    assert original == "list@d"
    assert message.header() == rest[:-2]
    assert without_pipe_trace(parse_message(rest))[0].header() == rest[:-2]


# LMTP


def lmtp_office(base: Path, target: SocketAddress, timeout: str = "20s") -> Office:
    limit = parse_duration(timeout)
    return Office(base, config=settings(base, kind=DeliveryKind.LMTP, next_hop=target, timeout=limit))


def test_the_next_hop_gets_the_mail_as_it_is(tmp_path: Path) -> None:
    with SinkServer(lmtp=True, refuse={"full@local.test": "552 5.2.2 Mailbox is full"}) as sink:
        office = lmtp_office(tmp_path, SocketAddress("inet", "127.0.0.1", sink.port))
        mail = b"A: b\r\n\r\n.dot\r\n..\r\nx\ry\nend"
        assert office.parts.delivery.deliver(parcel(mail=mail)).code == "250"
        assert office.parts.delivery.deliver(parcel("full@local.test")) == Report("552", "5.2.2", "Mailbox is full")
        assert office.parts.delivery.deliver(parcel(sender="")).done  # the connection is used again
        office.parts.delivery.close()
    first, last = sink.received
    assert first.mail == b"A: b\r\n\r\n.dot\r\n..\r\nx y\r\nend\r\n"  # no line end but CRLF leaves here
    assert (first.sender, first.recipients) == ("alice@sender.test", ("bob@local.test",))
    assert last.sender == ""
    assert field_values(last.mail, "Subject") == ["hello"]


def test_a_next_hop_that_is_not_there_is_a_temporary_failure(tmp_path: Path) -> None:
    office = lmtp_office(tmp_path, SocketAddress("unix", path=str(tmp_path / "nobody")))
    assert office.parts.delivery.deliver(parcel()).code == "451"
    with SinkServer(lmtp=True) as sink:
        office = lmtp_office(tmp_path, SocketAddress("inet", "127.0.0.1", sink.port))
        assert office.parts.delivery.deliver(parcel("f\xfc\xdf@local.test")).enhanced == "5.6.7"
        assert office.parts.delivery.deliver(parcel("bob\r\nRSET@local.test")).enhanced == "5.1.3"
        assert office.parts.delivery.deliver(parcel()).done
        office.parts.delivery.close()


class OddServer(socketserver.ThreadingTCPServer):
    """An LMTP server that gives these answers, each to the commands that begin with the word."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), OddSession)
        self.answers = answers

    def __enter__(self) -> OddServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class OddSession(socketserver.StreamRequestHandler):
    server: OddServer

    def handle(self) -> None:
        self.wfile.write(b"220 odd\r\n")
        in_mail = False
        for line in self.rfile:
            word = line.split(maxsplit=1)[0] if line.strip() else b""
            if in_mail and word != b".":
                continue
            answer = self.server.answers.get(word, b"354 go on\r\n" if word == b"DATA" else b"250 fine\r\n")
            in_mail = word == b"DATA" and answer.startswith(b"354")
            self.wfile.write(answer)


@pytest.mark.parametrize(
    "answers",
    [
        {b"DATA": b"250 I will not wait for it\r\n"},
        {b"MAIL": b"250 a\r\n250 b\r\n", b".": b"550 5.2.0 no\r\n"},
        {b"RCPT": b"250 a\r\n250 b\r\n", b".": b"550 5.2.0 no\r\n"},
        {b"DATA": b"354 go on\r\n250 taken\r\n", b".": b"554 5.2.0 no\r\n"},
    ],
)
def test_a_reply_out_of_step_is_never_taken_for_delivered(tmp_path: Path, answers: dict[bytes, bytes]) -> None:
    with OddServer(answers) as server:
        office = lmtp_office(tmp_path, SocketAddress("inet", *server.server_address))
        assert office.parts.delivery.deliver(parcel()).code == "451"
        office.parts.delivery.close()


def test_what_is_left_over_from_one_mail_is_no_answer_to_the_next(tmp_path: Path) -> None:
    with OddServer({b".": b"250 2.1.5 first\r\n250 2.1.5 second\r\n"}) as server:
        office = lmtp_office(tmp_path, SocketAddress("inet", *server.server_address))
        assert [office.parts.delivery.deliver(parcel()).text for _ in range(3)] == ["first"] * 3
        office.parts.delivery.close()


def test_dovecot_as_next_hop(tmp_path: Path, dovecot: DovecotInstance) -> None:
    office = lmtp_office(tmp_path, dovecot.lmtp)
    user = dovecot.accounts[0].address
    with office.lmtp() as server, server.talk() as client:
        assert client.begin(user, "nobody@nowhere.test") == ["250 2.1.5 OK"] * 2
        assert client.ask(b"DATA").startswith("354")
        client.send(MAIL + b".\r\n")
        assert client.reply().startswith("250 2.0.0 ")
        assert client.reply().startswith("550 5.1.1 ")


# Programs


def command_office(base: Path, *command: str, timeout: str = "20s") -> Office:
    return Office(
        base, config=settings(base, kind=DeliveryKind.COMMAND, command=command, timeout=parse_duration(timeout))
    )


def script(base: Path, text: str) -> str:
    path = base / "program"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_a_program_gets_the_mail_and_the_addresses(tmp_path: Path) -> None:
    program = script(tmp_path, f'cat > {tmp_path}/mail.txt; printf "%s\\n" "$@" > {tmp_path}/args.txt')
    office = command_office(tmp_path, program, "-f", "{sender}", "to={recipient}", "{queue_id}")
    mail = parcel("bob; touch x@local.test", sender="{recipient}@b.test")
    assert office.parts.delivery.deliver(mail).line() == "250 2.0.0 Delivered"
    assert (tmp_path / "mail.txt").read_bytes() == MAIL.replace(b"\r\n", b"\n")
    arguments = (tmp_path / "args.txt").read_text().splitlines()
    assert arguments == ["-f", "{recipient}@b.test", "to=bob; touch x@local.test", "4QUEUE1D"]
    assert office.parts.delivery.deliver(parcel(sender="-oQ/evil@b.test")).enhanced == "5.1.3"  # no option of it


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("exit 75", "451 4.3.0 Temporary failure - try again later"),
        ("exit 67", "550 5.1.1 User unknown"),
        ("exit 77", "550 5.7.0 Permission denied"),
        ("exit 1", "550 5.3.0 Command failed"),
        ("echo '4.2.2 full now'; exit 69", "451 4.2.2 full now"),
        ("echo '5.2.2 full' >&2; exit 75", "550 5.2.2 full"),
        ("echo '550 5.7.1 x'; exit 75", "451 4.3.0 Temporary failure - try again later"),
        ("kill -9 $$", "451 4.3.0 Service unavailable - try again later"),
        ("yes | head -c 1000000; exit 0", "250 2.0.0 Delivered"),
        ("sleep 30 & exit 0", "250 2.0.0 Delivered"),  # a grandchild that keeps the output open
    ],
)
def test_what_a_programs_end_means(tmp_path: Path, text: str, line: str) -> None:
    office = command_office(tmp_path, script(tmp_path, text))
    assert office.parts.delivery.deliver(parcel()).line() == line


def test_a_program_that_is_not_there_is_a_temporary_failure(tmp_path: Path) -> None:
    assert command_office(tmp_path, str(tmp_path / "nothing")).parts.delivery.deliver(parcel()).code == "451"


def test_a_program_that_overruns_is_killed_with_its_children(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    office = command_office(tmp_path, program, timeout="3s")
    started = time.monotonic()
    assert office.parts.delivery.deliver(parcel()).code == "451"
    assert time.monotonic() - started < 30
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not runs(child), "the end of the program's child")


def test_every_exit_status_means_something() -> None:
    temporary = {status for status in range(1, 256) if report(status, "").temporary}
    pipe = {os.EX_TEMPFAIL, os.EX_OSERR}  # as Postfix' pipe(8)
    assert temporary == pipe | {111} | set(range(126, 256))  # qmail's, and a shell's for what could not run
