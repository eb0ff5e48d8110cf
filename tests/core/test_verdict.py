"""Reply codes follow from the action, and one answer for all is the strictest."""

from __future__ import annotations

import itertools

import pytest
from postroom.mail import AddField, Address
from postroom.verdict import DEFER_REPLY, REJECT_REPLY, Action, Disposition, Outcome, Reply


@pytest.mark.parametrize(
    ("reply", "action", "line"),
    [
        (DEFER_REPLY, Action.DEFER, "451 4.7.1 Service unavailable - try again later"),
        (REJECT_REPLY, Action.REJECT, "550 5.7.1 Command rejected"),
        (Reply("Mailbox is full", "2.2"), Action.DEFER, "452 4.2.2 Mailbox is full"),
        (Reply("Mailbox is full", "2.2"), Action.REJECT, "552 5.2.2 Mailbox is full"),
        (Reply("one\ntwo"), Action.REJECT, "550 5.7.1 one two"),
        (Reply(" \n"), Action.REJECT, "550 5.7.1 Command rejected"),
    ],
)
def test_codes_follow_from_the_action(reply: Reply, action: Action, line: str) -> None:
    assert reply.line(action) == line


A, B = Address("a@x"), Address("b@x")


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        (Action.DEFER, Action.REJECT, Action.DEFER),
        (Action.REJECT, Action.PASS, Action.REJECT),
        (Action.DEFER, Action.PASS, Action.DEFER),
        (Action.STOP, Action.PASS, Action.PASS),
        (Action.QUARANTINE, Action.STOP, Action.QUARANTINE),
        (Action.QUARANTINE, Action.PASS, Action.PASS),
    ],
)
def test_the_strictest_answer(one: Action, other: Action, answer: Action) -> None:
    for first, second in itertools.permutations((one, other)):
        outcome = Outcome({A: Disposition(first), B: Disposition(second)})
        assert outcome.strictest().action is answer


def test_each_edit_is_made_once_however_many_recipients_share_it() -> None:
    shared, own = AddField(b"X", b" 1"), AddField(b"X", b" 1")
    outcome = Outcome({A: Disposition(), B: Disposition()}, {A: (shared,), B: (shared, own)})
    assert outcome.merged_edits() == (shared, own)
    assert outcome.going_on() == (A, B)
