"""`postroom spf …` and what `postroom doctor` asks of spf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result
from plugins.spf.spf_desk import Desk
from postroom.config import build, parse_config
from postroom.hookspecs import FindingLevel, Services
from postroom.registration import OnError, Registration, Stage, Type
from postroom.testing import DeadResolver
from postroom_spf.commands import spf
from postroom_spf.settings import SpfSettings

OURS = ("exempt", "timeout", "on_error", "on_error_for")  # keys of [handlers.spf] that are the core's


class FakeEnvironment:
    """What commands find in their context; keeps what was shown."""

    def __init__(self, desk: Desk, registrations: Sequence[Registration] = ()) -> None:
        self._desk, self._registrations = desk, registrations
        self.config = desk.services.config
        self.as_json = False
        self.shown: list[dict[str, Any]] = []

    def services(self, handler: str) -> Services:
        return self._desk.services

    def settings(self, handler: str) -> SpfSettings:
        return settings_of(self._desk)

    def registrations(self, handler: str) -> Sequence[Registration]:
        return self._registrations

    def show(self, columns: Sequence[str], rows: Any, *, title: str = "") -> None:
        self.shown += [dict(zip(columns, row, strict=True)) for row in rows]

    def fail(self, message: str, status: int = 1) -> NoReturn:
        raise AssertionError(message)


def settings_of(desk: Desk) -> SpfSettings:
    table = {key: value for key, value in desk.services.config.handlers.get("spf", {}).items() if key not in OURS}
    return build(SpfSettings, table, "test")


def run(environment: FakeEnvironment, *words: str) -> Result:
    return CliRunner().invoke(spf, list(words), obj=environment)


WHO = ("--client", "203.0.113.5", "--sender", "alice@sender.example", "--helo", "h.example")


def test_check_shows_result_record_and_steps(desk: Desk) -> None:
    desk.policy("v=spf1 ip4:203.0.113.5 -all")
    environment = FakeEnvironment(desk)
    result = run(environment, "check", *WHO)
    assert result.exit_code == 0, result.output
    found = {row["what"]: row["found"] for row in environment.shown if "what" in row}
    assert (found["result"], found["by"], found["mechanism"]) == ("pass", "record", "ip4:203.0.113.5")
    assert found["header"].startswith("Received-SPF: pass (")
    steps = [row["what was done"] for row in environment.shown if "step" in row]
    assert "record sender.example: v=spf1 ip4:203.0.113.5 -all" in steps


def test_check_says_no_when_the_mail_would_be_refused(desk: Desk) -> None:
    desk.policy("v=spf1 -all")
    assert run(FakeEnvironment(desk), "check", *WHO).exit_code == 0  # level 1 refuses nothing
    environment = FakeEnvironment(desk)
    result = run(environment, "check", *WHO, "--context", "level=3", "--json")
    assert result.exit_code == 1
    (found,) = environment.shown
    assert found["reply"].startswith("550 5.7.23 ")
    assert found["mail"] == "refused"
    assert len(found["steps"]) == 4


def test_check_of_the_null_sender_is_about_helo(desk: Desk) -> None:
    desk.policy("v=spf1 -all", "h.example")
    environment = FakeEnvironment(desk)
    assert run(environment, "check", "--client", "2001:db8::1", "--sender", "", "--helo", "h.example").exit_code == 0
    assert {"what": "identity", "found": "helo"} in environment.shown


def test_check_of_both_identities_is_one_list_in_json(desk: Desk) -> None:
    desk.policy("v=spf1 ?all")
    environment = FakeEnvironment(desk)
    assert run(environment, "check", *WHO, "--context", "check_helo=always", "--json").exit_code == 0
    assert [row["identity"] for row in environment.shown] == ["helo", "mailfrom"]


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--client", "192.0.2", "--sender", "a@b.example"),
        ("check", *WHO, "--context", "level=9"),
        ("check", "--sender", "a@b.example"),
    ],
)
def test_wrong_usage_is_two(desk: Desk, words: tuple[str, ...]) -> None:
    assert run(FakeEnvironment(desk), *words).exit_code == 2


def registration(context: str, on_error: OnError | None = None) -> Registration:
    return Registration("spf", Stage.BEFORE_QUEUE, Type.GLOBAL, context=context, on_error=on_error, enabled=True)


def test_status_shows_what_each_registration_refuses(desk: Desk) -> None:
    environment = FakeEnvironment(
        desk,
        [
            registration(""),
            registration("level=3"),
            registration("level=6, debug", OnError.DEFER),
            registration("", OnError.REJECT),
            registration("level=x"),
        ],
    )
    assert run(environment, "status").exit_code == 0
    plain, three, six, odd, broken = environment.shown
    assert (plain["level"], plain["deferred"], plain["refused"], plain["remark"]) == (1, [], [], "")
    assert (three["deferred"], three["refused"]) == (["temperror"], ["fail"])
    assert "set on_error defer" in three["remark"]
    assert six["refused"] == ["none", "neutral", "fail", "softfail", "permerror"]
    assert six["remark"] == ""
    assert "set on_error skip" in odd["remark"]
    assert "level" in broken["remark"]


def diagnose(desk: Desk, text: str = "") -> list[tuple[FindingLevel, str]]:
    desk.services.config = parse_config(text, "test")
    return [(found.level, found.text) for found in desk.handler.diagnose(settings_of(desk), desk.services)]


def test_doctor_is_content_with_the_defaults(desk: Desk) -> None:
    ((level, text),) = diagnose(desk)
    assert level is FindingLevel.OK
    assert "/etc/resolv.conf" in text


def test_doctor_finds_dead_nameservers(desk: Desk) -> None:
    desk.services.dns = DeadResolver()
    (found,) = desk.handler.diagnose(SpfSettings(), desk.services)
    assert found.level is FindingLevel.ERROR
    assert "[dns] nameservers" in found.remedy


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("[handlers.spf]\nlevel = 1\non_error = 'defer'\n", "level 1 refuses no mail"),
        ("[handlers.spf]\nlevel = 3\n", "level 3 refuses mail"),
        ("[host]\nnetworks = ['10.0.0.0/8']\nrelays = ['10.1.1.1/32', '2001:db8::1/128']\n", "gateway 10.1.1.1/32"),
        ("[handlers.spf]\nlevel = 3\non_error = 'defer'\n", ""),
    ],
)
def test_doctor_finds_settings_at_odds(desk: Desk, text: str, remark: str) -> None:
    odds = [told for level, told in diagnose(desk, text) if level is FindingLevel.WARNING]
    assert [told[: len(remark)] for told in odds] == ([remark] if remark else [])
