"""The pure heart, and that both stores do as it says."""

from __future__ import annotations

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from postroom.lists.scopes import SERVER
from postroom.testing import FakeServices
from postroom_grey.backends import open_store
from postroom_grey.decision import NetworkRecord, NetworkTerms, Record, Result, State, Terms, attempt, attempt_all
from postroom_grey.store import Request

MINUTE = 60_000
TERMS = Terms(wait=5 * MINUTE, expire=60 * MINUTE, penalty=0, longest_wait=30 * MINUTE)
NETWORK_TERMS = NetworkTerms(needed=2, expire=90 * MINUTE)


def results(*times: int, terms: Terms = TERMS) -> list[Result]:
    record: Record | None = None
    found = []
    for now in times:
        answer, record = attempt(record, terms, now)
        found.append(answer.result)
    return found


def test_who_waits_passes_and_is_known_then() -> None:
    assert results(0, 5 * MINUTE - 1, 5 * MINUTE, 5 * MINUTE + 1) == [
        Result.FIRST,
        Result.EARLY,
        Result.WAITED,
        Result.KNOWN,
    ]


def test_who_stays_away_too_long_begins_anew() -> None:
    assert results(0, 60 * MINUTE) == [Result.FIRST, Result.FIRST]
    assert results(0, 5 * MINUTE, 65 * MINUTE - 1, 125 * MINUTE - 1) == [
        Result.FIRST,
        Result.WAITED,
        Result.KNOWN,
        Result.FIRST,
    ]


def test_a_penalty_makes_the_wait_longer_but_not_endless() -> None:
    terms = Terms(5 * MINUTE, 600 * MINUTE, penalty=2 * MINUTE, longest_wait=8 * MINUTE)
    assert results(0, 1, 5 * MINUTE, 8 * MINUTE, terms=terms) == [
        Result.FIRST,
        Result.EARLY,
        Result.EARLY,
        Result.WAITED,
    ]
    impatient = [minute * MINUTE for minute in range(10)]
    assert results(*impatient, terms=terms)[8] is Result.WAITED


def test_a_clock_that_is_set_back_makes_nobody_wait_longer_than_once_more() -> None:
    year = 365 * 24 * 60 * MINUTE
    assert results(year, 0, 5 * MINUTE, 5 * MINUTE + 1) == [
        Result.FIRST,
        Result.EARLY,
        Result.WAITED,
        Result.KNOWN,
    ]
    assert results(year, year + 5 * MINUTE, 0, 1) == [Result.FIRST, Result.WAITED, Result.KNOWN, Result.KNOWN]


def test_no_wait_lets_everybody_through() -> None:
    assert results(0, 1, terms=Terms(0, MINUTE, 0, 0)) == [Result.KNOWN, Result.KNOWN]


def test_a_shorter_wait_counts_for_those_who_wait_already() -> None:
    _, record = attempt(None, TERMS, 0)
    assert attempt(record, Terms(MINUTE, TERMS.expire, 0, 0), MINUTE)[0].result is Result.WAITED


def test_the_released_pass_at_once() -> None:
    record = Record(State.RELEASED, 0, 0, 5 * MINUTE, 0, 1, 60 * MINUTE)
    assert attempt(record, TERMS, 1)[0].result is Result.WAITED


def test_a_mail_counts_once_for_its_network_and_only_when_it_goes_on() -> None:
    waiting = attempt(None, TERMS, 0)[1]
    late = 6 * MINUTE
    together = attempt_all(None, [waiting, waiting], [TERMS, TERMS], NETWORK_TERMS, late)
    assert together.network == NetworkRecord(1, 0, late, late + NETWORK_TERMS.expire)
    one_waits = attempt_all(None, [waiting, None], [TERMS, TERMS], NETWORK_TERMS, late)
    assert one_waits.network is None
    refused = attempt_all(None, [waiting], [TERMS], NETWORK_TERMS, late, counts=False)
    assert refused.network is None


def test_a_network_is_allowed_after_its_successes_until_it_expires() -> None:
    waiting = attempt(None, TERMS, 0)[1]
    late = 6 * MINUTE
    once = NetworkRecord(1, 0, 0, late + 1)
    allowed = attempt_all(once, [waiting], [TERMS], NETWORK_TERMS, late).network
    assert allowed is not None
    assert allowed.allowed_since == late
    passes = attempt_all(allowed, [None], [TERMS], NETWORK_TERMS, allowed.expires - 1)
    assert [answer.result for answer in passes.answers] == [Result.NETWORK]
    expired = attempt_all(allowed, [None], [TERMS], NETWORK_TERMS, allowed.expires)
    assert [answer.result for answer in expired.answers] == [Result.FIRST]


TERMS_OF_ALL_SORTS = st.builds(
    Terms,
    wait=st.integers(0, 20),
    expire=st.integers(40, 80),
    penalty=st.sampled_from([0, 3]),
    longest_wait=st.integers(0, 40),
)
MAILS = st.lists(
    st.tuples(
        st.integers(-60, 30),  # milliseconds since the last one: the clock may be set back
        st.sampled_from(["192.0.2.0/24", "198.51.100.0/24"]),
        st.lists(st.tuples(st.sampled_from("abc"), TERMS_OF_ALL_SORTS), max_size=3, unique_by=lambda pair: pair[0]),
        st.integers(0, 2),  # successes that make a network allowed
        st.booleans(),
        st.booleans(),  # somebody releases all that wait
    ),
    max_size=25,
)


@given(mails=MAILS)
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_store_does_as_the_heart_says(services: FakeServices, mails: list[tuple]) -> None:  # type: ignore[type-arg]
    store = open_store(services.state)
    start = 1_700_000_000_000
    store.forget([entry.digest for entry in store.entries(0)])
    store.forget_networks([entry.client for entry in store.networks(0)])
    records: dict[tuple[str, str], Record] = {}
    networks: dict[str, NetworkRecord] = {}
    now = earliest = start
    for pause, client, recipients, needed, counts, released in mails:
        # Not back to when something lived that has expired since: whether the store still has that is not promised.
        now = max(now + pause, earliest)
        terms = NetworkTerms(needed, 60)
        keys = [(client, recipient) for recipient, _ in recipients]
        expected = attempt_all(
            networks.get(client),
            [records.get(key) for key in keys],
            [one for _, one in recipients],
            terms,
            now,
            counts=counts,
        )
        request = Request(now, client, "s@x", tuple(recipients), terms, counts, ((SERVER, ""),))
        assert store.attempt(request) == expected.answers
        records |= {key: record for key, record in zip(keys, expected.records, strict=True) if record is not None}
        if expected.network is not None:
            networks[client] = expected.network
        there = {(entry.triple.client, entry.triple.recipient): entry for entry in store.entries(now)}
        assert {key: entry.record for key, entry in there.items()} == {
            key: record for key, record in records.items() if record.expires > now
        }
        assert {entry.client: entry.record for entry in store.networks(now)} == {
            key: record for key, record in networks.items() if record.expires > now
        }
        ends = [record.expires for record in records.values()] + [network.expires for network in networks.values()]
        earliest = max([earliest, *(end for end in ends if end <= now)])
        if released:
            waiting = [key for key, entry in there.items() if entry.record.state is State.WAITING]
            assert store.release([entry.digest for entry in there.values()]) == len(waiting)
            for key in waiting:
                old = records[key]
                records[key] = Record(
                    State.RELEASED, old.first, old.last, old.due, old.extra, old.attempts, old.expires
                )
