"""The heart: what one attempt comes to, and what is remembered of it. Pure: values in, value out.

All times are whole milliseconds, so that Lua in Redis counts as Python does. `attempt.lua` holds the same rules, for
Redis has to apply them itself to be atomic; a property test runs both side by side.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from postroom_grey.settings import GreySettings


class State(enum.StrEnum):
    """How far a sender has come with one recipient."""

    WAITING = "waiting"
    RELEASED = "released"  # an administrator let it through: its next attempt passes
    PASSED = "passed"


class Result(enum.StrEnum):
    """What one attempt comes to for one recipient."""

    FIRST = "first"  # never seen: wait
    EARLY = "early"  # came back before the wait was over: wait on
    WAITED = "waited"  # came back in time, or was released: passes for the first time
    KNOWN = "known"  # had passed before, or nobody has to wait
    NETWORK = "network"  # the client's network is allowed by now

    @property
    def waits(self) -> bool:
        return self in (Result.FIRST, Result.EARLY)


@dataclass(frozen=True, slots=True)
class Terms:
    """What counts for one recipient, in milliseconds; `penalty` 0: off."""

    wait: int
    expire: int
    penalty: int
    longest_wait: int


@dataclass(frozen=True, slots=True)
class NetworkTerms:
    """`needed` mails that came back make a network allowed (0: never) for `expire` milliseconds after its last."""

    needed: int
    expire: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of client, sender and recipient. `extra`: the penalties; `due`: as last told."""

    state: State
    first: int
    last: int
    due: int
    extra: int
    attempts: int
    expires: int


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """What is remembered of a client's network. `allowed_since` 0: not yet."""

    successes: int
    allowed_since: int
    last: int
    expires: int


@dataclass(frozen=True, slots=True)
class Attempted:
    """The answer for one recipient: first attempt, and when it may pass (or might have)."""

    result: Result
    first: int
    due: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """The answer for a mail, and what to remember of it; a record that is None stays as it was."""

    answers: tuple[Attempted, ...]
    records: tuple[Record | None, ...]
    network: NetworkRecord | None


def terms_of(settings: GreySettings) -> Terms:
    wait = milliseconds(settings.wait)
    return Terms(
        wait=wait,
        expire=max(milliseconds(settings.expire), 2 * wait),  # forgotten while it waits, nobody would ever pass
        penalty=milliseconds(settings.penalty) if settings.penalize else 0,
        longest_wait=milliseconds(settings.longest_wait),
    )


def network_terms_of(settings: GreySettings, *, known: bool) -> NetworkTerms:
    """`known` False: the client's address is not, and clients without one have nothing in common."""
    return NetworkTerms(settings.auto_allow if known else 0, milliseconds(settings.auto_allow_expire))


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def attempt(record: Record | None, terms: Terms, now: int) -> tuple[Attempted, Record]:
    """One sender tries one recipient.

    A first attempt later than now was made before the clock was set back; who waits, waits from now on, not for as long
    as the clock was wrong.
    """
    if record is not None and record.first > now:
        record = replace(record, first=now)
    if record is None or now >= record.expires:
        record = Record(State.WAITING, now, now, now + terms.wait, 0, 0, 0)
        result = Result.FIRST if terms.wait else Result.KNOWN
    elif record.state is State.PASSED:
        result = Result.KNOWN
    elif record.state is State.RELEASED or now >= record.first + terms.wait + record.extra:
        result = Result.WAITED
    else:
        longest = max(record.extra, terms.longest_wait - terms.wait)
        record = replace(record, extra=min(record.extra + terms.penalty, longest))
        result = Result.EARLY
    due = record.first + terms.wait + record.extra
    state = State.WAITING if result.waits else State.PASSED
    record = Record(
        state, record.first, now, due, record.extra, min(record.attempts + 1, 1_000_000_000), now + terms.expire
    )
    return Attempted(result, record.first, due), record


def attempt_all(
    network: NetworkRecord | None,
    records: Sequence[Record | None],
    terms: Sequence[Terms],
    network_terms: NetworkTerms,
    now: int,
    *,
    counts: bool = True,
) -> Attempt:
    """One mail tries all its recipients at once.

    A network's success is a mail that goes on as a whole and had to wait for it: a mail with many recipients counts
    once. `counts` False: it will be refused for another reason.
    """
    if network is not None and now >= network.expires:
        network = None
    if network_terms.needed and network is not None and network.allowed_since:
        touched = replace(network, last=now, expires=now + network_terms.expire)
        answers = tuple(Attempted(Result.NETWORK, network.allowed_since, now) for _ in terms)
        return Attempt(answers, tuple(None for _ in terms), touched)
    made = [attempt(record, one, now) for record, one in zip(records, terms, strict=True)]
    results = [answer.result for answer, _ in made]
    after = None
    came_back = Result.WAITED in results and not any(result.waits for result in results)
    if network_terms.needed and counts and came_back:
        successes = (network.successes if network else 0) + 1
        since = now if successes >= network_terms.needed else 0
        after = NetworkRecord(successes, since, now, now + network_terms.expire)
    return Attempt(tuple(answer for answer, _ in made), tuple(record for _, record in made), after)
