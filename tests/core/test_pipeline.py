"""The pipeline makes the calls in order, contains every failure, and answers for each recipient."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postroom.config import Config, Duration, parse_config
from postroom.hookspecs import (
    CallRecord,
    HandlerInfo,
    MailRecord,
    Need,
    Placement,
    StateUnavailable,
    Unavailable,
    hookimpl,
)
from postroom.mail import AddField, Address, Edit, Envelope, Field, InsertField, Message, ReplaceMessage
from postroom.pipeline import Pipeline, PipelineUnavailable
from postroom.plugins import Handlers, Hook, LoadedHandler, Observer, load_plugin
from postroom.registration import Mode, OnError, Registration, Selection, Stage, Type
from postroom.services.lend import Lender
from postroom.testing import (
    ManualClock,
    RecordingLogger,
    RecordingReinjector,
    StaticDirectory,
    StaticResolver,
    envelope,
    message,
)
from postroom.verdict import Action, Category, Reply, Verdict, deferred, passed, quarantined, rejected, skipped, stopped

Answer = Callable[..., Any]
QUEUE = Stage.BEFORE_QUEUE
BOB, CAROL, DAVE = (Address(f"{name}@there.example") for name in ("bob", "carol", "dave"))


class Scripted:
    """A handler that does what the test says."""

    def __init__(self, answer: Answer, info: HandlerInfo) -> None:
        self.answer, self.info = answer, info

    @hookimpl
    def describe(self) -> HandlerInfo:
        return self.info

    @hookimpl
    def before_data(self, envelope: Envelope, services: Any) -> Verdict:
        return self.answer(envelope, None, services)  # type: ignore[no-any-return]  # whatever the test wants

    @hookimpl
    def before_queue(self, envelope: Envelope, message: Message, services: Any) -> Verdict:
        return self.answer(envelope, message, services)  # type: ignore[no-any-return]  # whatever the test wants


class FixedRegistry:
    """A registry whose rows are given."""

    local = True

    def __init__(self, *registrations: Registration) -> None:
        self.registrations = registrations

    def generation(self) -> int:
        return 3

    def enabled(self) -> frozenset[tuple[str, Stage, str]]:
        return frozenset((each.handler, each.stage, each.executable) for each in self.registrations if each.enabled)

    def registered(self) -> frozenset[tuple[str, Stage, str]]:
        return frozenset((each.handler, each.stage, each.executable) for each in self.registrations)

    def matching(
        self, keys: Collection[tuple[Type, str]], stages: Collection[Stage], *, include_disabled: bool = False
    ) -> Selection:
        return Selection(3, tuple(each for each in self.registrations if (each.type, each.address) in keys))


def info(**more: Any) -> HandlerInfo:
    return HandlerInfo("scripted", (Placement(QUEUE, Type.GLOBAL, 10),), **more)


class Room:
    """A pipeline with scripted handlers: the name of each is its place in the order."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.clock, self.log = ManualClock(), RecordingLogger()
        self.loaded: dict[str, LoadedHandler] = {}
        self.registrations: list[Registration] = []
        self.observers: list[Observer] = []

    def handler(self, name: str, answer: Answer, *registrations: Registration, **more: Any) -> Room:
        loaded = load_plugin(name, Scripted(answer, info(**more)), self.config)
        assert isinstance(loaded, LoadedHandler)
        self.loaded[name] = loaded
        self.registrations.extend(registrations or (on(name),))
        return self

    def pipeline(self) -> Pipeline:
        lender = Lender(
            self.config,
            self.clock,
            StaticResolver(),
            None,  # type: ignore[arg-type]  # no handler here keeps state
            StaticDirectory(),
            RecordingReinjector(),
        )
        registry = FixedRegistry(*self.registrations)
        return Pipeline(registry, Handlers(self.loaded, tuple(self.observers)), lender, self.log)

    def run(self, stage: Stage = QUEUE, recipients: Collection[Address] = (BOB, CAROL, DAVE), **more: Any) -> Any:
        pipeline = self.pipeline()
        mail = envelope("alice@here.example", *(str(each) for each in recipients))
        seen = None if stage is Stage.BEFORE_DATA else message()
        selection = pipeline.select(mail, {stage})
        return pipeline.run(selection, stage, mail, seen, time_limit=more.pop("time_limit", 60), **more)

    def events(self, word: str) -> list[dict[str, Any]]:
        return [facts for _, event, facts in self.log.lines if word in event]


