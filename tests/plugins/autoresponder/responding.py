"""What tests of the autoresponder do: receive mails as a worker would, and run its commands."""

from __future__ import annotations

import email
import email.policy
import itertools
import os
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NoReturn

import click
from click.testing import CliRunner, Result
from postroom.authentication_results import FINDING, Results
from postroom.config import Duration, RedisSettings
from postroom.hookspecs import Services
from postroom.mail import AuthenticationResult, Envelope
from postroom.registration import Registration
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices, ManualClock, envelope, message
from postroom.verdict import Action, Verdict
from postroom_autoresponder.commands import autoresponder
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.handler import AutoresponderFinding, AutoresponderHandler
from postroom_autoresponder.settings import AutoresponderSettings

ALICE, BOB = "alice@sender.example", "bob@recipient.example"
MAIL = b"From: Alice <alice@sender.example>\r\nTo: bob@recipient.example\r\nSubject: hello\r\n\r\nhello\r\n"
DAY = 86400

_queue_ids = itertools.count(1)


def vouch(domain: str = "sender.example", method: str = "spf") -> Results:
    name = {"spf": "smtp.mailfrom", "dkim": "header.d", "dmarc": "header.from"}.get(method, "x.y")
    return Results("mx.example", (AuthenticationResult(method, "pass", ((name, domain),)),))


class Desk:
    """A worker: one handler, its settings, and the mails that come in; each has a queue id of its own."""

    def __init__(self, services: FakeServices, settings: AutoresponderSettings | None = None) -> None:
        self.services, self.handler = services, AutoresponderHandler()
        self.settings = settings or AutoresponderSettings()
        services.findings.setdefault(FINDING, vouch())

    @property
    def clock(self) -> ManualClock:
        return self.services.clock

    def verdict(self, octets: bytes = MAIL, **facts: Any) -> Verdict:
        facts = {"sender": ALICE, "recipient": BOB, "queue_id": f"4Q{next(_queue_ids)}", **facts}
        made: Envelope = envelope(facts.pop("sender"), facts.pop("recipient"), **facts)
        return self.handler.before_local(made, message(octets), self.settings, self.services)

    def receive(self, octets: bytes = MAIL, **facts: Any) -> Silence | None:
        """Why there was no reply; None: there was one."""
        verdict = self.verdict(octets, **facts)
        assert verdict.action is Action.PASS
        assert verdict.edits == ()
        assert isinstance(verdict.finding, AutoresponderFinding), verdict.reason
        return verdict.finding.silence

    @property
    def sent(self) -> list[Any]:
        submissions: list[Any] = self.services.reinject.submissions
        return submissions

    def reply(self) -> EmailMessage:
        """The last reply, parsed."""
        return parsed(self.sent[-1].mail)


def parsed(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets.replace(b"\r\n", b"\n"), policy=email.policy.default)


class Failed(click.ClickException):
    """As the core ends a command."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click gives it to the class, and reads it from the instance


class FakeEnvironment:
    """What commands find in their context; keeps what was shown, and what was registered in `registered`."""

    def __init__(self, services: FakeServices, registered: list[Registration], settings: AutoresponderSettings) -> None:
        self._services, self.registered, self._settings = services, registered, settings
        self.config = services.config
        self.as_json = False
        self.shown: list[tuple[Any, ...]] = []

    def services(self, handler: str) -> Services:
        return self._services

    def settings(self, handler: str) -> AutoresponderSettings:
        return self._settings

    def registrations(self, handler: str) -> Sequence[Registration]:
        return list(self.registered)

    def register(self, registration: Registration) -> bool:
        known = any(each.key == registration.key for each in self.registered)
        if not known:
            self.registered.append(registration)
        return not known

    def unregister(self, registration: Registration) -> bool:
        before = len(self.registered)
        self.registered[:] = [each for each in self.registered if each.key != registration.key]
        return len(self.registered) != before

    def show(self, columns: Sequence[str], rows: Any, *, title: str = "") -> None:
        self.shown = [tuple(row) for row in rows]
        assert all(len(row) == len(columns) for row in self.shown)

    def fail(self, message: str, status: int = 1) -> NoReturn:
        raise Failed(message, status)


class Console:
    """Runs `postroom autoresponder …`."""

    def __init__(self, services: FakeServices, settings: AutoresponderSettings | None = None) -> None:
        self.services, self.settings = services, settings or AutoresponderSettings()
        self.shown: list[tuple[Any, ...]] = []
        self.registered: list[Registration] = []

    def run(self, *words: str, standard_input: bytes = b"") -> Result:
        environment = FakeEnvironment(self.services, self.registered, self.settings)
        result = CliRunner().invoke(autoresponder, list(words), obj=environment, input=standard_input)
        self.shown = environment.shown
        return result

    def __call__(self, *words: str, standard_input: bytes = b"") -> str:
        """One that has to succeed."""
        result = self.run(*words, standard_input=standard_input)
        assert result.exit_code == 0, result.output + repr(result.exception)
        return str(result.output)

    def set(self, *words: str, address: str = BOB) -> None:
        self("set", address, *(words or ("--text", "I am away.")))

    def counts(self, *words: str) -> dict[str, int]:
        """What `status` says of one mailbox."""
        self("status", *(words or (BOB,)))
        return {row[1]: row[2] for row in self.shown}


def receive_in_a_process(url: str, directory: str, barrier: Any, answers: Any) -> None:
    """One mail in a process of its own, begun together with others."""
    state = RedisOrFiles(RedisSettings(url=url, timeout=Duration(5)), Path(directory))
    desk = Desk(FakeServices(Path(directory), state=state))
    barrier.wait(30)
    silence = desk.receive(queue_id=f"4Q{os.getpid()}")
    answers.put((str(silence or "replied"), len(desk.sent)))
