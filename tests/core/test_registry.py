"""The registry over both databases: what it holds, what a mail sees of it, and every change kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from postroom.registration import InvalidRegistration, Mode, OnError, Registration, Stage, Type
from postroom.registry import AlreadyRegistered, Difference, Filter, NotRegistered, Registry, RegistryError, schema
from sqlalchemy import Connection, create_engine, text

GREY = Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, priority=5, enabled=True)
SPF = Registration("spf", Stage.BEFORE_QUEUE, Type.GLOBAL, enabled=False)
SCAN = Registration(
    "scan",
    Stage.BEFORE_LOCAL,
    Type.RECIPIENT,
    "bob@example.org",
    20,
    True,
    'text="a, b"\n\u00e9',
    Mode.SHADOW,
    OnError.QUARANTINE,
    "/usr/bin/scan",
)
EVERYTHING = [(Type.GLOBAL, ""), (Type.RECIPIENT, "bob@example.org")]


def ids(registrations: Iterator[Registration] | tuple[Registration, ...]) -> set[str]:
    return {registration.handler for registration in registrations}


def test_an_empty_registry_is_generation_0(registry: Registry) -> None:
    assert registry.generation() == 0
    assert registry.enabled() == frozenset()
    assert list(registry.list()) == []
    assert list(registry.history()) == []
    found = registry.matching(EVERYTHING, list(Stage))
    assert (found.generation, found.registrations) == (0, ())


def test_what_is_added_comes_back_whole(registry: Registry) -> None:
    for number, registration in enumerate((GREY, SPF, SCAN), 1):
        assert registry.add(registration, who="alice") == number
    assert list(registry.list()) == [GREY, SPF, SCAN]
    assert registry.get(SCAN.key) == SCAN
    assert registry.get(replace(SCAN, address="no@example.org").key) is None
    assert registry.handlers() == ["grey", "scan", "spf"]


def test_a_mail_sees_what_is_enabled_for_its_keys_and_stages(registry: Registry) -> None:
    for registration in (GREY, SPF, SCAN):
        registry.add(registration, who="alice")
    every = list(Stage)
    found = registry.matching(EVERYTHING, every)
    assert found.generation == 3
    assert set(found.registrations) == {GREY, SCAN}
    assert set(registry.matching(EVERYTHING, every, include_disabled=True).registrations) == {GREY, SPF, SCAN}
    assert registry.matching(EVERYTHING, [Stage.BEFORE_LOCAL]).registrations == (SCAN,)
    assert registry.matching([(Type.GLOBAL, "")], every).registrations == (GREY,)
    # the address of another type is not this address
    assert registry.matching([(Type.SENDER, "bob@example.org")], every).registrations == ()
    assert registry.matching([], every).registrations == ()
    assert registry.matching(EVERYTHING, []).registrations == ()


@pytest.mark.parametrize("count", [1, 63, 64, 65, 10_000])
def test_any_number_of_recipients_is_one_question(registry: Registry, count: int) -> None:
    registry.add(SCAN, who="alice")
    registry.add(replace(SCAN, address="0@example.org"), who="alice")
    keys = [(Type.RECIPIENT, f"{number}@example.org") for number in range(count - 1)] + [EVERYTHING[1]]
    found = registry.matching(keys, [Stage.BEFORE_LOCAL])
    assert {each.address for each in found.registrations} == {
        "bob@example.org",
        *(["0@example.org"] if count > 1 else []),
    }
    assert found.generation == 2


@pytest.mark.parametrize(
    "address", ["b\udcf6b@example.org", "b\0b@example.org", "b\u00f6b@example.org", "'\";--@example.org"]
)
def test_an_odd_address_of_a_mail_finds_the_others_rows(registry: Registry, address: str) -> None:
    registry.add(GREY, who="alice")
    found = registry.matching([(Type.GLOBAL, ""), (Type.RECIPIENT, address)], list(Stage))
    assert found.registrations == (GREY,)


def test_enabled_follows_every_change(registry: Registry) -> None:
    for registration in (GREY, SPF, SCAN, replace(SCAN, address="eve@example.org")):
        registry.add(registration, who="alice")
    both = {("grey", Stage.BEFORE_DATA, ""), ("scan", Stage.BEFORE_LOCAL, "/usr/bin/scan")}
    assert registry.enabled() == both
    registry.set_enabled(SPF.key, True, who="alice")
    assert registry.enabled() == both | {("spf", Stage.BEFORE_QUEUE, "")}
    registry.remove(SCAN.key, who="alice")
    assert ("scan", Stage.BEFORE_LOCAL, "/usr/bin/scan") in registry.enabled()  # eve's is still there
    registry.apply([SPF], who="alice")
    assert registry.enabled() == frozenset()
    assert registry.registered() == {("spf", Stage.BEFORE_QUEUE, "")}
    registry.remove(SPF.key, who="alice")
    assert registry.registered() == frozenset()


def test_enabled_finds_each_program_stage_and_handler(registry: Registry) -> None:
    wanted = [
        Registration(handler, stage, Type.RECIPIENT, f"{number}@example.org", enabled=True, executable=program)
        for handler in ("a", "b", "c")
        for stage in Stage
        for program in ("", "/bin/x", "/bin/y")
        for number in range(3)
    ]
    distinct = [replace(each, address=f"{number}@example.org") for number, each in enumerate(wanted)]
    registry.apply(distinct, who="alice")
    assert registry.enabled() == {(each.handler, each.stage, each.executable) for each in wanted}
    assert registry.registered() >= registry.enabled()
    assert len(registry.enabled()) == 3 * 4 * 3


def test_the_list_takes_filters(registry: Registry) -> None:
    for registration in (GREY, SPF, SCAN):
        registry.add(registration, who="alice")
    assert ids(registry.list(enabled=False)) == {"spf"}
    assert ids(registry.list(enabled=True)) == {"grey", "scan"}
    assert ids(registry.list(handler="spf")) == {"spf"}
    assert ids(registry.list(address="")) == {"grey", "spf"}
    assert ids(registry.list(type=Type.RECIPIENT)) == {"scan"}
    assert ids(registry.list(stage=Stage.BEFORE_QUEUE)) == {"spf"}
    assert ids(registry.list(handler="sp\udcf6")) == set()
    assert ids(registry.list(at=1)) == {"grey"}


def test_every_change_is_kept(registry_url: str) -> None:
    times = iter([100.0, 200.5, 300.0])
    with Registry.open(registry_url, clock=lambda: next(times)) as registry:
        registry.add(SPF, who="alice")
        registry.set_enabled(SPF.key, True, who="bob")
        registry.update(replace(SPF, enabled=True, priority=30), who="carol")
        made = list(registry.history())
        assert [(each.number, each.at, each.who) for each in made] == [
            (3, 300.0, "carol"),
            (2, 200.5, "bob"),
            (1, 100.0, "alice"),
        ]
        assert made[0].what == "set spf at before-queue for all (global): priority 10 -> 30"
        assert made[1].what == "enable spf at before-queue for all (global)"
        assert made[2].what == "add spf at before-queue for all (global): priority 10, disabled"
        assert [each.number for each in registry.history(limit=2)] == [3, 2]


def test_what_changes_nothing_is_no_generation(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    assert registry.set_enabled(GREY.key, True, who="alice") == 1
    assert registry.update(GREY, who="alice") == 1
    assert registry.apply([GREY], who="alice") == []
    assert registry.rollback(1, who="alice") == []
    assert registry.generation() == 1


def test_the_same_key_twice_and_no_such_key_are_refused(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    with pytest.raises(AlreadyRegistered, match="grey at before-data for all"):
        registry.add(replace(GREY, priority=9), who="alice")
    acts: list[Callable[[], int]] = [
        lambda: registry.remove(SPF.key, who="alice"),
        lambda: registry.update(SPF, who="alice"),
        lambda: registry.set_enabled(SPF.key, True, who="alice"),
    ]
    for act in acts:
        with pytest.raises(NotRegistered, match="spf at before-queue for all"):
            act()
    assert list(registry.list()) == [GREY]
    assert registry.generation() == 1


def test_an_exception_in_a_change_leaves_nothing(registry: Registry) -> None:
    registry.add(GREY, who="alice")

    def fail_midway() -> None:
        with registry.change("alice") as change:
            change.add(SPF)
            change.remove(GREY.key)
            raise KeyError

    with pytest.raises(KeyError):
        fail_midway()
    assert list(registry.list()) == [GREY]
    assert registry.generation() == 1


def test_a_change_of_several_is_one_generation_and_may_touch_one_twice(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    with registry.change("alice", "tidy") as change:
        change.add(SPF)
        change.update(replace(SPF, priority=3))
        change.update(replace(SPF, priority=4))
        change.remove(GREY.key)
        change.add(replace(GREY, priority=6))
    assert change.number == 2
    assert next(registry.history()).what == "tidy"
    assert list(registry.list()) == [replace(GREY, priority=6), replace(SPF, priority=4)]
    assert list(registry.list(at=1)) == [GREY]
    assert registry.diff(1, 2) == [
        Difference(GREY, replace(GREY, priority=6)),
        Difference(None, replace(SPF, priority=4)),
    ]


def test_differences_go_both_ways(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    registry.add(SCAN, who="alice")
    registry.update(replace(SCAN, context=""), who="alice")
    registry.remove(GREY.key, who="alice")
    changed = replace(SCAN, context="")
    assert registry.diff(2) == [Difference(GREY, None), Difference(SCAN, changed)]
    assert registry.diff(4, 2) == [Difference(None, GREY), Difference(changed, SCAN)]
    assert registry.diff(0, 4) == [Difference(None, changed)]
    assert registry.diff(3, 3) == []
    for number in (-1, 5):
        with pytest.raises(NotRegistered, match="the last one is 4"):
            registry.diff(number)


def test_a_generation_comes_back_and_can_be_undone(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    registry.add(SCAN, who="alice")
    registry.update(replace(GREY, priority=1), who="alice")
    registry.remove(SCAN.key, who="alice")
    registry.add(SPF, who="alice")
    assert [str(each)[0] for each in registry.rollback(2, who="alice")] == ["~", "-", "+"]
    assert list(registry.list()) == [GREY, SCAN]
    assert next(registry.history()).what == "roll back to generation 2"
    registry.rollback(5, who="alice")
    assert list(registry.list()) == [replace(GREY, priority=1), SPF]
    registry.rollback(0, who="alice")
    assert list(registry.list()) == []
    assert registry.enabled() == frozenset()
    with pytest.raises(NotRegistered):
        registry.rollback(99, who="alice")


def test_a_mail_keeps_the_generation_it_started_with(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    pinned = registry.matching(EVERYTHING, list(Stage))
    registry.set_enabled(GREY.key, False, who="alice")
    registry.add(SCAN, who="alice")
    assert registry.matching(EVERYTHING, list(Stage), at=pinned.generation) == pinned
    assert registry.matching(EVERYTHING, list(Stage)).registrations == (SCAN,)


def test_apply_makes_the_registry_equal_to_what_is_wanted(registry: Registry) -> None:
    registry.add(GREY, who="alice")
    registry.add(SCAN, who="alice")
    found = registry.apply([SPF, replace(GREY, priority=7)], who="bob")
    assert found == [Difference(GREY, replace(GREY, priority=7)), Difference(None, SPF), Difference(SCAN, None)]
    assert list(registry.list()) == [replace(GREY, priority=7), SPF]
    assert registry.generation() == 3


def test_many_rows_in_one_change(registry: Registry) -> None:
    wanted = [replace(SCAN, address=f"{number:05}@example.org") for number in range(2500)]
    registry.apply(wanted, who="alice")
    assert list(registry.list()) == wanted
    registry.apply([replace(each, enabled=False) for each in wanted], who="alice")
    assert registry.generation() == 2
    assert registry.enabled() == frozenset()
    assert len(registry.rollback(1, who="alice")) == 2500
    assert list(registry.list()) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GREY, handler="a/b"),
        replace(GREY, handler=""),
        replace(GREY, priority=16385),
        replace(GREY, address="bob@example.org"),
        replace(SCAN, address="Bob@Example.org"),
        replace(SCAN, address="b\udcf6b@example.org"),
        replace(SCAN, context="a\0b"),
        replace(SCAN, context="x" * 65537),
        replace(SCAN, executable="bin/scan"),
    ],
)
def test_what_nobody_can_mean_is_refused(registry: Registry, wrong: Registration) -> None:
    with pytest.raises(InvalidRegistration) as caught:
        registry.add(wrong, who="alice")
    assert "\n" not in str(caught.value)
    assert registry.generation() == 0


def test_a_change_by_another_is_seen_at_once(registry_url: str) -> None:
    with Registry.open(registry_url) as one, Registry.open(registry_url) as other:
        assert one.enabled() == frozenset()
        other.add(GREY, who="bob")
        assert one.generation() == 1
        assert one.enabled() == {("grey", Stage.BEFORE_DATA, "")}
        assert one.matching(EVERYTHING, list(Stage)).registrations == (GREY,)


def test_writers_at_the_same_time_lose_nothing(registry_url: str) -> None:
    registries = [Registry.open(registry_url, 30) for _ in range(4)]
    registries[0].add(SPF, who="alice")
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for step in range(10):
            registries[number].add(replace(SCAN, address=f"{number}-{step}@example.org"), who=str(number))
            with registries[number].change(str(number)) as change:  # read and write: a lost update would show
                before = change.require(SPF.key)
                change.update(replace(before, priority=before.priority + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert registries[0].get(SPF.key) == replace(SPF, priority=10 + 40)
    assert len(list(registries[0].list(handler="scan"))) == 40
    assert [each.number for each in registries[0].history()] == list(range(81, 0, -1))
    for opened in registries:
        opened.close()


def test_readers_see_whole_generations_while_a_writer_writes(registry: Registry) -> None:
    pair = [replace(GREY, handler=name) for name in ("one", "two")]
    registry.apply(pair, who="alice")
    done = threading.Event()

    def look() -> set[tuple[int, ...]]:
        seen: set[tuple[int, ...]] = set()
        while not done.is_set():
            found = registry.matching([(Type.GLOBAL, "")], [Stage.BEFORE_DATA])
            priorities = tuple(sorted(each.priority for each in found.registrations))
            assert priorities == (found.generation + 4,) * 2
            seen.add(priorities)
        return seen

    with ThreadPoolExecutor(3) as pool:
        looks = [pool.submit(look) for _ in range(3)]
        try:
            for priority in range(6, 30):
                registry.apply([replace(each, priority=priority) for each in pair], who="alice")
        finally:
            done.set()
        assert len(set().union(*(each.result() for each in looks))) > 1


def test_a_change_reads_what_it_wrote(registry: Registry) -> None:
    with registry.change("alice") as change:
        change.add(GREY)
        assert change.find(Filter(handler="grey")) == [GREY]
        assert list(registry.list()) == []


def test_a_newer_schema_is_refused_in_one_line(registry_url: str) -> None:
    Registry.open(registry_url).close()
    engine = create_engine(registry_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    engine.dispose()
    with pytest.raises(RegistryError, match=r"schema 99 is newer .* upgrade postroom") as caught:
        Registry.open(registry_url)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


def test_an_older_schema_is_led_to_the_new_one_in_place(registry: Registry) -> None:
    def broken(connection: Connection) -> None:
        add_host(connection)
        raise KeyError

    def add_host(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE generation ADD COLUMN host TEXT"))

    def hosts() -> list[tuple[object, ...]]:
        return registry._database.query("SELECT g.host, v.version FROM generation AS g, schema_version AS v", {})

    registry.add(GREY, who="alice")
    writer = registry._writing()
    with pytest.raises(KeyError):
        writer.migrate([*schema.STEPS, broken])
    with pytest.raises(RegistryError, match="host"):
        hosts()  # it failed as a whole
    writer.migrate([*schema.STEPS, add_host])
    assert hosts() == [(None, 2)]
    writer.migrate([*schema.STEPS, add_host])  # it is there already
    assert list(registry.list()) == [GREY]
    with pytest.raises(RegistryError, match="schema 2 is newer"):
        writer.migrate()
