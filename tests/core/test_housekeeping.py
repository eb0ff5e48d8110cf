"""What is too old goes by itself: at the start and now and then, beside the mail, and nobody waits for it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from core.server_process import LIMIT, MILTER, Server
from postroom.config import Config, ConfigError, Duration, Paths, parse_config
from postroom.mail import parse_message
from postroom.quarantine import Quarantine
from postroom.registration import Registration, Stage, Type
from postroom.registry import Registry
from postroom.server.housekeeper import Housekeeper
from postroom.server.housekeeping import tidy
from postroom.server.steady_clock import SET_BACK, TRIAL, steady_at
from postroom.testing import ManualClock, envelope

MAIL = b"Subject: hello\r\n\r\nhello\r\n"
DAY = 86400.0
OFTEN = MILTER + '[server]\nhousekeeping = "1s"\n[registry]\nhistory = 0\n'


def hold(state: Path, clock: ManualClock) -> str:
    mail = envelope("a@sender.test", "bob@local.test")
    return Quarantine(state / "quarantine", clock).keep(mail, Stage.BEFORE_LOCAL, parse_message(MAIL), "why", "spam")


def steady(state: Path, now: float) -> None:
    """As if the server had looked at the clock for long."""
    assert steady_at(state / "housekeeping.json", now - TRIAL) == now
    steady_at(state / "housekeeping.json", now)


@dataclass
class Notes:
    """A log."""

    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def debug(self, event: str, **facts: Any) -> None:
        self.lines.append(("debug", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.lines.append(("error", event, facts))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(paths=Paths(state=tmp_path / "state", run=tmp_path / "run"))


def test_one_line_says_how_much_went(config: Config) -> None:
    clock, log = ManualClock(), Notes()
    hold(config.paths.state, clock)
    with Registry.open(config.registry_url, clock=clock.now) as registry:
        found = Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL)
        registry.add(found, who="alice")
        registry.update(replace(found, priority=7), who="alice")
    clock.advance(31 * DAY)
    steady(config.paths.state, clock.now())
    tidy(config, clock, log)
    clock.advance(365 * DAY)
    steady(config.paths.state, clock.now())
    tidy(config, clock, log)
    tidy(config, clock, log)
    first, second, third = log.lines
    assert first[:2] == second[:2] == ("info", "housekeeping")
    assert [first[2][name] for name in ("mails", "octets", "generations")] == [1, len(MAIL), 0]
    assert [second[2][name] for name in ("mails", "generations", "registrations")] == [0, 1, 1]
    assert third[0] == "debug"


def test_nothing_goes_by_a_clock_that_was_just_set(config: Config) -> None:
    clock, log = ManualClock(), Notes()
    hold(config.paths.state, clock)
    tidy(config, clock, log)  # the server is new
    steady(config.paths.state, clock.now())
    clock.advance(31 * DAY)  # a jump: for the server one hour has gone by
    for _ in range(24):
        tidy(config, clock, log)
        clock.advance(3600)
    clock.advance(-200)  # corrected by a time daemon
    assert {line[1] for line in log.lines} == {"housekeeping waits"}
    clock.advance(200)
    tidy(config, clock, log)
    assert (log.lines[-1][1], log.lines[-1][2]["mails"]) == ("housekeeping", 1)


@pytest.mark.parametrize("found", ["", "[]", "{}", '{"since": 1, "last": "x"}', "\0"])
def test_a_note_of_the_clock_that_is_none_begins_anew(tmp_path: Path, found: str) -> None:
    note = tmp_path / "new" / "note"
    assert steady_at(note, 5e9) == 5e9 + TRIAL
    note.write_text(found)
    assert steady_at(note, 6e9) == 6e9 + TRIAL
    assert steady_at(note, 6e9 - SET_BACK - 1) == 6e9 - SET_BACK - 1 + TRIAL
    assert [each.name for each in note.parent.iterdir()] == ["note"]


def test_a_clock_that_cannot_be_noted_deletes_nothing(config: Config) -> None:
    clock, log = ManualClock(), Notes()
    hold(config.paths.state, clock)
    (config.paths.state / "housekeeping.json").mkdir()
    clock.advance(31 * DAY)
    tidy(config, clock, log)
    assert [line[:2] for line in log.lines] == [("error", "housekeeping fails")]


def test_0_keeps_everything_for_ever(config: Config) -> None:
    clock, log = ManualClock(), Notes()
    hold(config.paths.state, clock)
    forever = replace(
        config,
        quarantine=replace(config.quarantine, keep=Duration(0)),
        registry=replace(config.registry, history=Duration(0)),
    )
    clock.advance(10000 * DAY)
    steady(config.paths.state, clock.now())
    tidy(forever, clock, log)
    assert [line[0] for line in log.lines] == ["debug"]
    assert len(list(Quarantine(config.paths.state / "quarantine", clock).list())) == 1


def test_what_cannot_be_done_is_logged_and_the_rest_is_done(config: Config) -> None:
    clock, log = ManualClock(), Notes()
    hold(config.paths.state, clock)
    clock.advance(31 * DAY)
    steady(config.paths.state, clock.now())
    (config.paths.state / "registry.sqlite").write_bytes(b"no database" * 1000)
    tidy(config, clock, log)
    failed, done = log.lines
    assert failed[:2] == ("error", "history is not pruned")
    assert "registry.sqlite" in failed[2]["why"]
    assert done[2]["mails"] == 1


def test_the_first_is_due_at_once_and_the_next_after_the_interval() -> None:
    clock = ManualClock()
    housekeeper = Housekeeper(lambda config: None, clock.monotonic)
    config = Config()
    assert housekeeper.due(config) == clock.monotonic()
    began = clock.monotonic()
    housekeeper.start(config, closing=(), crashed=lambda error: None)
    assert housekeeper.due(config) is None
    end = time.monotonic() + LIMIT
    while housekeeper.pid and time.monotonic() < end:
        housekeeper.reap()
        time.sleep(0.01)
    assert housekeeper.due(config) == began + 3600
    never = replace(config, server=replace(config.server, housekeeping=Duration(0)))
    assert housekeeper.due(never) is None
    assert Housekeeper(None).due(config) is None


def test_the_server_does_it_at_the_start_and_again(tmp_path: Path) -> None:
    long_ago = ManualClock(time.time() - 31 * DAY)
    hold(tmp_path / "state", long_ago)
    young = hold(tmp_path / "state", ManualClock(time.time() - 29 * DAY))
    steady(tmp_path / "state", time.time())
    with Server(tmp_path, OFTEN, {"HOUSEKEEPING": "tidy"}) as server:
        line = server.wait_line("housekeeping")
        assert (line.facts["mails"], line.facts["octets"]) == ("1", str(len(MAIL)))
        hold(tmp_path / "state", long_ago)
        hold(tmp_path / "state", long_ago)
        server.wait(lambda: sum(int(each.facts["mails"]) for each in server.lines("housekeeping")) == 3, "the others")
        with server.connect() as client:
            client.ask()
        server.signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
    assert [held.id for held in Quarantine(tmp_path / "state/quarantine", long_ago).list()] == [young]


def test_nobody_waits_for_one_that_is_stuck(tmp_path: Path) -> None:
    with Server(tmp_path, OFTEN, {"HOUSEKEEPING": "stuck"}) as server:
        assert int(server.wait_line("stuck").facts["nice"]) > 0
        with server.connect() as client:
            client.ask()
        server.signal(signal.SIGHUP)
        server.wait_serving(2)
        with server.connect() as client:
            client.ask()
        (line,) = server.lines("stuck")
        server.signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.facts["process"]), 0)


def test_one_that_breaks_is_logged_and_tried_again(tmp_path: Path) -> None:
    with Server(tmp_path, OFTEN, {"HOUSEKEEPING": "broken"}) as server:
        server.wait_line("housekeeping failed", 2)
        with server.connect() as client:
            client.ask()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[registry]\nhistory = "1h"', "less than 1d"),
        ('[server]\nhousekeeping = "1ms"', "too often"),
        ("[quarantine]\nkeep = -1", "keep"),
    ],
)
def test_settings_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(text, "postroom.toml")
