"""What tests of greylisting do: receive mails as a worker would, and run its commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from click.testing import CliRunner, Result
from postroom.config import Duration, RedisSettings
from postroom.hookspecs import Services
from postroom.mail import Envelope
from postroom.registration import Registration
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices, ManualClock, envelope
from postroom.verdict import Verdict
from postroom_grey.commands import grey
from postroom_grey.handler import GreyFinding, GreyHandler
from postroom_grey.settings import GreySettings


class Desk:
    """A worker: one handler, its settings, and the mails that come in."""

    def __init__(self, services: FakeServices, settings: GreySettings | None = None) -> None:
        self.services, self.handler = services, GreyHandler()
        self.settings = settings or GreySettings()

    @property
    def clock(self) -> ManualClock:
        return self.services.clock

    def receive(self, envelope: Envelope) -> Verdict:
        return self.handler.before_data(envelope, self.settings, self.services)


class Failed(click.ClickException):
    """As the core ends a command."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click gives it to the class, and reads it from the instance


class FakeEnvironment:
    """What commands find in their context; keeps what was shown."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self.config = services.config
        self.as_json = False
        self.shown: list[tuple[Any, ...]] = []

    def services(self, handler: str) -> Services:
        return self._services

    def settings(self, handler: str) -> GreySettings:
        return GreySettings()

    def registrations(self, handler: str) -> Sequence[Registration]:
        return ()

    def show(self, columns: Sequence[str], rows: Any, *, title: str = "") -> None:
        self.shown = [tuple(row) for row in rows]
        assert all(len(row) == len(columns) for row in self.shown)

    def fail(self, message: str, status: int = 1) -> NoReturn:
        raise Failed(message, status)


class Console:
    """Runs `postroom grey …`."""

    def __init__(self, services: FakeServices) -> None:
        self.services = services
        self.shown: list[tuple[Any, ...]] = []

    def run(self, *words: str) -> Result:
        environment = FakeEnvironment(self.services)
        result = CliRunner().invoke(grey, list(words), obj=environment)
        self.shown = environment.shown
        return result

    def __call__(self, *words: str) -> str:
        """One that has to succeed."""
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return str(result.output)

    def table(self, *words: str) -> dict[Any, tuple[Any, ...]]:
        """What it shows, by first column."""
        self(*words)
        return {row[0]: row[1:] for row in self.shown}


def receive_in_a_process(url: str, directory: str, barrier: Any, answers: Any) -> None:
    """One mail in a process of its own, begun together with others."""
    state = RedisOrFiles(RedisSettings(url=url, timeout=Duration(5)), Path(directory))
    desk = Desk(FakeServices(Path(directory), state=state))
    barrier.wait(30)
    finding = desk.receive(envelope()).finding
    assert isinstance(finding, GreyFinding)
    assert finding.decisions[0].attempted is not None
    answers.put(str(finding.decisions[0].attempted.result))
