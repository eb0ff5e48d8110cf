"""Mail that a handler wants in a folder: a Maildir's, a next hop's, and where there is none."""

from __future__ import annotations

import imaplib
import os
import pwd
import stat
from pathlib import Path

import pytest
from core.local_mail import MAIL, Office, mails, settings
from postroom.config import DeliveryKind, SocketAddress
from postroom.delivery import Parcel
from postroom.delivery.folder import directory_name
from postroom.edit_rules import check_edits
from postroom.mail import FileInto, is_folder_name, parse_message
from postroom.registration import Stage
from postroom.testing import envelope
from postroom.testing.dovecot import DovecotInstance
from postroom.testing.sink import SinkServer
from postroom.verdict import passed


def parcel(folder: str, recipient: str = "bob@local.test") -> Parcel:
    return Parcel(envelope("alice@sender.test", recipient), parse_message(MAIL), folder=folder)


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("Junk", True),
        ("Junk E-mail", True),
        ("INBOX.Junk", True),
        ("Inbox", False),
        ("Lists.Python", True),
        ("Entwürfe", True),
        ("", False),
        (".Junk", False),
        ("Junk.", False),
        ("a..b", False),
        ("a/b", False),
        ("../x", False),
        ("-rf", False),
        ("a@b", False),
        ("a\nb", False),
        ("a>b", False),
        ("\udcff", False),
        ("x" * 81, False),
    ],
)
def test_which_names_a_folder_may_have(name: str, fine: bool) -> None:
    assert is_folder_name(name) is fine
    assert (check_edits([FileInto(name)], Stage.BEFORE_LOCAL) == "") is fine


def test_only_mailboxes_have_folders() -> None:
    for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE):
        assert "only before-local" in check_edits([FileInto("Junk")], stage)


def test_a_folder_is_made_marked_and_subscribed_once(tmp_path: Path) -> None:
    office = Office(tmp_path)
    bob = office.mailbox("bob")
    (bob / "maildirsize").write_text("1000000S\n0 0\n")
    for _ in range(2):
        assert office.parts.delivery.deliver(parcel("Junk")).done
    junk = bob / ".Junk"
    assert len(mails(junk)) == 2
    assert mails(bob) == []
    assert (junk / "maildirfolder").read_bytes() == b""
    assert (bob / "subscriptions").read_text() == "Junk\n"
    assert stat.S_IMODE(junk.stat().st_mode) == 0o700
    assert len((bob / "maildirsize").read_text().splitlines()) == 4, "the quota is the mailbox's, not the folder's"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("V\t2\n\nSent\n", "V\t2\n\nSent\nLists\tB&APw-cher\n"),
        ("Sent", "Sent\nLists.B&APw-cher\n"),
        ("Lists.B&APw-cher\n", "Lists.B&APw-cher\n"),
    ],
)
def test_a_list_of_subscriptions_keeps_its_form(tmp_path: Path, before: str, after: str) -> None:
    office = Office(tmp_path)
    bob = office.mailbox("bob")
    (bob / "subscriptions").write_text(before)
    assert office.parts.delivery.deliver(parcel("Lists.Bücher")).done
    assert (bob / "subscriptions").read_text() == after
    assert len(mails(bob / ".Lists.B&APw-cher")) == 1
    assert directory_name("a&b") == ".a&-b"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_called_as_below_the_inbox_is_the_one_that_readers_show(tmp_path: Path, there: bool) -> None:
    office = Office(tmp_path)
    bob = office.mailbox("bob")
    if there:
        (bob / ".INBOX.Junk").mkdir(parents=True)
    assert office.parts.delivery.deliver(parcel("INBOX.Junk")).done
    assert len(mails(bob / (".INBOX.Junk" if there else ".Junk"))) == 1
    assert (bob / ".Junk").exists() is not there
    assert there or (bob / "subscriptions").read_text() == "Junk\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_is_the_owner_s(tmp_path: Path) -> None:
    office = Office(tmp_path)
    bob = office.mailbox("bob")
    owner = pwd.getpwnam("nobody")
    os.chown(bob, owner.pw_uid, owner.pw_gid)
    assert office.parts.delivery.deliver(parcel("Junk")).done
    made = [bob / ".Junk", *(bob / ".Junk").rglob("*"), bob / "subscriptions"]
    assert len(made) == 7
    assert {path.stat().st_uid for path in made} == {owner.pw_uid}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_loses_no_mail(tmp_path: Path, kind: str) -> None:
    office = Office(tmp_path)
    bob = office.mailbox("bob")
    (tmp_path / "outside").mkdir()
    if kind == "file":
        (bob / ".Junk").write_text("")
    else:
        (bob / ".Junk").symlink_to(tmp_path / "outside")
    assert office.parts.delivery.deliver(parcel("Junk")).done
    assert len(mails(bob)) == 1
    assert list((tmp_path / "outside").iterdir()) == []
    assert "goes to the inbox" in office.log.lines[-2][1]


