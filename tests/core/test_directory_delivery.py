"""Local delivery by the word of a directory service: aliases, forwards, unknown users, and a directory that is down."""

from __future__ import annotations

from pathlib import Path

import pytest
from core.local_mail import Office, mails
from hypothesis import given, settings
from hypothesis import strategies as st
from postroom.fronts.conversation import Peer
from postroom.fronts.lmtp.protocol import Transaction
from postroom.fronts.lmtp.session import session_factory
from postroom.fronts.lmtp.targets import Targets, still_owed, targets_of
from postroom.hookspecs import DirectoryUnavailable, Mailbox
from postroom.mail import Address, Message
from postroom.testing import StaticDirectory, message
from postroom.verdict import Verdict, skipped


def address(name: str) -> Address:
    return Address(f"{name}@local.test")


def office(tmp_path: Path, directory: StaticDirectory, asked: list[str] | None = None) -> Office:
    def answer(envelope: object, *_: object) -> Verdict:
        if asked is not None:
            asked.append(str(envelope.recipients[0]))  # type: ignore[attr-defined]  # an Envelope
        return skipped()

    return Office(tmp_path, answer, directory=directory)


def send(office: Office, recipient: str, mail: Message | None = None) -> tuple[str, str]:
    """The replies at RCPT and after the mail, as codes."""
    session = session_factory(office.parts)(Peer(trusted=True))
    transaction = Transaction(peer_helo="mx", sender=Address("a@far.test"), recipients=[Address(recipient)])
    checked = session.check(transaction, Address(recipient))
    answers: list[str] = []
    session.deliver(transaction, mail or message(), lambda report: answers.append(report.line()) or True)
    return (checked.line()[:9] if checked else "", answers[0][:9])


def test_what_the_directory_does_not_know_is_unknown_whatever_is_on_the_disk(tmp_path: Path) -> None:
    there = office(tmp_path, StaticDirectory([Mailbox(address("ann"))], authoritative=True))
    left, ann = there.mailbox("bob"), there.mailbox("ann")
    assert send(there, "bob@local.test") == ("550 5.1.1", "550 5.1.1")
    assert send(there, "ann@local.test") == ("", "250 2.0.0")
    assert (len(mails(left)), len(mails(ann))) == (0, 1)


def test_a_disabled_mailbox_takes_no_mail(tmp_path: Path) -> None:
    there = office(tmp_path, StaticDirectory([Mailbox(address("bob"), enabled=False)]))
    there.mailbox("bob")
    assert send(there, "bob@local.test") == ("550 5.2.1", "550 5.2.1")


def test_a_directory_that_is_down_defers(tmp_path: Path) -> None:
    class Down(StaticDirectory):
        def mailbox(self, address: Address) -> Mailbox | None:
            raise DirectoryUnavailable("no database")

        def expand(self, address: Address) -> tuple[Address, ...]:
            raise DirectoryUnavailable("no database")

    there = office(tmp_path, Down())
    bob = there.mailbox("bob")
    assert send(there, "bob@local.test") == ("451 4.3.0", "451 4.3.0")
    assert mails(bob) == []


def test_an_alias_goes_on_to_its_targets_and_no_handler_acts_for_it(tmp_path: Path) -> None:
    asked: list[str] = []
    aliases = {"info@local.test": ["bob@local.test", "x@far.test"]}
    there = office(tmp_path, StaticDirectory([Mailbox(address("bob"))], aliases, authoritative=True), asked)
    assert send(there, "info@local.test") == ("", "250 2.0.0")
    (submitted,) = there.reinject.submissions
    assert submitted.sender == Address("a@far.test")
    assert [each.text for each in submitted.recipients] == ["bob@local.test", "x@far.test"]
    assert submitted.mail.startswith(b"Delivered-To: info@local.test\r\n")
    assert asked == []


def test_a_forward_keeps_its_copy_and_handlers_act_first(tmp_path: Path) -> None:
    asked: list[str] = []
    forwards = {"bob@local.test": ["bob@local.test", "bob@phone.test"]}
    there = office(tmp_path, StaticDirectory([Mailbox(address("bob"))], forwards), asked)
    bob = there.mailbox("bob")
    assert send(there, "bob@local.test") == ("", "250 2.0.0")
    assert len(mails(bob)) == 1
    assert [each.text for each in there.reinject.submissions[0].recipients] == ["bob@phone.test"]
    assert asked == ["bob@local.test"]


