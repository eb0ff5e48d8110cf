"""check-quota as a handler: who is refused, in which words, who is warned; on real Maildirs and both stores."""

from __future__ import annotations

import email
import email.policy
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plugins.quota.test_quota_maildir import age, make
from postroom.config import Config, ConfigError, Duration, Host, build, parse_config
from postroom.hookspecs import DirectoryUnavailable, FindingLevel, Mailbox
from postroom.mail import Address, Message, TrafficClass
from postroom.plugins import LoadedHandler, load_plugin
from postroom.registration import Stage
from postroom.testing import FakeServices, StaticDirectory, envelope, message
from postroom.verdict import Action, Verdict
from postroom_quota import maildir
from postroom_quota.handler import QuotaHandler
from postroom_quota.maildir import Usage
from postroom_quota.settings import QuotaSettings, WhenFull
from postroom_quota.warning import Facts, InvalidText, compose, readable

DEFAULT = QuotaSettings()


def box(name: str = "bob", **more: object) -> Mailbox:
    return Mailbox(Address(f"{name}@here.example"), **more)  # type: ignore[arg-type]  # as the test says


def mail(size: int) -> Message:
    octets = b"Subject: x\r\n\r\n"
    return message(octets + b"y" * (size - len(octets)))


class Desk:
    """A handler with mailboxes of the test's choosing."""

    def __init__(self, services: FakeServices) -> None:
        self.services, self.handler = services, QuotaHandler()

    def boxes(self, *mailboxes: Mailbox, **aliases: list[str]) -> None:
        named = {f"{name}@here.example": targets for name, targets in aliases.items()}
        self.services.directory = StaticDirectory(mailboxes, named)

    def queue(self, size: int = 100, *recipients: str, settings: QuotaSettings = DEFAULT, **more: object) -> Verdict:
        letter = envelope("alice@far.example", *(recipients or ("bob@here.example",)), **more)  # type: ignore[arg-type]
        return self.handler.before_queue(letter, mail(size), settings, self.services)

    def data(self, declared: int | None, settings: QuotaSettings = DEFAULT) -> Verdict:
        letter = replace(envelope("alice@far.example", "bob@here.example"), declared_size=declared)
        return self.handler.before_data(letter, settings, self.services)


@pytest.fixture
def desk(services: FakeServices) -> Iterator[Desk]:
    found = Desk(services)
    yield found
    found.handler.stop()


def line(verdict: Verdict) -> str:
    assert verdict.reply is not None
    return verdict.reply.line(verdict.action)


def test_a_full_mailbox_asks_to_try_again(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=1000))
    verdict = desk.queue()
    assert line(verdict) == "452 4.2.2 Mailbox is full"
    assert verdict.reason == "bob@here.example: 1000 of 1000 octets used, this mail has 100"
    permanent = desk.queue(settings=QuotaSettings(when_full=WhenFull.REJECT))
    assert line(permanent) == "552 5.2.2 Mailbox is full"


@pytest.mark.parametrize("traffic", [TrafficClass.AUTHENTICATED, TrafficClass.LOCAL])
def test_own_users_are_told_the_figures(desk: Desk, traffic: TrafficClass) -> None:
    desk.boxes(box(quota=100 << 20, used=100 << 20))
    words = "452 4.2.2 Mailbox is full: bob@here.example holds 100 MiB of 100 MiB, this mail has 100 B"
    assert line(desk.queue(traffic=traffic)) == words


def test_what_can_never_fit_is_refused_for_good(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=0))
    assert line(desk.queue(1001)) == "552 5.2.3 Message is too large for this mailbox"
    desk.boxes(box(message_limit=500))
    assert line(desk.queue(501)) == "552 5.2.3 Message is too large for this mailbox"
    assert desk.queue(500).action is Action.SKIP


def test_the_declared_size_counts_at_once(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=900))
    assert desk.data(None).action is Action.SKIP
    assert desk.data(100).action is Action.SKIP
    assert line(desk.data(101)) == "452 4.2.2 Mailbox is full"
    desk.boxes(box(quota=1000, used=1000))
    assert desk.data(None).action is Action.DEFER


def test_looking_reserves_nothing(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=900))
    for _ in range(5):
        assert desk.data(100).action is Action.SKIP
    assert desk.queue(100).action is Action.SKIP