def on(name: str, type_: Type = Type.GLOBAL, address: str = "", **more: Any) -> Registration:
    return Registration(name, more.pop("stage", QUEUE), type_, address, enabled=True, **more)


def to(name: str, *recipients: Address, **more: Any) -> list[Registration]:
    return [on(name, Type.RECIPIENT, recipient.key, **more) for recipient in recipients]


def test_a_later_handler_sees_the_edits_of_an_earlier_one() -> None:
    seen: list[str | None] = []
    room = Room()
    room.handler("a", lambda *_: passed(AddField(b"X-First", b" 1")))
    room.handler("b", lambda _e, mail, _s: (seen.append(mail.get(b"X-First")), passed(InsertField(b"X-Top", b" 2")))[1])
    outcome = room.run()
    assert seen == ["1"]
    assert [field.name for field in outcome.messages[BOB].fields] == [b"X-Top", b"From", b"Subject", b"X-First"]
    assert outcome.merged_edits() == (AddField(b"X-First", b" 1"), InsertField(b"X-Top", b" 2"))


@pytest.mark.parametrize(
    ("verdict", "action"),
    [
        (stopped("took it"), Action.STOP),
        (deferred("later"), Action.DEFER),
        (rejected("no"), Action.REJECT),
        (quarantined("held"), Action.QUARANTINE),
    ],
)
def test_a_verdict_ends_the_chain_for_its_own_recipients_alone(verdict: Verdict, action: Action) -> None:
    asked: list[tuple[str, ...]] = []
    room = Room()
    room.handler("a", lambda *_: verdict, *to("a", BOB))
    room.handler("z", lambda mail, *_: (asked.append(tuple(map(str, mail.recipients))), skipped())[1])
    outcome = room.run()
    assert {each: what.action for each, what in outcome.dispositions.items()} == {
        BOB: action,
        CAROL: Action.PASS,
        DAVE: Action.PASS,
    }
    assert asked == [("carol@there.example", "dave@there.example")]
    assert outcome.dispositions[BOB].handler == "a"


def test_nobody_left_means_nobody_called() -> None:
    room = Room()
    room.handler("a", lambda *_: rejected("no", Reply("Go away", "7.1"), category=Category.SPAM))
    room.handler("b", lambda *_: pytest.fail("called"))
    outcome = room.run()
    assert outcome.strictest().category is Category.SPAM
    assert outcome.strictest().reply == Reply("Go away", "7.1")


def test_where_all_get_one_copy_nobodys_edits_are_lost_and_nobody_is_asked_twice() -> None:
    """A program gives back a whole mail: two of them, for one recipient each, must not undo each other's work."""

    def stamp(name: bytes) -> Answer:
        return lambda _e, mail, _s: passed(ReplaceMessage(mail.with_edits([InsertField(name, b" 1")])))

    room = Room()
    room.handler("a", stamp(b"X-For-Bob"), *to("a", BOB))
    room.handler("b", stamp(b"X-For-Carol"), *to("b", CAROL))
    room.handler("c", stamp(b"X-For-All"))
    outcome = room.run(one_copy=True)
    final = message().with_edits(outcome.merged_edits())
    assert [field.name for field in final.fields][:3] == [b"X-For-All", b"X-For-Carol", b"X-For-Bob"]
    assert len(room.events("during call 'c' handler")) == 1
    assert set(outcome.messages.values()) == {final}


def test_edits_for_some_give_those_recipients_a_mail_of_their_own() -> None:
    seen: list[tuple[str, str | None]] = []
    room = Room()
    room.handler("a", lambda *_: passed(AddField(b"X-Bob", b" yes")), *to("a", BOB))
    room.handler(
        "z",
        lambda mail, body, _s: (
            seen.extend((str(each), body.get(b"X-Bob")) for each in mail.recipients),
            passed(AddField(b"X-All", b" yes")),
        )[1],
    )
    outcome = room.run()
    assert sorted(seen) == [("bob@there.example", "yes"), ("carol@there.example", None), ("dave@there.example", None)]
    assert outcome.messages[BOB].get(b"X-Bob") == "yes"
    assert outcome.messages[CAROL].get(b"X-Bob") is None
    assert outcome.messages[CAROL] is outcome.messages[DAVE]
    assert all(each.get(b"X-All") == "yes" for each in outcome.messages.values())


def test_skip_asks_for_no_edits() -> None:
    room = Room().handler("a", lambda *_: Verdict(Action.SKIP, (AddField(b"X", b" 1"),)))
    assert room.run().messages[BOB].get(b"X") is None
    assert room.events("edits are made with PASS alone")