def test_a_copy_that_cannot_be_sent_defers_and_delivers_nothing(tmp_path: Path) -> None:
    class Broken:
        def submit(self, *_: object) -> None:
            raise OSError("no mail server")

    there = office(
        tmp_path, StaticDirectory([Mailbox(address("bob"))], {"bob@local.test": ["bob@local.test", "x@far"]})
    )
    there.parts.pipeline.reinject = Broken()
    bob = there.mailbox("bob")
    assert send(there, "bob@local.test") == ("", "451 4.3.0")
    assert mails(bob) == []


def test_mailboxes_that_forward_to_each_other_are_no_loop(tmp_path: Path) -> None:
    both = ["ann@local.test", "bob@local.test"]
    aliases = {"ann@local.test": both, "bob@local.test": both[::-1]}
    there = office(tmp_path, StaticDirectory([Mailbox(address("ann")), Mailbox(address("bob"))], aliases))
    ann, bob = there.mailbox("ann"), there.mailbox("bob")
    send(there, "ann@local.test")
    send(there, "bob@local.test", message(there.reinject.submissions[0].mail))
    assert len(there.reinject.submissions) == 1
    assert (len(mails(ann)), len(mails(bob))) == (1, 1)


def test_an_alias_whose_targets_had_the_mail_is_a_loop(tmp_path: Path) -> None:
    there = office(tmp_path, StaticDirectory([], {"info@local.test": ["x@far.test"]}))
    had = message(b"Delivered-To: x@far.test\r\n\r\n")
    assert send(there, "info@local.test", had)[1] == "550 5.4.6"


def test_delivery_keeps_the_maildirsize_true(tmp_path: Path) -> None:
    there = office(tmp_path, StaticDirectory())
    bob = there.mailbox("bob")
    send(there, "bob@local.test")
    assert not (bob / "maildirsize").exists()  # who counts makes it
    (bob / "maildirsize").write_text("1000S\n0 0\n")
    send(there, "bob@local.test")
    size = len(mails(bob)[0])
    assert (bob / "maildirsize").read_text() == f"1000S\n0 0\n{size} 1\n"


def test_a_maildirsize_that_leads_elsewhere_stops_no_mail_and_is_not_followed(tmp_path: Path) -> None:
    there = office(tmp_path, StaticDirectory())
    bob, victim = there.mailbox("bob"), tmp_path / "victim"
    victim.write_text("")
    (bob / "maildirsize").symlink_to(victim)
    assert send(there, "bob@local.test")[1] == "250 2.0.0"
    assert victim.read_text() == ""
    assert [each for each in there.log.lines if each[1] == "size of the mail is not counted"]


NAMES = "abcde"


@given(forwards=st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES), max_size=3)), data=st.data())
@settings(max_examples=300, deadline=None)
def test_whoever_is_behind_an_alias_gets_the_mail_and_it_ends(
    forwards: dict[str, set[str]], data: st.DataObject
) -> None:
    """The copies are followed as the mail server would bring them back."""
    targets = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))

    def reach(start: list[str]) -> list[str]:
        found = list(start)
        for name in found:
            found += sorted(forwards.get(name, set()) - set(found))
        return found

    aliases = {f"{name}@local.test": [f"{each}@local.test" for each in reach([name])] for name in NAMES}
    aliases["all@local.test"] = [f"{each}@local.test" for each in reach(targets)]
    directory = StaticDirectory([Mailbox(address(name)) for name in NAMES], aliases)
    got: list[str] = []
    coming: list[tuple[Address, tuple[str, ...]]] = [(address("all"), ())]
    while coming:
        at, had = coming.pop()
        if at.text in had:
            continue  # refused as a loop
        where: Targets = targets_of(at, directory)
        if where.stays:
            got.append(at.text)
        header = b"".join(b"Delivered-To: %s\r\n" % each.encode() for each in had)
        owed = still_owed(where, at, message(header + b"\r\n"), directory)
        coming += [(each, (*had, at.text)) for each in owed]
        assert len(got) < 1000
    assert sorted(got) == sorted(aliases["all@local.test"])  # each of them once


@pytest.mark.parametrize("name", ["nobody", "x+tag"])
def test_nobody_in_particular_is_himself(name: str) -> None:
    assert targets_of(address(name), StaticDirectory()) == Targets()
