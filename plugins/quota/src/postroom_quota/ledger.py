"""Pure: what has been let in for a mailbox and may not have arrived yet, so that two mails never share the last room.

The same rules are in reserve.lua, where the state is Redis; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_HELD = 256
"""Reservations of one mailbox kept one by one; when there are more, their sum alone is known."""
LONGEST = 2 * 86400 * 1000
"""Milliseconds; no reservation is made for so long: one that ends later was made by a clock that has been set back."""
HYSTERESIS = 5
"""Percent under a threshold at which its warning is armed again."""


@dataclass(frozen=True, slots=True)
class Request:
    """One mailbox of one mail. `limit` 0: none. All octets."""

    mailbox: str
    used: int
    size: int
    limit: int


@dataclass(frozen=True, slots=True)
class Held:
    """One reservation; `expires` in milliseconds since the epoch."""

    id: str
    octets: int
    expires: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """One mailbox. `peak`: the most that it was promised to hold, while anything is held; `many_until`: when the last
    of those ends that were too many to keep. `warned`: the highest threshold whose warning was sent.
    """

    held: tuple[Held, ...] = ()
    peak: int = 0
    many_until: int = 0
    warned: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """`total`: octets without this mail. `warn`: the threshold that it crosses, 0 for none."""

    fits: bool
    total: int
    warn: int = 0


NOTHING = Ledger()


@dataclass(frozen=True, slots=True)
class Terms:
    """`write`: reserve, else only look. `together`: nobody's room is reserved unless everybody's mail fits."""

    now: int
    id: str
    expires: int
    thresholds: tuple[int, ...] = ()
    write: bool = True
    together: bool = True


def total_of(ledger: Ledger, used: int, now: int, besides: str = "") -> int:
    """What the mailbox holds, or will once everything has arrived.

    Never less than that, as long as nobody but us delivers: what is used and all that is held counts mail twice that
    has arrived but was not released; the peak does not, but knows nothing of mail that was deleted. The lower is right.
    """
    live = [each for each in ledger.held if _counts(each.expires, now) and each.id != besides]
    many = _counts(ledger.many_until, now)
    if not live and not many:
        return used
    highest = max(used, ledger.peak)
    return highest if many else min(used + sum(each.octets for each in live), highest)


def reserve_all(
    ledgers: Sequence[Ledger], requests: Sequence[Request], terms: Terms
) -> tuple[list[Answer], list[Ledger]]:
    """The answers, and the ledgers after them."""
    totals = [
        total_of(ledger, request.used, terms.now, terms.id) for ledger, request in zip(ledgers, requests, strict=True)
    ]
    fits = [_fits(request, total) for request, total in zip(requests, totals, strict=True)]
    answers, after = [], []
    for ledger, request, total, fit in zip(ledgers, requests, totals, fits, strict=True):
        if not terms.write or not fit or (terms.together and not all(fits)):
            answers.append(Answer(fit, total))
            after.append(ledger)
            continue
        new = _hold(ledger, request, total, terms)
        warn, warned = _crossed(new.warned, total + request.size, request.limit, terms.thresholds)
        answers.append(Answer(True, total, warn))
        after.append(Ledger(new.held, new.peak, new.many_until, warned))
    return answers, after


def settle(ledger: Ledger, id: str, expires: int) -> Ledger:
    """The mail is being delivered: what it holds is soon counted by the mailbox itself."""
    held = tuple(
        Held(each.id, each.octets, min(each.expires, expires)) if each.id == id else each for each in ledger.held
    )
    return Ledger(held, ledger.peak, ledger.many_until, ledger.warned)


def _counts(expires: int, now: int) -> bool:
    return now < expires <= now + LONGEST


def _fits(request: Request, total: int) -> bool:
    """A mailbox that is full to the brim takes not even an empty mail."""
    return not request.limit or total + max(request.size, 1) <= request.limit


def _hold(ledger: Ledger, request: Request, total: int, terms: Terms) -> Ledger:
    live = [each for each in ledger.held if _counts(each.expires, terms.now)]
    many = _counts(ledger.many_until, terms.now)
    idle = not live and not many
    peak = total + request.size if idle else max(ledger.peak, total + request.size)
    live = [each for each in live if each.id != terms.id]
    many_until = ledger.many_until if many else 0
    live.append(Held(terms.id, request.size, terms.expires))
    live.sort(key=lambda each: (each.expires, each.id))
    while len(live) > MAX_HELD:
        many_until = max(many_until, live.pop(0).expires)
    return Ledger(tuple(live), peak, many_until, ledger.warned)


def _crossed(warned: int, total: int, limit: int, thresholds: Sequence[int]) -> tuple[int, int]:
    """The threshold to warn of now (0: none), and the highest that was warned of."""
    if not limit:
        return 0, 0
    reached = max((each for each in thresholds if total * 100 >= limit * each), default=0)
    if reached > warned:
        return reached, reached
    armed = max(
        (each for each in thresholds if each <= warned and total * 100 >= limit * (each - HYSTERESIS)), default=0
    )
    return 0, armed