CONSEQUENCES = {
    OnError.DEFER: Action.DEFER,
    OnError.REJECT: Action.REJECT,
    OnError.SKIP: Action.PASS,
    OnError.QUARANTINE: Action.QUARANTINE,
}


def boom(*_: Any) -> Verdict:
    raise RuntimeError("/etc/secret is unreadable")


def out_of_use(*_: Any) -> Verdict:
    raise StateUnavailable("Redis at 192.0.2.1 does not answer, the secret is safe")


FAILURES: dict[str, Answer] = {
    "exception": boom,
    "what it needs": out_of_use,
    "SystemExit": lambda *_: exec("raise SystemExit(3)"),
    "None": lambda *_: None,
    "a word": lambda *_: "PASS",
    "an edit that breaks out": lambda *_: passed(AddField(b"X", b" 1\r\nBcc: all")),
    "a name that breaks out": lambda *_: passed(AddField(b"X: 1\r\nBcc", b" all")),
    "no edit at all": lambda *_: passed("edit"),  # type: ignore[arg-type]  # the fault that is tested
}


ERRORS = {"exception": "exception", "SystemExit": "exception", "what it needs": "unavailable"}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("on_error", OnError)
def test_a_failure_has_its_declared_consequence_and_is_never_silent(failure: str, on_error: OnError) -> None:
    room = Room().handler("a", FAILURES[failure], on("a", on_error=on_error))
    outcome = room.run()
    assert outcome.dispositions[BOB].action is CONSEQUENCES[on_error]
    (facts,) = room.events("during call 'a' handler")
    assert facts["consequence"] == str(on_error)
    assert facts["error"] == ERRORS.get(failure, "answer")
    assert len(room.events("handler raised")) == (facts["error"] == "exception"), "a trace is for defects"
    reply = outcome.dispositions[BOB].reply
    assert reply is None or "secret" not in reply.text


def test_a_mail_that_a_program_cannot_be_told_is_no_fault_of_the_program(tmp_path: Path) -> None:
    program = tmp_path / "hook"
    program.write_text("#!/bin/sh\necho SKIP >&2\nexit 1\n")
    program.chmod(0o755)
    room = Room()
    room.registrations.append(on("hook", executable=str(program)))
    pipeline = room.pipeline()

    def ask(sender: str) -> dict[str, Any]:
        mail = envelope(sender, str(BOB))
        pipeline.run(pipeline.select(mail, {QUEUE}), QUEUE, mail, message(), time_limit=60)
        return room.events("during call 'hook' handler")[-1]

    for _ in range(10):
        assert ask("a" * 140_000 + "@here.example")["error"] == "limit"
    assert "error" not in ask("a@here.example")


def test_a_call_that_hangs_takes_the_same_road() -> None:
    gate = threading.Event()
    room = Room(parse_config('[handlers.a]\ntimeout = "50ms"', "x.toml"))
    room.handler("a", lambda *_: gate.wait(20) and skipped(), on("a", on_error=OnError.SKIP))
    room.handler("b", lambda *_: passed(AddField(b"X", b" after")))
    outcome = room.run()
    gate.set()
    assert outcome.messages[BOB].get(b"X") == "after"
    assert room.events("during call 'a' handler")[0]["error"] == "timeout"


def test_several_calls_that_hang_are_each_settled_once_and_their_late_answers_are_lost() -> None:
    gate, came_back = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any) -> Verdict:
        gate.wait(20)
        came_back.release()
        return rejected("late")

    room = Room(parse_config('[handlers.a]\ntimeout = "50ms"\n[handlers.c]\ntimeout = "50ms"', "x.toml"))
    room.handler("a", hang, on("a", on_error=OnError.SKIP))
    room.handler("b", lambda *_: passed(AddField(b"X", b" between")))
    room.handler("c", hang, on("c", on_error=OnError.SKIP))
    room.handler("d", lambda *_: passed(AddField(b"Y", b" after")))
    outcome = room.run()
    gate.set()
    assert came_back.acquire(timeout=10)
    assert came_back.acquire(timeout=10)
    assert [facts["handler"] for facts in room.events("during call")] == ["a", "b", "c", "d"]
    assert outcome.strictest().action is Action.PASS
    assert [field.name for field in outcome.messages[BOB].fields][-2:] == [b"X", b"Y"]


def test_no_thread_to_make_a_call_is_a_failure_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroom.call_threads.MAX_LEFT_BEHIND", 0)
    room = Room().handler("a", lambda *_: passed(), on("a", on_error=OnError.SKIP)).handler("b", lambda *_: passed())
    assert room.run().strictest().action is Action.DEFER
    assert [facts["error"] for facts in room.events("during call")] == ["starved", "starved"]