def test_two_mails_do_not_share_the_last_room(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=800))
    assert desk.queue(150, queue_id="A").action is Action.SKIP
    second = desk.queue(150, queue_id="B")
    assert second.action is Action.DEFER
    assert "150 on its way" in second.reason
    assert desk.queue(150, queue_id="A").action is Action.SKIP  # the first one again
    desk.services.clock.advance(301)
    assert desk.queue(150, queue_id="B").action is Action.SKIP


def test_only_the_full_one_is_refused(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=1000), box("ann", quota=1000, used=0), box("eve"))
    verdict = desk.queue(100, "bob@here.example", "ann@here.example", "eve@here.example", "x@far.example")
    assert verdict.action is Action.SKIP
    assert {str(each): own.action for each, own in verdict.for_recipients.items()} == {"bob@here.example": Action.DEFER}


def test_when_all_are_full_the_answer_is_for_all(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=1000), box("ann", quota=50, used=0))
    verdict = desk.queue(100, "bob@here.example", "ann@here.example")
    assert verdict.action is Action.DEFER
    assert {own.action for own in verdict.for_recipients.values()} == {Action.REJECT}


def test_an_alias_is_full_when_all_behind_it_are(desk: Desk) -> None:
    full, room = box(quota=1000, used=1000), box("ann", quota=1000, used=0)
    desk.boxes(full, room, info=["bob@here.example", "ann@here.example"], one=["bob@here.example"])
    assert desk.queue(100, "info@here.example").action is Action.SKIP
    assert desk.queue(100, "one@here.example").action is Action.DEFER
    desk.boxes(full, away=["bob@here.example", "x@far.example"])
    assert desk.queue(100, "away@here.example").action is Action.SKIP


def test_tags_and_case_are_the_same_mailbox(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=1000))
    assert desk.queue(100, "BOB+x@here.example").action is Action.DEFER


@pytest.mark.parametrize("quota", [None, 0, -5])
def test_no_limit_and_nonsense_let_mail_pass(desk: Desk, quota: int | None) -> None:
    desk.boxes(box(quota=quota, used=10**15))
    assert desk.queue().action is Action.SKIP


def test_the_limit_of_the_settings_is_for_those_without(desk: Desk) -> None:
    settings = build(QuotaSettings, {"limit": "1K"}, "x")
    desk.boxes(box(used=1024), box("ann", quota=0, used=5000))
    assert desk.queue(settings=settings).action is Action.DEFER
    assert desk.queue(100, "ann@here.example", settings=settings).action is Action.SKIP


def test_negative_usage_is_none(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=-50_000))
    assert desk.queue(1000).action is Action.SKIP
    assert desk.queue(1, queue_id="other").action is Action.DEFER


