"""History that is too old goes, over both databases, and whatever stood since can still be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from postroom.registration import Registration, Stage, Type
from postroom.registry import NotRegistered, Registry, RegistryUnavailable
from postroom.testing import ManualClock

DAY = 86400.0
GREY = Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, enabled=True)
EVERYTHING = [(Type.GLOBAL, "")]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def registry(registry_url: str, clock: ManualClock) -> Iterator[Registry]:
    """Ten generations, one a day, each another priority of the same registration; now it is the day after the last."""
    with Registry.open(registry_url, 30, clock=clock.now) as opened:
        opened.add(replace(GREY, priority=1), who="alice")
        clock.advance(DAY)
        for number in range(2, 11):
            opened.update(replace(GREY, priority=number), who="alice")
            clock.advance(DAY)
        yield opened


def priority(registry: Registry, at: int) -> list[int]:
    return [each.priority for each in registry.list(at=at)]


def numbers(registry: Registry) -> list[int]:
    return [each.number for each in registry.history()]


def test_what_stood_since_stays_and_what_ended_before_goes(registry: Registry) -> None:
    # 3.5 days ago generation 7 stood
    planned = registry.prunable(3.5 * DAY)
    assert (planned.oldest, planned.generations, planned.registrations) == (7, 6, 6)
    assert numbers(registry)[-1] == 1
    assert registry.prune(3.5 * DAY) == planned
    assert numbers(registry) == [10, 9, 8, 7]
    assert [priority(registry, at) for at in (7, 8, 9, 10)] == [[7], [8], [9], [10]]
    assert registry.matching(EVERYTHING, list(Stage), at=7).registrations[0].priority == 7
    assert registry.diff(7)[0].changes() == [("priority", 7, 10)]
    assert not registry.prune(3.5 * DAY)
    assert registry.generation() == 10
    registry.rollback(7, who="alice")
    assert registry.generation() == 11
    assert priority(registry, 11) == [7]


def test_what_was_pruned_is_said_in_one_line(registry: Registry) -> None:
    registry.prune(3.5 * DAY)
    for ask in (
        lambda: registry.diff(6),
        lambda: registry.diff(8, 0),
        lambda: registry.rollback(6, who="alice"),
        lambda: registry.list(at=3),
    ):
        with pytest.raises(NotRegistered, match=r"^generation \d was pruned: the oldest one is 7; [^\n]+$"):
            ask()
    with pytest.raises(NotRegistered, match="there is no generation 11"):
        registry.diff(11)
    assert registry.generation() == 10


def test_a_mail_is_never_answered_by_half_of_its_registrations(registry: Registry) -> None:
    registry.prune(3.5 * DAY)
    with pytest.raises(RegistryUnavailable, match="generation 6 was pruned"):
        registry.matching(EVERYTHING, list(Stage), at=6)


def test_what_stood_within_a_day_stays_whatever_is_asked(registry: Registry, clock: ManualClock) -> None:
    clock.advance(-DAY / 2)  # half a day after the last change
    assert registry.prune(0.0).oldest == 9
    assert numbers(registry) == [10, 9]


def test_without_old_changes_nothing_goes(registry: Registry) -> None:
    assert not registry.prune(365 * DAY)
    assert registry.list(at=0) is not None
    assert len(registry.diff(0)) == 1


def test_after_a_long_silence_only_what_stands_stays(registry: Registry, clock: ManualClock) -> None:
    clock.advance(1000 * DAY)
    assert registry.prune(DAY).oldest == 10
    assert numbers(registry) == [10]
    assert priority(registry, 10) == [10]
    registry.remove(GREY.key, who="alice")
    clock.advance(1000 * DAY)
    assert registry.prune(DAY).registrations == 1
    assert (registry.generation(), list(registry.list())) == (11, [])


def test_an_empty_registry_has_nothing_to_prune(registry_url: str) -> None:
    with Registry.open(registry_url) as empty:
        assert not empty.prune(DAY)
        assert not empty.diff(0)


def test_many_rows_go_in_steps_and_several_hosts_may_do_it(registry_url: str, clock: ManualClock) -> None:
    many = [replace(GREY, type=Type.SENDER, address=f"{number}@example.org") for number in range(2500)]
    with Registry.open(registry_url, 30, clock=clock.now) as registry:
        registry.apply(many, who="alice")
        registry.apply([replace(each, priority=7) for each in many], who="alice")
        clock.advance(2 * DAY)
        others = [Registry.open(registry_url, 30, clock=clock.now) for _ in range(3)]
        with ThreadPoolExecutor(3) as threads:
            gone = list(threads.map(lambda each: each.prune(DAY), others))
        for each in others:
            each.close()
        assert sum(each.registrations for each in gone) == 2500
        assert sum(each.generations for each in gone) == 1
        assert {each.priority for each in registry.list()} == {7}


def test_a_prune_that_was_interrupted_is_finished_by_the_next(registry: Registry) -> None:
    with registry.change("") as change:
        assert change.forget(7).generations == 6
    assert priority(registry, 7) == [7]
    assert registry.prune(3.5 * DAY).registrations == 6
