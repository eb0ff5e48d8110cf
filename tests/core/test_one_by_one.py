"""One call may answer differently for each of its recipients; and a plugin may be a service that handles no mail."""

from __future__ import annotations

from collections.abc import Iterable

import click
import pytest
from core.test_pipeline import BOB, CAROL, DAVE, Room, on
from postroom.config import Config, parse_config
from postroom.hookspecs import Diagnosis, FindingLevel, hookimpl
from postroom.mail import AddField, Address, Envelope
from postroom.plugins import Extension, InvalidPlugin, load_plugin
from postroom.registration import Mode
from postroom.services.directory import ConfigDirectory, open_directory
from postroom.verdict import Action, Verdict, deferred, one_by_one, passed, rejected, skipped


def actions(outcome: object) -> dict[Address, Action]:
    return {each: what.action for each, what in outcome.dispositions.items()}  # type: ignore[attr-defined]  # an Outcome


def test_each_recipient_gets_its_own_answer_and_the_rest_the_common_one() -> None:
    seen: list[tuple[Address, ...]] = []
    verdict = one_by_one({BOB: deferred("full"), CAROL: passed(AddField(b"X-Carol", b" 1"))}, skipped("fits"))
    room = Room()
    room.handler("a", lambda *_: verdict)

    def look(mail: Envelope, *_: object) -> Verdict:
        seen.append(mail.recipients)
        return skipped()

    room.handler("b", look)
    outcome = room.run()
    assert actions(outcome) == {BOB: Action.DEFER, CAROL: Action.PASS, DAVE: Action.PASS}
    assert outcome.messages[CAROL].get(b"X-Carol") == "1"
    assert outcome.messages[DAVE].get(b"X-Carol") is None
    assert sorted(seen, key=len) == [(CAROL,), (DAVE,)]  # their mails differ: each sees its own
    assert {
        facts["recipients"][0]: facts["reason"] for facts in room.events("during call 'a'") if "reason" in facts
    } == {
        str(BOB): "full",
        str(DAVE): "fits",
    }


def test_recipients_with_the_same_answer_are_one_line_of_the_log() -> None:
    room = Room().handler("a", lambda *_: one_by_one({BOB: deferred("full"), DAVE: deferred("full")}, skipped()))
    room.run()
    assert sorted(facts["recipient_count"] for facts in room.events("during call")) == [1, 2]


def test_an_answer_for_somebody_else_is_a_failure() -> None:
    room = Room().handler("a", lambda *_: one_by_one({Address("x@elsewhere"): rejected("no")}, skipped()))
    assert set(actions(room.run()).values()) == {Action.DEFER}
    assert "whom it was not asked about" in room.events("during call")[0]["reason"]


@pytest.mark.parametrize("answer", [one_by_one({BOB: rejected("no")}, skipped()), skipped(finding=3), "REJECT"])
def test_answers_do_not_nest(answer: Verdict) -> None:
    room = Room().handler("a", lambda *_: one_by_one({BOB: answer}, skipped()))
    assert set(actions(room.run()).values()) == {Action.DEFER}


def test_edits_of_single_recipients_are_checked_too() -> None:
    bad = passed(AddField(b"X-Evil\r\nBcc", b" x"))
    room = Room().handler("a", lambda *_: one_by_one({BOB: bad}, skipped()))
    assert set(actions(room.run()).values()) == {Action.DEFER}


def test_in_shadow_nobody_is_touched() -> None:
    room = Room().handler("a", lambda *_: one_by_one({BOB: rejected("no")}, skipped()), on("a", mode=Mode.SHADOW))
    assert set(actions(room.run()).values()) == {Action.PASS}


class Service:
    @hookimpl
    def commands(self) -> click.Command:
        return click.Command("books")

    @hookimpl
    def diagnose(self) -> Iterable[Diagnosis]:
        return [Diagnosis(FindingLevel.OK, "books", "balanced")]


class HalfHandler(Service):
    @hookimpl
    def before_data(self) -> Verdict:
        return skipped()


def test_a_plugin_may_bring_commands_and_a_diagnosis_alone() -> None:
    loaded = load_plugin("books", Service(), Config(), "postroom-books", "1.0")
    assert isinstance(loaded, Extension)
    assert set(loaded.hooks) == {"commands", "diagnose"}


def test_a_handler_that_forgot_to_describe_itself_is_no_service() -> None:
    with pytest.raises(InvalidPlugin, match="no hook `describe`"):
        load_plugin("books", HalfHandler(), Config())


def test_without_a_provider_the_configuration_tells_who_is_ours() -> None:
    assert isinstance(open_directory(Config()), ConfigDirectory)


def test_a_provider_that_is_not_installed_stops_the_start() -> None:
    with pytest.raises(Exception, match=r"\[directory\]: provider: there is no directory service 'nowhere'"):
        open_directory(parse_config('[directory]\nprovider = "nowhere"', "f.toml"))