def test_a_real_maildir(desk: Desk, tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (place / "cur/1,S=950").write_bytes(b"")
    age(place)
    desk.boxes(box(quota=1000, maildir=str(place)))
    assert desk.queue(50).action is Action.SKIP
    assert desk.queue(51).action is Action.DEFER
    desk.boxes(box(quota=1000, maildir=str(tmp_path / "not yet")))
    assert desk.queue(1000, queue_id="other").action is Action.DEFER  # 50 are on their way
    desk.services.clock.advance(301)
    assert desk.queue(1000, queue_id="other").action is Action.SKIP


def test_a_mailbox_that_takes_too_long_to_count_lets_mail_pass(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Usage | None:
        return None

    monkeypatch.setattr(desk.handler._counter, "usage", never)
    desk.boxes(box(quota=1000, maildir="/srv/x"))
    assert desk.queue().reason == "unknown"
    assert ("warning", "mailbox is still being counted: its mail passes") in [
        each[:2] for each in desk.services.log.lines
    ]


def test_a_directory_that_is_down_is_a_failure_not_an_answer(desk: Desk) -> None:
    class Down(StaticDirectory):
        def expand(self, address: Address) -> tuple[Address, ...]:
            raise DirectoryUnavailable("down")

    desk.services.directory = Down()
    with pytest.raises(DirectoryUnavailable):
        desk.queue()


def test_delivery_ends_the_reservation(desk: Desk, tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (place / "maildirsize").write_text("1000S\n500 1\n")
    desk.boxes(box(quota=1000, maildir=str(place)))
    assert desk.queue(400, queue_id="A").action is Action.SKIP
    assert desk.queue(400, queue_id="B").action is Action.DEFER
    arriving = envelope("alice@far.example", "bob@here.example", queue_id="A")
    assert desk.handler.before_local(arriving, DEFAULT, desk.services).reason == "the reservation ends"
    (place / "maildirsize").write_text("1000S\n500 1\n-300 -1\n400 1\n")  # it arrived, and something was deleted
    assert desk.queue(400, queue_id="B").action is Action.DEFER  # for some seconds it counts twice
    desk.services.clock.advance(6)
    assert desk.queue(400, queue_id="B").action is Action.SKIP


def test_the_same_queue_id_of_two_hosts_is_two_mails(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=0))
    assert desk.queue(600, queue_id="SAME").action is Action.SKIP
    assert desk.queue(600, queue_id="SAME").action is Action.SKIP  # the same mail again
    desk.services.config = replace(desk.services.config, host=Host(name="other.example"))
    assert desk.queue(600, queue_id="SAME").action is Action.DEFER


# Warnings


def warnings(desk: Desk) -> list[email.message.EmailMessage]:
    for thread in tuple(desk.handler._senders):
        thread.join(30)
    sent = desk.services.reinject.submissions
    assert all(str(each.sender) == "" for each in sent)
    return [email.message_from_bytes(each.mail, policy=email.policy.default) for each in sent]


def test_the_owner_is_warned_once_in_his_language(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=790, languages=("de-CH", "en")))
    desk.queue(50, queue_id="A")
    desk.queue(50, queue_id="B")
    (found,) = warnings(desk)
    assert found["To"] == "bob@here.example"
    assert found["From"] == "postmaster@here.example"
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["Subject"] == "Ihr Postfach ist zu 84 % voll"
    assert "Papierkorb" in found.get_content()
    assert found["Message-ID"].endswith("@mx.example.org>")
    desk.boxes(box(quota=1000, used=960))
    desk.queue(10, queue_id="C")
    assert [each["Subject"] for each in warnings(desk)][1:] == ["Your mailbox is 97 % full"]


def test_a_warning_that_was_not_sent_is_sent_with_the_next_mail(desk: Desk) -> None:
    class Broken:
        def submit(self, *_: object) -> None:
            raise OSError("no mail server")

    working, desk.services.reinject = desk.services.reinject, Broken()
    desk.boxes(box(quota=1000, used=850))
    desk.queue(10, queue_id="A")
    for thread in tuple(desk.handler._senders):
        thread.join(30)
    assert [each for each in desk.services.log.lines if each[1] == "warning is not sent"]
    desk.services.reinject = working
    desk.queue(10, queue_id="B")
    assert len(warnings(desk)) == 1


def test_no_thresholds_no_warnings(desk: Desk) -> None:
    desk.boxes(box(quota=1000, used=990))
    desk.queue(5, settings=QuotaSettings(warn_at=()))
    assert warnings(desk) == []


def test_own_texts(tmp_path: Path) -> None:
    (tmp_path / "nl.txt").write_text("Vol: $percent%\n\n$address $used/$limit\n")
    made = compose(Facts(Address("a@b.example"), 512, 1024, ("nl",)), "it@b.example", "mx", 0, tmp_path)
    found = email.message_from_bytes(made, policy=email.policy.default)
    assert (found["Subject"], found["From"]) == ("Vol: 50%", "it@b.example")
    assert found.get_content().strip() == "a@b.example 512 B/1.0 KiB"
    for wrong in ("no body", "Subject\n\n$unknown", "Subject\n\n$", "S\xff"):
        (tmp_path / "nl.txt").write_bytes(wrong.encode("latin-1"))
        with pytest.raises(InvalidText):
            compose(Facts(Address("a@b.example"), 1, 2, ("nl",)), "", "mx", 0, tmp_path)
    evil = compose(Facts(Address("a@b.example"), 1, 2, ("../../etc/passwd", "xx")), "", "mx", 0, tmp_path)
    assert b"Your mailbox" in evil


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 << 20, "150 MiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_for_people(octets: int, text: str) -> None:
    assert readable(octets) == text


# Settings, loading, doctor


@pytest.mark.parametrize(
    "table",
    [
        'source = "policy"',
        "warn_at = [0]",
        "warn_at = [101]",
        'limit = "-5"',
        'when_full = "maybe"',
        "doveadm = []\nsource='doveadm'",
    ],
)
def test_wrong_settings_are_named(table: str) -> None:
    config = parse_config(f"[handlers.check-quota]\n{table}", "f.toml")
    with pytest.raises(ConfigError, match=r"f.toml: \[handlers.check-quota\]"):
        build(QuotaSettings, config.handlers["check-quota"], config.handler_place("check-quota"))


def test_it_is_the_references_handler() -> None:
    loaded = load_plugin("check-quota", QuotaHandler(), Config())
    assert isinstance(loaded, LoadedHandler)
    (placement,) = loaded.info.placements
    assert (placement.stage, placement.priority) == (Stage.BEFORE_QUEUE, 10)
    assert loaded.stages == {Stage.BEFORE_DATA, Stage.BEFORE_QUEUE, Stage.BEFORE_LOCAL}
    assert loaded.settings_for("when_full=reject, limit=5M").limit == 5 << 20


def test_the_doctor_says_what_is_wrong(desk: Desk, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "de.txt").write_text("nothing else")
    desk.boxes(box(quota=-1))
    found = list(desk.handler.diagnose(QuotaSettings(texts=texts), desk.services))
    wrong = {each.level: each.text for each in found if each.level is not FindingLevel.OK}
    assert "negative limits" in wrong[FindingLevel.WARNING]
    assert "text de" in wrong[FindingLevel.ERROR]


def test_one_owners_files_are_in_nobody_elses_way(desk: Desk, tmp_path: Path) -> None:
    """What a user can do to his own Maildir is no failure of the handler, which would stop everybody's mail."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    link = make(tmp_path / "link")
    (link / "cur/1,S=450:2,S").write_bytes(b"")
    (link / "maildirsize").symlink_to("/nowhere")
    eve, link_owner = box("eve", quota=1000, maildir=str(loop)), box("linus", quota=500, maildir=str(link))
    desk.boxes(box(quota=1000, used=0), eve, link_owner, both=["bob@here.example", "eve@here.example"])
    for settings in (DEFAULT, QuotaSettings(when_full=WhenFull.REJECT)):
        verdict = desk.queue(100, "bob@here.example", "eve@here.example", settings=settings)
        refused = {str(address): line(found) for address, found in verdict.for_recipients.items()}
        assert refused == {"eve@here.example": "451 4.2.0 Mailbox cannot be looked at - try again later"}
        assert verdict.action is Action.SKIP
    assert desk.queue(100, "eve@here.example").reason == "eve@here.example: Too many levels of symbolic links"
    assert desk.queue(100, "both@here.example").action is Action.SKIP
    assert line(desk.queue(100, "linus@here.example")) == "452 4.2.2 Mailbox is full"


def test_a_mail_that_is_deferred_for_one_owners_files_takes_nobodys_room(desk: Desk, tmp_path: Path) -> None:
    """It comes again under another name, and must not find itself in the way."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    desk.boxes(box(quota=1000, used=0), box("eve", quota=1000, maildir=str(loop)))
    both = ("bob@here.example", "eve@here.example")
    for number in range(3):
        verdict = desk.queue(700, *both, queue_id=f"TRY{number}")
        assert [str(address) for address in verdict.for_recipients] == ["eve@here.example"]
    assert desk.queue(700, "bob@here.example", queue_id="ALONE").action is Action.SKIP


def test_more_large_mailboxes_than_there_is_time_for(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted in the background, and mail passes as it does for the first of them."""
    count, released = maildir.count, threading.Event()

    def slow(*given: object, **more: object) -> Usage:
        released.wait(60)
        return count(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(maildir, "count", slow)
    names = [f"user{number}" for number in range(5)]
    desk.boxes(*(box(name, quota=1000, maildir=str(make(tmp_path / name))) for name in names))
    desk.services.seconds_left = 1.0
    settings = QuotaSettings(count_time=Duration(0.2))
    verdict = desk.queue(100, *(f"{name}@here.example" for name in names), settings=settings)
    released.set()
    assert (verdict.action, verdict.reason) == (Action.SKIP, "unknown")
