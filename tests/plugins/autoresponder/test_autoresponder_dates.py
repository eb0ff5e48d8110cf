"""When a responder begins and ends, across time zones and clock changes."""

from __future__ import annotations

from datetime import datetime

import pytest
from plugins.autoresponder.responding import BOB, Console, Desk
from postroom.testing import FakeServices, ManualClock
from postroom_autoresponder.calendar import begins_at, check_moment, check_zone, ends_at
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.settings import AutoresponderSettings

HOUR = 3600


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("start", "end", "zone", "begins", "ends"),
    [
        ("2026-12-24", "2026-12-26", "UTC", "2026-12-24T00:00+00:00", "2026-12-27T00:00+00:00"),
        ("2026-12-24", "2026-12-26", "Europe/Berlin", "2026-12-23T23:00+00:00", "2026-12-26T23:00+00:00"),
        ("2026-12-24", "2026-12-26", "Pacific/Kiritimati", "2026-12-23T10:00+00:00", "2026-12-26T10:00+00:00"),
        ("2026-12-24", "2026-12-26", "America/Los_Angeles", "2026-12-24T08:00+00:00", "2026-12-27T08:00+00:00"),
        (
            "2026-12-24T17:00",
            "2026-12-26 08:30:15",
            "Asia/Kolkata",
            "2026-12-24T11:30+00:00",
            "2026-12-26T03:00:15+00:00",
        ),
        # a day of 23 hours, and one of 25
        ("2026-03-29", "2026-03-29", "Europe/Berlin", "2026-03-28T23:00+00:00", "2026-03-29T22:00+00:00"),
        ("2026-10-25", "2026-10-25", "Europe/Berlin", "2026-10-24T22:00+00:00", "2026-10-25T23:00+00:00"),
        # a time that the clock change leaves out, and one that comes twice: the first
        ("2026-03-29T02:30", "2026-10-25T02:30", "Europe/Berlin", "2026-03-29T01:30+00:00", "2026-10-25T00:30+00:00"),
    ],
)
def test_begin_and_end_are_local_to_the_zone(start: str, end: str, zone: str, begins: str, ends: str) -> None:
    assert begins_at(check_moment(start), zone) == at(begins)
    assert ends_at(check_moment(end), zone) == at(ends)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Auckland", "America/St_Johns"])
def test_it_answers_from_the_first_moment_to_the_last(here: FakeServices, zone: str) -> None:
    Console(here).set(
        "--text", "x", "--start", "2026-07-01", "--end", "2026-07-14", "--time-zone", zone, "--interval", "0"
    )
    begins, ends = begins_at("2026-07-01", zone), begins_at("2026-07-15", zone)
    found = []
    for moment in (begins - 1, begins, ends - 1, ends):
        here.clock = ManualClock(moment)
        found.append(Desk(here).receive())
    assert found == [Silence.BEFORE_START, None, None, Silence.AFTER_END]


def test_the_handlers_zone_holds_where_the_responder_has_none(here: FakeServices) -> None:
    settings = AutoresponderSettings(time_zone="Asia/Tokyo")
    Console(here).set("--text", "x", "--start", "2023-11-15")
    assert Desk(here).receive() is Silence.BEFORE_START  # it is 22:13 of the day before in UTC, and the day in Tokyo
    assert Desk(here, settings).receive() is None


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "/etc/passwd", "../../etc/passwd", "Europe", "Europe/Berlin\0"])
def test_what_is_no_zone_is_refused(here: FakeServices, name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        check_zone(name)
    if "\0" not in name and name:
        assert Console(here).run("set", BOB, "--text", "x", "--time-zone", name).exit_code == 2


@pytest.mark.parametrize(
    "text", ["tomorrow", "2026-13-01", "2026-02-30", "20260101", "2026-01-01T25:00", "2026-W01-1", ""]
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no date"):
        check_moment(text)


def test_an_end_before_the_start_is_refused(here: FakeServices) -> None:
    result = Console(here).run("set", BOB, "--text", "x", "--start", "2026-07-02", "--end", "2026-07-01")
    assert result.exit_code == 2
    assert "it would end (2026-07-01) before it starts (2026-07-02)" in result.output


def test_the_last_day_that_there_is_never_ends(here: FakeServices) -> None:
    """People write it for "until I say otherwise"."""
    Console(here).set("--text", "I am away until ${end}.", "--start", "0001-01-01", "--end", "9999-12-31")
    desk = Desk(here)
    assert desk.receive() is None
    desk.clock.advance(5000 * 365 * 86400)
    assert desk.receive() is None
