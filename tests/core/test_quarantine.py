"""The quarantine: what is held is durable and closed, comes back once, and nobody forges a release."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from core.local_mail import LOCAL, MAIL, Office, mails
from postroom.mail import Address, Field, Message, parse_message
from postroom.quarantine import (
    LEFTOVER_AGE,
    PERMIT_LIFETIME,
    RELEASED,
    Expired,
    NotHeld,
    Quarantine,
    without_release_mark,
)
from postroom.registration import Stage
from postroom.testing import ManualClock, RecordingReinjector, envelope
from postroom.testing.sink import field_values
from postroom.verdict import quarantined

BOB = Address("bob@local.test")
NOW = ManualClock().now()


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
    assert [held.id for held in quarantine.expirable(150)] == [first]
    assert quarantine.expire(150) == Expired(1, len(MAIL))
    assert quarantine.expire(150) == Expired()
    assert [held.id for held in quarantine.list()] == [second]
    assert not orphan.exists()
    assert not list((tmp_path / "state/quarantine").glob(f"{first}*"))
    quarantine.delete(second)
    assert list(quarantine.list()) == []


def test_a_release_that_is_under_way_keeps_its_mail(quarantine: Quarantine, clock: ManualClock) -> None:
    """While it is submitted, and until it has arrived for all or cannot arrive any more."""
    id_ = keep(quarantine, BOB.text, "eve@local.test")
    clock.advance(1000)

    class Expiring(RecordingReinjector):
        def submit(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
            clock.advance(1000)
            assert quarantine.expire(10) == Expired()
            super().submit(sender, recipients, mail)

    reinjector = Expiring()
    quarantine.release(id_, reinjector)
    mail = parse_message(reinjector.submissions[0].mail)
    clock.advance(1000)
    assert quarantine.expire(10) == Expired()
    for recipient in (BOB, Address("eve@local.test")):
        assert quarantine.expire(10) == Expired()
        release = quarantine.released(mail, LOCAL, recipient)
        assert release is not None
        quarantine.arrived(release, recipient)
    assert quarantine.expire(10).mails == 1


def test_a_release_that_never_arrives_ends_with_its_permit(quarantine: Quarantine, clock: ManualClock) -> None:
    released_mail(quarantine, keep(quarantine))
    clock.advance(PERMIT_LIFETIME - 1)
    assert quarantine.expire(10) == Expired()
    clock.advance(2)
    assert quarantine.expire(PERMIT_LIFETIME + 10) == Expired()
    assert quarantine.expire(10).mails == 1


def test_a_mail_that_is_released_after_it_was_chosen_stays(quarantine: Quarantine, clock: ManualClock) -> None:
    first, second = keep(quarantine), keep(quarantine)
    clock.advance(100)
    chosen = list(quarantine.expirable(10))
    assert {held.id for held in chosen} == {first, second}
    for id_ in (first, second):
        quarantine.release(id_, RecordingReinjector())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quarantine, "expirable", lambda age: iter(chosen))
        assert quarantine.expire(10) == Expired()
    assert len(list(quarantine.list())) == 2


def test_what_is_in_the_making_is_no_leftover(quarantine: Quarantine, tmp_path: Path) -> None:
    keep(quarantine)
    young = [
        tmp_path / "state/quarantine" / name for name in (".20200101T000000", "20200101T000000-0123456789abcdef.eml")
    ]
    for path in young:
        path.write_bytes(MAIL)
        os.utime(path, (NOW - LEFTOVER_AGE + 60,) * 2)
    quarantine.expire(0)
    assert all(path.exists() for path in young)
    for path in young:
        os.utime(path, (NOW - LEFTOVER_AGE - 60,) * 2)
    quarantine.expire(365 * 86400)
    assert not any(path.exists() for path in young)


def test_several_may_expire_at_once_and_each_mail_counts_once(quarantine: Quarantine, clock: ManualClock) -> None:
    for _ in range(40):
        keep(quarantine)
    clock.advance(100)
    stays = keep(quarantine)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: quarantine.expire(10), range(4)))
    assert sum(each.mails for each in done) == 40
    assert sum(each.octets for each in done) == 40 * len(MAIL)
    assert [held.id for held in quarantine.list()] == [stays]


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