def test_a_plugin_that_is_not_installed_never_passes_in_silence() -> None:
    room = Room()
    room.registrations.append(on("gone"))
    assert room.run().strictest().action is Action.DEFER
    assert room.events("during call 'gone' handler")[0]["error"] == "absent"


def test_time_that_is_used_up_is_a_time_out_of_the_calls_that_are_left() -> None:
    room = Room()
    room.handler("a", lambda *_: (room.clock.advance(61), skipped())[1])
    room.handler("b", lambda *_: pytest.fail("called"))
    assert room.run(time_limit=60).strictest().action is Action.DEFER
    assert room.events("during call 'b' handler")[0]["error"] == "starved"


def test_what_keeps_failing_is_left_alone_and_probed() -> None:
    calls: list[int] = []
    room = Room().handler("a", lambda *_: (calls.append(1), boom())[1], on("a", on_error=OnError.SKIP))
    pipeline = room.pipeline()
    mail = envelope()
    selection = pipeline.select(mail, {QUEUE})
    for _ in range(8):
        pipeline.run(selection, QUEUE, mail, message(), time_limit=9)
    assert len(calls) == 5
    assert room.events("during call 'a' handler")[-1]["error"] == "breaker"
    room.clock.advance(31)
    pipeline.run(selection, QUEUE, mail, message(), time_limit=9)
    assert len(calls) == 6


def test_mails_that_are_too_much_for_a_handler_keep_no_other_mail_from_it() -> None:
    class TooMuch(Unavailable):
        of_this_mail = True

    def answer(_envelope: Any, mail: Message, _services: Any) -> Verdict:
        match mail.get(b"Subject"):
            case "bomb":
                raise TooMuch("nobody can scan this")
            case "outage":
                raise Unavailable("nobody is there")
            case _:
                return rejected("found")

    room = Room().handler("a", answer, on("a", on_error=OnError.SKIP))
    pipeline = room.pipeline()
    mail, bomb, outage = envelope(), about(b"bomb"), about(b"outage")
    selection = pipeline.select(mail, {QUEUE})
    for _ in range(8):
        outcome = pipeline.run(selection, QUEUE, mail, bomb, time_limit=9)
        assert outcome.strictest().action is Action.PASS
        assert room.events("during call 'a' handler")[-1]["error"] == "declined"
    assert pipeline.run(selection, QUEUE, mail, message(), time_limit=9).strictest().action is Action.REJECT
    for _ in range(5):
        pipeline.run(selection, QUEUE, mail, outage, time_limit=9)
    assert pipeline.run(selection, QUEUE, mail, message(), time_limit=9).strictest().action is Action.PASS
    room.clock.advance(31)
    pipeline.run(selection, QUEUE, mail, bomb, time_limit=9)  # the probe: somebody is there again
    assert pipeline.run(selection, QUEUE, mail, message(), time_limit=9).strictest().action is Action.REJECT


def about(subject: bytes) -> Message:
    return Message((Field(b"Subject", b" " + subject),))


def test_shadow_logs_what_it_would_have_done_and_does_nothing() -> None:
    room = Room().handler("a", lambda *_: rejected("no"), on("a", mode=Mode.SHADOW))
    room.handler("b", lambda *_: passed(AddField(b"X", b" 1")), on("b", mode=Mode.SHADOW))
    outcome = room.run()
    assert outcome.strictest().action is Action.PASS
    assert outcome.merged_edits() == ()
    assert [facts["mode"] for facts in room.events("during call")] == ["shadow", "shadow"]


def test_findings_are_read_by_name_and_type_and_may_be_absent() -> None:
    read: list[object] = []
    room = Room()
    room.handler("a", lambda *_: passed(finding=("pass", "x")))
    room.handler(
        "b", lambda _e, _m, lent: (read.extend([lent.finding("a", tuple), lent.finding("a", str)]), skipped())[1]
    )
    outcome = room.run(findings={"earlier": 1})
    assert read == [("pass", "x"), None]
    assert outcome.findings == {"earlier": 1, "a": ("pass", "x")}


def test_handlers_are_lent_the_time_that_is_left() -> None:
    lent_seconds: list[float] = []
    room = Room().handler(
        "a", lambda _e, _m, lent: (lent_seconds.append(lent.deadline()), skipped())[1], timeout=Duration(20)
    )
    room.run(time_limit=5)
    assert lent_seconds == [5.0]


