"""Reservations: the rules against a model of a mailbox, and both stores against the rules; many at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postroom.config import Duration, RedisSettings
from postroom.hookspecs import StateUnavailable
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices
from postroom.testing.redis import RedisInstance
from postroom_quota.backends import open_store
from postroom_quota.ledger import MAX_HELD, Answer, Ledger, Request, Terms, reserve_all, settle, total_of
from postroom_quota.redis_store import RedisStore
from postroom_quota.sqlite_store import SqliteStore

BOX = "bob@example.org"


def terms(now: int, id: str, *, lasts: int = 1000, **more: object) -> Terms:
    return Terms(now, id, now + lasts, **more)  # type: ignore[arg-type]  # what the test says


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["arrive", "deliver", "settle", "delete", "wait"]), st.integers(1, 60)), max_size=60
    )
)
@settings(max_examples=300, deadline=None)
def test_mail_that_was_let_in_never_overfills_the_mailbox(steps: list[tuple[str, int]]) -> None:
    """A mailbox of 100, mails delivered in any order within their time, the owner deleting at will."""
    limit, used, now, ledger = 100, 0, 0, Ledger()
    coming: dict[str, tuple[int, int]] = {}  # id -> octets, when its reservation ends
    for number, (what, amount) in enumerate(steps):
        match what:
            case "arrive":
                request = Request(BOX, used, amount, limit)
                (answer,), (ledger,) = reserve_all([ledger], [request], terms(now, str(number), lasts=100))
                assert answer.total >= used
                if answer.fits:
                    coming[str(number)] = (amount, now + 100)
            case "deliver" if coming:
                mail = sorted(coming)[amount % len(coming)]
                used += coming.pop(mail)[0]
            case "settle" if coming:
                mail = sorted(coming)[amount % len(coming)]
                used += coming.pop(mail)[0]
                ledger = settle(ledger, mail, now)
            case "delete":
                used = max(0, used - amount)
            case _:
                now += amount % 10
                for mail in [mail for mail, (_, ends) in coming.items() if ends <= now]:
                    used += coming.pop(mail)[0]  # slower than its reservation would be too slow
        assert used + sum(octets for octets, _ in coming.values()) <= limit


def test_what_has_arrived_is_not_counted_twice_for_long() -> None:
    ledger = Ledger()
    (_,), (ledger,) = reserve_all([ledger], [Request(BOX, 0, 60, 100)], terms(0, "a"))
    assert total_of(ledger, 0, 1) == 60
    assert total_of(ledger, 60, 1) == 60  # delivered, though nobody said so
    assert total_of(ledger, 0, 1001) == 0  # never delivered, and over
    assert total_of(settle(ledger, "a", 5), 10, 6) == 10  # delivered, and most of it deleted since


def test_a_mail_that_comes_again_is_counted_once() -> None:
    (_,), (ledger,) = reserve_all([Ledger()], [Request(BOX, 0, 60, 100)], terms(0, "a"))
    (answer,), _ = reserve_all([ledger], [Request(BOX, 0, 60, 100)], terms(1, "a"))
    assert answer.fits


def test_the_brim_takes_not_even_an_empty_mail() -> None:
    for used, fits in ((99, True), (100, False), (150, False)):
        assert reserve_all([Ledger()], [Request(BOX, used, 0, 100)], terms(0, "a"))[0] == [Answer(fits, used)]
    assert reserve_all([Ledger()], [Request(BOX, 10**12, 5, 0)], terms(0, "a"))[0][0].fits


STEP = st.tuples(
    st.integers(0, 120),  # used
    st.integers(0, 60),  # size
    st.sampled_from([0, 100, 100, 2**53]),  # limit
    st.sampled_from(["a", "b", "c", "d"]),  # id
    st.integers(0, 50),  # time passes
    st.booleans(),  # write
    st.booleans(),  # together
)


@given(steps=st.lists(STEP, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_and_sqlite_answer_alike(redis_server: RedisInstance, tmp_path: Path, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    redis_server.command("FLUSHALL")
    states = [
        RedisOrFiles(RedisSettings(url=redis_server.url, timeout=Duration(5)), tmp_path / "redis"),
        RedisOrFiles(RedisSettings(), tmp_path / "files"),
    ]
    stores: tuple[RedisStore, SqliteStore] = (RedisStore(states[0]), SqliteStore(states[1]))
    states[1].database("quota").execute("DROP TABLE IF EXISTS ledgers")
    now = 1_700_000_000_000
    for used, size, limit, mail, passes, write, together in steps:
        now += passes
        requests = [Request(BOX, used, size, limit), Request("ann@example.org", 120 - used, size, 100)]
        asked = terms(now, mail, lasts=80, thresholds=(50, 80), write=write, together=together)
        answers = [store.reserve(requests, asked) for store in stores]
        assert answers[0] == answers[1]
        if write:
            ledgers = [total_of(store.ledger(BOX), used, now) for store in stores]
            assert ledgers[0] == ledgers[1]
    for state in states:
        state.close()


def test_what_is_over_goes_away_and_the_file_stops_growing(tmp_path: Path) -> None:
    state = RedisOrFiles(RedisSettings(), tmp_path)
    store, database, pages = SqliteStore(state), state.database("quota"), []
    for day in range(6):
        for number in range(200):
            mail, now = f"{day}-{number}", 1_700_000_000_000 + day * 86_400_000
            store.reserve([Request(f"{mail}@example.org", 0, 10, 100)], terms(now, mail))
        (kept,) = database.execute("SELECT count(*) FROM ledgers").fetchone()
        pages.append(database.execute("PRAGMA page_count").fetchone()[0])
        assert kept == 200
    assert pages[-1] <= 1.2 * pages[1]
    state.close()


def test_more_than_can_be_kept_one_by_one(services: FakeServices) -> None:
    store = open_store(services.state)
    for number in range(MAX_HELD + 20):
        (answer,) = store.reserve(
            [Request(BOX, 0, 10, 10_000_000)], terms(1000 + number, f"m{number:04}", lasts=10_000)
        )
        assert answer == Answer(True, 10 * number)
    assert len(store.ledger(BOX).held) == MAX_HELD
    assert total_of(store.ledger(BOX), 0, 1300) == 10 * (MAX_HELD + 20)


def test_many_at_once_share_the_last_room_fairly(services: FakeServices) -> None:
    store = open_store(services.state)
    let_in: list[str] = []
    start = threading.Barrier(20)

    def arrive(number: int) -> None:
        start.wait()
        (answer,) = store.reserve([Request(BOX, 900, 30, 1000)], terms(5000, f"m{number}"))
        if answer.fits:
            let_in.append(f"m{number}")

    threads = [threading.Thread(target=arrive, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 3  # 900 + 3 x 30 <= 1000


def test_a_clock_that_is_set_back_makes_no_mailbox_full_for_ever(services: FakeServices) -> None:
    store = open_store(services.state)
    wrong, right = 2_700_000_000_000, 1_700_000_000_000
    for number in range(MAX_HELD + 2):  # so that some of them are known only by their sum
        assert store.reserve([Request(BOX, 0, 1, 1000)], terms(wrong, f"early{number}"))[0].fits
    assert not store.reserve([Request(BOX, 0, 900, 1000)], terms(wrong, "late"))[0].fits
    (answer,) = store.reserve([Request(BOX, 0, 900, 1000)], terms(right, "late"))
    assert answer == Answer(True, 0)
    assert total_of(store.ledger(BOX), 0, right) == 900
    (answer,) = store.reserve([Request(BOX, 0, 200, 1000)], terms(right, "next"))
    assert answer == Answer(False, 900)


def test_nobody_is_reserved_for_when_one_of_them_is_full(services: FakeServices) -> None:
    store = open_store(services.state)
    both = [Request(BOX, 0, 60, 100), Request("full@example.org", 100, 60, 100)]
    answers = store.reserve(both, terms(1000, "a"))
    assert [each.fits for each in answers] == [True, False]
    assert store.ledger(BOX).held == ()
    store.reserve(both, terms(1000, "a", together=False))
    assert [each.octets for each in store.ledger(BOX).held] == [60]


def test_a_warning_comes_once_a_crossing(services: FakeServices) -> None:
    store = open_store(services.state)

    def arrive(used: int, id: str) -> int:
        return store.reserve([Request(BOX, used, 1, 100)], terms(10_000, id, lasts=1, thresholds=(80, 95)))[0].warn

    warned = []
    for at, used in enumerate([50, 79, 80, 81, 94, 96, 96, 78, 82, 70, 81]):
        warned.append(
            store.reserve([Request(BOX, used, 1, 100)], terms(10_000 * at, "m", lasts=1, thresholds=(80, 95)))[0].warn
        )
    assert warned == [0, 80, 0, 0, 95, 0, 0, 0, 0, 0, 80]
    store.forget_warning(BOX)
    assert arrive(81, "again") in (0, 80)


def test_settling_and_forgetting(services: FakeServices) -> None:
    store = open_store(services.state)
    store.reserve([Request(BOX, 0, 60, 100)], terms(1000, "a", thresholds=(50,)))
    store.settle(BOX, "a", 1500)
    store.settle(BOX, "unknown", 1)
    assert [each.expires for each in store.ledger(BOX).held] == [1500]
    store.forget(BOX)
    assert store.ledger(BOX).held == ()
    assert store.ledger(BOX).warned == 50
    store.ping()


def test_what_is_over_goes_away(tmp_path: Path) -> None:
    state = RedisOrFiles(RedisSettings(), tmp_path)
    store = SqliteStore(state)
    for number in range(50):
        store.reserve([Request(f"u{number}", 0, 1, 100)], terms(1000 + number * 10_000, "a"))
    rows = state.database("quota").execute("SELECT count(*) FROM ledgers").fetchone()[0]
    assert rows <= 2
    state.close()


def test_a_redis_that_is_gone_is_said_in_one_line(tmp_path: Path) -> None:
    with RedisInstance() as server:
        settings_ = RedisSettings(url=server.url, timeout=Duration(0.2))
        store = open_store(RedisOrFiles(settings_, tmp_path))
        server.kill()
        with pytest.raises(StateUnavailable, match="is it running"):
            store.reserve([Request(BOX, 0, 1, 100)], terms(1000, "a"))