def test_a_handler_files_a_mail_through_the_lmtp_front(tmp_path: Path) -> None:
    office = Office(tmp_path, answer=lambda *_: passed(FileInto("First"), FileInto("Junk")))
    bob = office.mailbox("bob")
    with office.lmtp() as server, server.client() as client:
        client.sendmail("alice@sender.test", ["bob@local.test"], MAIL)
    assert len(mails(bob / ".Junk")) == 1
    assert not (bob / ".First").exists()


@pytest.mark.parametrize(
    ("folder", "recipient", "delimiter", "named"),
    [
        ("Junk", "bob@local.test", "+", "bob+Junk@local.test"),
        ("Junk", "Bob+tag@local.test", "-", "Bob-Junk@local.test"),
        ("Junk E-mail", "bob@local.test", "+", '"bob+Junk E-mail"@local.test'),
        ("Entwürfe", "bob@local.test", "+", "bob@local.test"),
        ("Junk", '"b b"@local.test', "+", '"b b"@local.test'),
        ("Junk", "bob@local.test", "", "bob@local.test"),
        ("", "bob@local.test", "+", "bob@local.test"),
    ],
)
def test_a_next_hop_is_told_in_the_address(
    tmp_path: Path, lmtp_sink: SinkServer, folder: str, recipient: str, delimiter: str, named: str
) -> None:
    config = settings(
        tmp_path,
        kind=DeliveryKind.LMTP,
        next_hop=SocketAddress("inet", "127.0.0.1", lmtp_sink.port),
        folder_delimiter=delimiter,
    )
    office = Office(tmp_path, config=config)
    assert office.parts.delivery.deliver(parcel(folder, recipient)).done
    office.parts.delivery.close()
    (received,) = lmtp_sink.received
    assert list(received.recipients) == [named]


@pytest.mark.parametrize(
    ("refusal", "code", "received"),
    [("550 5.1.1 no such user", "250", ["bob@local.test"]), ("451 4.3.0 later", "451", [])],
)
def test_a_next_hop_that_knows_no_details_loses_no_mail(
    tmp_path: Path, lmtp_sink: SinkServer, refusal: str, code: str, received: list[str]
) -> None:
    lmtp_sink.refuse["bob+Junk@local.test"] = refusal
    next_hop = SocketAddress("inet", "127.0.0.1", lmtp_sink.port)
    office = Office(
        tmp_path, config=settings(tmp_path, kind=DeliveryKind.LMTP, next_hop=next_hop, folder_delimiter="+")
    )
    assert office.parts.delivery.deliver(parcel("Junk")).code == code
    office.parts.delivery.close()
    assert [recipient for mail in lmtp_sink.received for recipient in mail.recipients] == received


def test_dovecot_shows_the_folder_that_we_made(tmp_path: Path, dovecot: DovecotInstance) -> None:
    config = settings(tmp_path)
    office = Office(tmp_path, config=config)
    place = dovecot.base / "mail/local.test/u1/Maildir"
    owner = pwd.getpwnam(dovecot.user)
    place.mkdir(parents=True, exist_ok=True)
    for path in (place, place.parent, place.parent.parent):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    to_dovecot = Parcel(
        envelope("alice@sender.test", "u1@local.test"), parse_message(MAIL), root=dovecot.base / "mail", folder="Junk"
    )
    assert office.parts.delivery.deliver(to_dovecot).done
    with imaplib.IMAP4("127.0.0.1", dovecot.imap_port) as imap:
        imap.login("u1@local.test", "secret")
        assert any(b"Junk" in line for line in imap.lsub()[1] if isinstance(line, bytes))
        assert imap.select("Junk", readonly=True)[1] == [b"1"]