def test_observers_are_told_and_cannot_change_anything() -> None:
    told: list[object] = []

    def tell(record: object) -> None:
        told.append(record)
        raise RuntimeError("observer's own trouble")

    hook = Hook(tell, frozenset({"record"}))
    room = Room().handler("a", lambda *_: passed())
    room.observers.append(Observer("metrics", {"after_call": hook, "after_mail": hook}))
    assert room.run().strictest().action is Action.PASS
    assert [type(each) for each in told] == [CallRecord, MailRecord]
    assert len(room.events("observer failed")) == 2


def test_the_demand_is_what_enabled_handlers_need() -> None:
    room = Room()
    room.handler("a", skipped, on("a", stage=Stage.BEFORE_DATA), needs=Need.BODY)
    room.handler("b", skipped, on("b"), needs=Need.HEADERS)
    room.registrations.append(Registration("a", Stage.BEFORE_REMOTE, Type.GLOBAL))  # disabled
    demand = room.pipeline().demand()
    assert dict(demand.needs) == {Stage.BEFORE_DATA: Need.ENVELOPE, QUEUE: Need.HEADERS}
    assert demand.headers
    assert not demand.body


def test_a_program_has_to_see_everything() -> None:
    room = Room()
    room.registrations.append(on("hook", executable="/bin/true"))
    assert room.pipeline().demand().body


def test_a_handler_at_before_local_that_reads_headers_wants_forged_results_taken_out_before() -> None:
    room = Room()
    room.handler("a", skipped, on("a", stage=Stage.BEFORE_LOCAL), needs=Need.BODY)
    demand = room.pipeline().demand()
    assert demand.headers
    assert not demand.body


def test_without_a_registry_nobody_knows_and_the_front_is_told() -> None:
    room = Room()
    pipeline = room.pipeline()
    pipeline._registry.matching = boom  # type: ignore[method-assign, assignment]  # a database that is gone
    with pytest.raises(PipelineUnavailable):
        pipeline.select(envelope(), {QUEUE})


def test_a_handler_whose_start_fails_is_a_failing_handler() -> None:
    room = Room().handler("a", lambda *_: passed())
    started = Hook(boom, frozenset())
    room.loaded["a"].hooks["start"] = started  # type: ignore[index]  # a dict in fact
    pipeline = room.pipeline()
    pipeline.start_handlers()
    mail = envelope()
    outcome = pipeline.run(pipeline.select(mail, {QUEUE}), QUEUE, mail, message(), time_limit=9)
    assert outcome.strictest().action is Action.DEFER


VERDICTS = [
    skipped(),
    passed(),
    passed(AddField(b"X", b" 1")),
    stopped("s"),
    deferred("d"),
    rejected("r"),
    quarantined("q"),
]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(VERDICTS), st.sets(st.sampled_from([BOB, CAROL, DAVE]), min_size=1)), max_size=5)
)
def test_each_recipient_gets_just_what_his_own_calls_say(script: list[tuple[Verdict, set[Address]]]) -> None:
    room = Room()
    for number, (verdict, recipients) in enumerate(script):
        room.handler(f"h{number}", lambda *_, verdict=verdict: verdict, *to(f"h{number}", *recipients))
    if not script:
        return
    outcome = room.run()
    for recipient in (BOB, CAROL, DAVE):
        expected_edits: list[Edit] = []
        expected = Action.PASS
        for verdict, recipients in script:
            if recipient in recipients and expected is Action.PASS:
                if verdict.action.goes_on:
                    expected_edits.extend(verdict.edits)
                else:
                    expected = verdict.action
        assert outcome.dispositions[recipient].action is expected
        if expected is Action.PASS:
            assert list(outcome.edits[recipient]) == expected_edits


def test_ten_thousand_recipients_are_one_call() -> None:
    calls: list[int] = []
    room = Room().handler("a", lambda mail, *_: (calls.append(len(mail.recipients)), passed(AddField(b"X", b" 1")))[1])
    everybody = [Address(f"user{number}@there.example") for number in range(10_000)]
    outcome = room.run(recipients=everybody)
    assert calls == [10_000]
    assert len(outcome.going_on()) == 10_000


def test_paths_of_programs_never_reach_a_peer(tmp_path: Path) -> None:
    room = Room()
    room.registrations.append(on("hook", executable=str(tmp_path / "absent"), on_error=OnError.REJECT))
    reply = room.run().dispositions[BOB].reply
    assert reply is not None
    assert str(tmp_path) not in reply.text
