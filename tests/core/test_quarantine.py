"""The quarantine: what is held is durable and closed, comes back once, and nobody forges a release."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from core.local_mail import LOCAL, MAIL, Office, mails
from postroom.mail import Address, Field, Message, parse_message
from postroom.quarantine import PERMIT_LIFETIME, RELEASED, NotHeld, Quarantine, without_release_mark
from postroom.registration import Stage
from postroom.testing import ManualClock, RecordingReinjector, envelope
from postroom.testing.sink import field_values
from postroom.verdict import quarantined

BOB = Address("bob@local.test")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def quarantine(tmp_path: Path, clock: ManualClock) -> Quarantine:
    return Quarantine(tmp_path / "state" / "quarantine", clock)


def keep(quarantine: Quarantine, *recipients: str) -> str:
    mail = envelope("f\udcfc@b.test", *(recipients or (BOB.text,)))
    return quarantine.keep(mail, LOCAL, parse_message(MAIL), "too odd", "spam")


def released_mail(quarantine: Quarantine, id_: str) -> Message:
    reinjector = RecordingReinjector()
    quarantine.release(id_, reinjector)
    (submission,) = reinjector.submissions
    return parse_message(submission.mail)


def test_what_is_held_can_be_listed_and_read(quarantine: Quarantine, tmp_path: Path, clock: ManualClock) -> None:
    assert list(quarantine.list()) == []
    id_ = keep(quarantine)
    clock.advance(2)
    second = keep(quarantine, "eve@local.test")
    assert [held.id for held in quarantine.list()] == [id_, second]
    held = quarantine.get(id_)
    assert (held.sender, held.recipients, held.handler, held.reason) == (
        "f\udcfc@b.test", (BOB.text,), "spam", "too odd",
    )  # fmt: skip
    assert (held.stage, held.subject, held.size, held.queue_id) == (LOCAL, "hello", len(MAIL), "4QUEUE1D")
    assert b"".join(quarantine.chunks(id_)) == MAIL
    for path in (tmp_path / "state/quarantine").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state/quarantine").stat().st_mode) == 0o700


@pytest.mark.parametrize("id_", ["", "../../etc/passwd", "20240101T000000-0123456789abcdef", "x"])
def test_what_is_not_held_is_said_so(quarantine: Quarantine, id_: str) -> None:
    keep(quarantine)
    for ask in (quarantine.get, quarantine.delete, lambda each: list(quarantine.chunks(each))):
        with pytest.raises(NotHeld):
            ask(id_)


def test_a_released_mail_passes_the_handler_that_held_it_once(quarantine: Quarantine) -> None:
    id_ = keep(quarantine)
    mail = released_mail(quarantine, id_)
    release = quarantine.released(mail, LOCAL, BOB)
    assert release is not None
    assert release.handlers == {"spam"}
    assert without_release_mark(mail).header() == parse_message(MAIL).header()
    assert quarantine.released(mail, Stage.BEFORE_QUEUE, BOB) is None
    assert quarantine.released(mail, LOCAL, Address("eve@local.test")) is None
    quarantine.arrived(release, BOB)
    assert quarantine.released(mail, LOCAL, BOB) is None


def test_a_permit_cannot_be_forged_or_kept(quarantine: Quarantine, clock: ManualClock) -> None:
    id_ = keep(quarantine)
    before = f" {id_}.".encode() + b"0" * 64
    for value in (before, b" yes", b" ../x." + b"0" * 64, f" {id_}.".encode()):
        forged = Message((Field(RELEASED, value),))
        assert quarantine.released(forged, LOCAL, BOB) is None  # not released at all
    mail = released_mail(quarantine, id_)
    assert quarantine.released(Message((Field(RELEASED, before),)), LOCAL, BOB) is None
    newer = released_mail(quarantine, id_)
    assert quarantine.released(mail, LOCAL, BOB) is None  # the newer release made it void
    assert quarantine.released(newer, LOCAL, BOB) is not None
    clock.advance(PERMIT_LIFETIME + 1)
    assert quarantine.released(newer, LOCAL, BOB) is None
    again = released_mail(quarantine, id_)
    quarantine.delete(id_)
    assert quarantine.released(again, LOCAL, BOB) is None


def test_a_release_that_fails_leaves_the_mail_held(quarantine: Quarantine) -> None:
    id_ = keep(quarantine)

    class Down(RecordingReinjector):
        def submit(self, sender: object, recipients: object, mail: object) -> None:
            raise ConnectionRefusedError(111, "refused")

    with pytest.raises(OSError, match="refused"):
        quarantine.release(id_, Down())
    assert not quarantine.get(id_).released
    assert not quarantine.get(id_).permit


def test_delete_and_expire(quarantine: Quarantine, clock: ManualClock, tmp_path: Path) -> None:
    first = keep(quarantine)
    clock.advance(100)
    second = keep(quarantine)
    orphan = tmp_path / "state/quarantine/20200101T000000-0123456789abcdef.eml"
    orphan.write_bytes(MAIL)
    os.utime(orphan, (0, 0))
    clock.advance(100)
    assert quarantine.expire(150) == 1
    assert [held.id for held in quarantine.list()] == [second]
    assert not orphan.exists()
    assert not list((tmp_path / "state/quarantine").glob(f"{first}*"))
    quarantine.delete(second)
    assert list(quarantine.list()) == []


def test_a_damaged_entry_does_not_hide_the_others(quarantine: Quarantine, tmp_path: Path) -> None:
    first, second = keep(quarantine), keep(quarantine)
    (tmp_path / f"state/quarantine/{first}.json").write_text("{")
    assert [held.id for held in quarantine.list()] == [second]


def test_a_held_mail_comes_back_through_the_front_after_its_release(tmp_path: Path) -> None:
    calls: list[str] = []

    def answer(envelope: object, message: Message, services: object) -> object:
        calls.append(message.get(RELEASED) or "")
        return quarantined("odd")

    office = Office(tmp_path, answer)  # type: ignore[arg-type]  # wider than it has to be
    maildir = office.mailbox("bob")
    with office.lmtp() as server:
        client = server.client()
        client.sendmail("a@b.test", [BOB.text], MAIL)
        assert not mails(maildir)
        (held,) = office.quarantine.list()
        office.quarantine.release(held.id, office.reinject)
        (submission,) = office.reinject.submissions
        client.sendmail(submission.sender.text, [BOB.text], submission.mail)
        (mail,) = mails(maildir)
        assert field_values(mail, RELEASED.decode()) == []  # nobody learns the permit
        client.sendmail(submission.sender.text, [BOB.text], submission.mail)  # played again
        client.quit()
    assert len(mails(maildir)) == 1
    assert len(list(office.quarantine.list())) == 2
    assert calls == ["", ""]
