"""How often somebody gets a reply, over both stores, among threads and processes."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.autoresponder.responding import BOB, DAY, MAIL, Console, Desk, receive_in_a_process
from postroom.config import Config, Duration, RedisSettings
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices
from postroom.testing.redis import RedisInstance
from postroom_autoresponder.backends import open_store
from postroom_autoresponder.decision import Answered, Hour, Silence, Terms, judge
from postroom_autoresponder.settings import AutoresponderSettings


def test_one_reply_to_a_sender_in_the_interval(console: Console, desk: Desk) -> None:
    console.set()
    assert desk.receive() is None
    assert desk.receive() is Silence.TOO_SOON
    assert desk.receive(sender="ALICE@Sender.Example") is Silence.TOO_SOON
    assert desk.receive(sender="carl@sender.example") is None
    desk.clock.advance(7 * DAY - 1)
    assert desk.receive() is Silence.TOO_SOON
    desk.clock.advance(1)
    assert desk.receive() is None
    assert len(desk.sent) == 3
    assert console.counts() == {"replied": 3, "too-soon": 3, "remembered addresses": 1}


def test_a_responders_own_interval_goes_before_the_handlers(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--interval", "1h")
    desk.receive()
    desk.clock.advance(3600)
    assert desk.receive() is None


def test_every_mail_may_be_answered_up_to_the_daily_limit(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--interval", "0", "--daily-limit", "3")
    found = []
    for _ in range(5):
        found.append(desk.receive())
        desk.clock.advance(3600)
    assert found == [None, None, None, Silence.DAILY_LIMIT, Silence.DAILY_LIMIT]
    assert desk.receive(sender="carl@sender.example") is None
    desk.clock.advance(19 * 3600)
    assert desk.receive() is None


def test_the_whole_host_has_a_limit(console: Console, desk: Desk) -> None:
    desk.settings = AutoresponderSettings(hourly_limit=2)
    console.set()
    console.set(address="carl@recipient.example")
    assert desk.receive() is None
    carls = MAIL.replace(b"bob@", b"carl@")
    assert desk.receive(carls, recipient="carl@recipient.example") is None
    assert desk.receive(sender="x@sender.example") is Silence.HOURLY_LIMIT
    desk.clock.advance(3600)
    assert desk.receive(sender="x@sender.example") is None


def test_one_mailbox_that_is_flooded_takes_nobody_elses_replies(console: Console, desk: Desk) -> None:
    desk.settings = AutoresponderSettings(mailbox_limit=3, hourly_limit=5)
    console.set()
    console.set(address="carl@recipient.example")
    flood = [desk.receive(sender=f"{letter}@sender.example") for letter in "abcdefgh"]
    assert flood == [None] * 3 + [Silence.MAILBOX_LIMIT] * 5
    assert console.counts()["mailbox-limit"] == 5
    carls = MAIL.replace(b"bob@", b"carl@")
    assert desk.receive(carls, recipient="carl@recipient.example") is None
    assert desk.receive(carls, sender="a@sender.example", recipient="carl@recipient.example") is None
    assert desk.receive(carls, sender="b@sender.example", recipient="carl@recipient.example") is Silence.HOURLY_LIMIT
    desk.clock.advance(3600)
    assert desk.receive(sender="h@sender.example") is None


def test_mailboxes_that_share_a_responder_have_limits_of_their_own(console: Console, desk: Desk) -> None:
    console("set", "closed", "--text", "We are closed.")
    desk.settings = AutoresponderSettings(responder="closed", mailbox_limit=1)
    found = []
    for number, name in enumerate(("bob", "carl", "bob+tag", "carl")):
        mail = MAIL.replace(b"bob@", name.encode() + b"@")
        found.append(
            desk.receive(mail, sender=f"{'abcd'[number]}@sender.example", recipient=f"{name}@recipient.example")
        )
    assert found == [None, None, Silence.MAILBOX_LIMIT, Silence.MAILBOX_LIMIT]


def test_a_reply_that_was_not_taken_uses_no_limit_up(console: Console, desk: Desk) -> None:
    class Refusing:
        def submit(self, *_: object) -> None:
            raise OSError("connection refused")

    desk.settings = AutoresponderSettings(mailbox_limit=1)
    console.set()
    reinject, desk.services.reinject = desk.services.reinject, Refusing()
    assert desk.receive() is Silence.NOT_SENT
    desk.services.reinject = reinject
    assert desk.receive() is None
    assert desk.receive(sender="carl@sender.example") is Silence.MAILBOX_LIMIT


def test_the_memory_is_bounded_and_the_oldest_goes(console: Console, desk: Desk) -> None:
    desk.settings = AutoresponderSettings(remembered=5)
    console.set()
    for number in range(12):
        assert desk.receive(sender=f"s{number}@sender.example") is None
        desk.clock.advance(1)
    assert console.counts()["remembered addresses"] == 5
    assert desk.receive(sender="s11@sender.example") is Silence.TOO_SOON
    assert desk.receive(sender="s0@sender.example") is None
    if client := desk.services.state.redis:
        assert all(client.ttl(key) > 0 for key in client.scan_iter() if b":responder:" not in key)
    else:
        database = desk.services.state.database("autoresponder")
        assert database.execute("SELECT count(*) FROM mails").fetchone()[0] == 5


def test_what_has_expired_goes_away(console: Console, desk: Desk) -> None:
    console.set()
    for number in range(20):
        desk.receive(sender=f"s{number}@sender.example")
    desk.clock.advance(9 * DAY)
    for number in range(20, 24):
        desk.receive(sender=f"s{number}@sender.example")
    if client := desk.services.state.redis:
        (key,) = client.keys("*answered*")
        assert client.hlen(key) == 4
    else:
        rows = desk.services.state.database("autoresponder").execute("SELECT count(*) FROM answered")
        assert rows.fetchone()[0] == 4


def test_another_text_is_another_reply(console: Console, desk: Desk) -> None:
    console.set()
    assert desk.receive() is None
    console.set("--text", "I am still away.")
    assert desk.receive() is None
    console.set("--forward", "x@elsewhere.example")
    assert desk.receive() is Silence.TOO_SOON


def test_the_same_mail_is_never_answered_twice(console: Console, desk: Desk) -> None:
    console.set("--text", "x", "--interval", "0", "--forward", "x@elsewhere.example")
    mail = b"Message-ID: <1@x.example>\r\n" + MAIL
    assert desk.receive(mail, queue_id="4QX") is None
    assert len(desk.sent) == 2
    desk.clock.advance(5 * DAY)  # a delivery that was deferred is tried again
    assert desk.receive(mail, queue_id="4QX") is Silence.ANSWERED
    assert len(desk.sent) == 2
    assert desk.receive(b"Message-ID: <2@x.example>\r\n" + MAIL, queue_id="4QX") is None


def test_a_mail_that_comes_by_two_ways_is_answered_once(console: Console, desk: Desk) -> None:
    """Through an alias, and directly: two mails for the mail server, one for its reader."""
    console.set("--text", "x", "--interval", "0", "--forward", "x@elsewhere.example")
    mail = b"Message-ID: <1@x.example>\r\n" + MAIL
    assert desk.receive(mail, queue_id="4QX") is None
    assert desk.receive(b"Received: by alias.example\r\n" + mail, queue_id="4QY") is Silence.ANSWERED
    assert len(desk.sent) == 2
    assert desk.receive(mail, sender="carl@sender.example", queue_id="4QZ") is None
    assert [desk.receive(MAIL, queue_id=queue_id) for queue_id in ("4QX", "4QY")] == [None, None]  # it has no name


def test_a_tag_makes_no_other_sender(console: Console, desk: Desk) -> None:
    console.set()
    assert desk.receive(sender="desk+4711@sender.example") is None
    assert [str(each) for each in desk.sent[0].recipients] == ["desk+4711@sender.example"]
    assert desk.receive(sender="desk+4712@sender.example") is Silence.TOO_SOON
    assert desk.receive(sender="desk@sender.example") is Silence.TOO_SOON
    assert desk.receive(sender="disk+4712@sender.example") is None


def test_a_reply_that_was_not_taken_is_not_remembered(console: Console, desk: Desk) -> None:
    class Refusing:
        def submit(self, *_: object) -> None:
            raise OSError("connection refused")

    console.set("--text", "x", "--interval", "1h")
    assert desk.receive() is None
    desk.clock.advance(2 * 3600)
    reinject, desk.services.reinject = desk.services.reinject, Refusing()
    assert desk.receive() is Silence.NOT_SENT
    assert "connection refused" in desk.services.log.lines[-2][2]["problem"]
    assert console.counts() == {"replied": 1, "not-sent": 1, "remembered addresses": 1}
    assert desk.receive(sender="new@sender.example") is Silence.NOT_SENT
    assert console.counts()["remembered addresses"] == 1
    desk.services.reinject = reinject
    assert desk.receive() is None
    assert desk.receive(sender="new@sender.example") is None
    assert desk.receive() is Silence.TOO_SOON


def test_forgetting_makes_everybody_new(console: Console, desk: Desk) -> None:
    console.set()
    desk.receive()
    assert console("forget", BOB) == f"{BOB}: forgotten: 1\n"
    assert console.counts() == {"remembered addresses": 0}
    assert desk.receive() is None


def test_copies_that_come_together_get_one_reply_among_threads(console: Console, desk: Desk) -> None:
    console.set()
    desk.receive(sender="warm@sender.example")
    barrier, found = threading.Barrier(8), []

    def receive() -> None:
        barrier.wait(30)
        found.append(desk.receive())

    threads = [threading.Thread(target=receive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(found) == {None: 1, Silence.TOO_SOON: 7}
    assert len(desk.sent) == 2


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_copies_that_come_together_get_one_reply_among_processes(
    kind: str, tmp_path: Path, redis_server: RedisInstance
) -> None:
    redis_server.command("FLUSHALL")
    url = redis_server.url if kind == "redis" else ""
    state = RedisOrFiles(RedisSettings(url=url, timeout=Duration(5)), tmp_path)
    Console(FakeServices(tmp_path, state=state)).set()
    state.close()
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(5), context.Queue()
    processes = [
        context.Process(target=receive_in_a_process, args=(url, str(tmp_path), barrier, answers)) for _ in range(5)
    ]
    for process in processes:
        process.start()
    found = Counter(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    assert found == {("replied", 1): 1, ("too-soon", 0): 4}


def test_a_mail_is_one_round_trip(tmp_path: Path, redis_server: RedisInstance) -> None:
    redis_server.command("FLUSHALL")
    settings = RedisSettings(url=redis_server.url, timeout=Duration(2))
    state = RedisOrFiles(settings, tmp_path)
    desk = Desk(FakeServices(tmp_path, state=state, config=Config(redis=settings)))
    Console(desk.services).set("--text", "x", "--interval", "0", "--daily-limit", "1000")
    desk.receive()
    before = _reads(redis_server), _reads(redis_server)
    for _ in range(50):
        desk.receive()
    asking = before[1] - before[0]
    assert 50 <= _reads(redis_server) - before[1] - asking <= 52
    redis_server.command("SCRIPT", "FLUSH")
    assert desk.receive() is None
    state.close()


def _reads(server: RedisInstance) -> int:
    """Packets that Redis has read from clients."""
    facts = dict(line.split(":", 1) for line in server.command("INFO", "stats").splitlines() if ":" in line)
    return int(facts["total_reads_processed"])


def test_a_store_that_is_gone_fails_the_call_and_nothing_is_sent(tmp_path: Path) -> None:
    from postroom.hookspecs import StateUnavailable
    from postroom.testing.ports import free_port

    state = RedisOrFiles(RedisSettings(url=f"redis://127.0.0.1:{free_port()}", timeout=Duration(0.3)), tmp_path)
    desk = Desk(FakeServices(tmp_path, state=state))
    with pytest.raises(StateUnavailable):
        desk.receive()
    assert not desk.sent
    state.close()


def test_no_responder_is_no_reply_and_nothing_counted(console: Console, desk: Desk) -> None:
    verdict = desk.verdict()
    assert "no responder" in verdict.reason
    assert not desk.sent
    console("status")
    assert not [row for row in console.shown if row[1] != "remembered addresses"]


def test_a_text_in_the_context_does_without_a_responder(desk: Desk) -> None:
    desk.settings = AutoresponderSettings(text="I am away.", subject="Away: ${subject}")
    assert desk.receive() is None
    assert desk.reply()["Subject"] == "Away: hello"
    assert desk.receive() is Silence.TOO_SOON


def test_a_context_names_another_responder(console: Console, desk: Desk) -> None:
    console("set", "holidays", "--text", "We are closed.")
    desk.settings = AutoresponderSettings(responder="holidays")
    assert desk.receive() is None
    assert desk.reply()["From"] == BOB
    assert desk.reply().get_content() == "We are closed.\n"


def test_a_change_acts_on_the_next_mail_in_every_worker(console: Console, desk: Desk) -> None:
    other = Desk(desk.services)
    console.set("--text", "one", "--interval", "0")
    assert (desk.receive(), other.receive()) == (None, None)
    console("disable", BOB)
    assert (desk.receive(), other.receive()) == (Silence.OFF, Silence.OFF)
    console("enable", BOB)
    assert (desk.receive(), other.receive()) == (None, None)
    console.set("--text", "two")
    other.receive()
    assert other.reply().get_content() == "two\n"
    console("remove", BOB)
    assert "no responder" in desk.verdict().reason


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"text":5}', '{"conditions":[["x","y"]]}', '{"text":"x","time_zone":"No/Zone","end":"2030-01-01"}'],
)
def test_a_broken_responder_is_silent_and_named(desk: Desk, document: str) -> None:
    from postroom_autoresponder.store import StoredResponder

    store = open_store(desk.services.state)
    assert store.replace_responder(BOB, "", StoredResponder("v1", document))
    assert desk.receive() is Silence.BROKEN
    assert any(level == "warning" for level, _, _ in desk.services.log.lines)
    assert store.counts(BOB) == {"broken": 1}


def test_a_stored_template_error_is_silent_and_named(desk: Desk, console: Console) -> None:
    from postroom_autoresponder.store import StoredResponder

    store = open_store(desk.services.state)
    store.replace_responder(BOB, "", StoredResponder("v1", '{"text":"costs $5","forward":"x@elsewhere.example"}'))
    assert desk.receive() is Silence.TEMPLATE
    assert "write $$" in next(facts["problem"] for level, _, facts in desk.services.log.lines if level == "warning")
    assert [str(each.recipients[0]) for each in desk.sent] == ["x@elsewhere.example"]
    assert console.counts()["template-error"] == 1


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40 * 3600_000)), max_size=40),
    st.builds(
        Terms,
        interval=st.sampled_from([0, 1000, 3600_000, 86400_000]),
        daily_limit=st.integers(1, 4),
        remembered=st.just(100),
        mailbox_limit=st.integers(1, 6),
        hourly_limit=st.integers(1, 6),
    ),
)
def test_no_limit_is_ever_passed(mails: list[tuple[int, int]], terms: Terms) -> None:
    now, known, mailbox, host = 1_700_000_000_000, dict[int, Answered](), Hour(), Hour()
    sent: list[tuple[int, int]] = []
    for sender, wait in mails:
        now += wait
        judged = judge(known.get(sender), mailbox, host, terms, now)
        if isinstance(judged, Silence):
            continue
        known[sender], mailbox, host = judged
        earlier = [at for who, at in sent if who == sender]
        assert all(now - at >= terms.interval for at in earlier)
        sent.append((sender, now))
    for sender in range(4):
        times = [at for who, at in sent if who == sender]
        for at in times:  # a day begins with a reply
            assert sum(at <= each < at + 86400_000 for each in times) <= 2 * terms.daily_limit
    for _, at in sent:
        within = sum(at <= each < at + 3600_000 for _, each in sent)
        assert within <= 2 * min(terms.mailbox_limit, terms.hourly_limit)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("prvs=0123abcdef=alice@sender.example", "prvs=4567fedcba=alice@sender.example"),
        ("SRS0=HHHH=TT=author.example=alice@sender.example", "SRS0=GGGG=SS=author.example=alice@sender.example"),
        (
            "SRS1=KKKK=first.example==HHHH=TT=author.example=alice@sender.example",
            "SRS1=LLLL=first.example==GGGG=SS=author.example=alice@sender.example",
        ),
    ],
    ids=["BATV", "SRS0", "SRS1"],
)
def test_a_return_path_that_is_signed_anew_every_day_is_the_same_sender(
    console: Console, desk: Desk, first: str, second: str
) -> None:
    console.set()
    assert desk.receive(sender=first) is None
    assert [str(each) for each in desk.sent[0].recipients] == [first]
    desk.clock.advance(DAY)
    assert desk.receive(sender=second) is Silence.TOO_SOON
    assert desk.receive(sender=first.replace("alice", "carol")) is None
    assert desk.receive(sender=first.replace("alice", "noreply")) is Silence.SYSTEM_SENDER


def test_a_return_path_takes_nobody_elses_reply_away(console: Console, desk: Desk) -> None:
    console.set()
    assert desk.receive(sender="SRS0=HHHH=TT=sender.example=alice@sub.sender.example") is None
    assert desk.receive(sender="alice@sender.example") is None
