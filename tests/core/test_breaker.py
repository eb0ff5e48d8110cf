"""What keeps failing is left alone, then probed by one call."""

from __future__ import annotations

from postroom.breaker import Breaker
from postroom.testing import ManualClock


def test_opens_pauses_probes_and_closes() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, failures=3, seconds=30)
    assert [breaker.failed("clamav") for _ in range(3)] == [False, False, True]
    assert not breaker.allows("clamav")
    assert breaker.allows("other")
    clock.advance(31)
    assert [breaker.allows("clamav") for _ in range(3)] == [True, False, False]  # just one probe
    assert not breaker.failed("clamav")  # it was open already
    assert not breaker.allows("clamav")
    clock.advance(31)
    assert breaker.allows("clamav")
    assert breaker.succeeded("clamav")
    assert breaker.allows("clamav")
    assert breaker.allows("clamav")


def test_a_success_in_between_forgets_the_failures() -> None:
    breaker = Breaker(ManualClock(), failures=2)
    assert not breaker.failed("x")
    assert not breaker.succeeded("x")
    assert not breaker.failed("x")
    assert breaker.allows("x")


def test_a_probe_that_comes_to_nothing_costs_one_pause() -> None:
    """Its call was not made: the program was not there just then, or the mail was more than it can be told."""
    clock = ManualClock()
    breaker = Breaker(clock, failures=1, seconds=30)
    assert breaker.failed("stamp")
    clock.advance(31)
    assert breaker.allows("stamp")
    assert not breaker.allows("stamp")
    clock.advance(31)
    assert breaker.allows("stamp")
    assert breaker.succeeded("stamp")
