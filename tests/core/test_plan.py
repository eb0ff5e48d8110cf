"""The plan: who acts on which recipients, in which order, and why."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import Config, parse_config
from postroom.hookspecs import HandlerInfo, Placement, hookimpl
from postroom.mail import TrafficClass
from postroom.plan import Plan, lookup_keys, make_plan
from postroom.plugins import Handlers, LoadedHandler, load_plugin
from postroom.registration import Mode, OnError, Registration, Selection, Stage, Type
from postroom.testing import envelope
from postroom.verdict import Verdict, skipped


class Quiet:
    """A handler for every stage that does nothing."""

    def __init__(self, info: HandlerInfo | None = None) -> None:
        self.info = info or HandlerInfo("quiet", (Placement(Stage.BEFORE_QUEUE, Type.GLOBAL, 10),))

    @hookimpl
    def describe(self) -> HandlerInfo:
        return self.info

    @hookimpl
    def before_data(self) -> Verdict:
        return skipped()

    @hookimpl
    def before_queue(self) -> Verdict:
        return skipped()

    @hookimpl
    def before_local(self) -> Verdict:
        return skipped()

    @hookimpl
    def before_remote(self) -> Verdict:
        return skipped()


def handlers(*names: str, config: Config | None = None, info: HandlerInfo | None = None) -> Handlers:
    loaded = {}
    for name in names:
        handler = load_plugin(name, Quiet(info), config or Config())
        assert isinstance(handler, LoadedHandler)
        loaded[name] = handler
    return Handlers(loaded)


def registration(name: str, type_: Type = Type.GLOBAL, address: str = "", **more: object) -> Registration:
    stage = more.pop("stage", Stage.BEFORE_QUEUE)
    return Registration(name, stage, type_, address, enabled=bool(more.pop("enabled", True)), **more)  # type: ignore[arg-type]  # keyword soup of a test


def plan(
    registrations: Iterable[Registration],
    stage: Stage = Stage.BEFORE_QUEUE,
    config: Config | None = None,
    **facts: object,
) -> Plan:
    recipients = facts.pop("recipients", ("bob@there.example", "carol@there.example", "dave@else.example"))
    mail = envelope("alice@here.example", *recipients, **facts)  # type: ignore[misc, arg-type]  # keyword soup of a test
    config = config or Config()
    selection = Selection(7, tuple(registrations))
    return make_plan(stage, mail, selection, handlers("a", "b", "c", "z", config=config), config)


def shape(made: Plan) -> list[tuple[str, list[str]]]:
    return [(call.name, [str(each) for each in call.recipients]) for call in made.calls]


ALL_TYPES = [
    registration("a", Type.GLOBAL),
    registration("a", Type.SENDER, "alice@here.example"),
    registration("a", Type.RECIPIENT, "bob@there.example"),
    registration("a", Type.SENDER_DOMAIN, "here.example"),
    registration("a", Type.RECIPIENT_DOMAIN, "there.example"),
]


def test_types_act_in_the_order_of_the_stage() -> None:
    later = plan(ALL_TYPES)
    assert [call.registration.type for call in later.calls] == [
        Type.SENDER,
        Type.RECIPIENT,
        Type.SENDER_DOMAIN,
        Type.RECIPIENT_DOMAIN,
        Type.GLOBAL,
    ]
    early = [Registration("a", Stage.BEFORE_DATA, each.type, each.address, enabled=True) for each in ALL_TYPES]
    assert [call.registration.type for call in plan(early, Stage.BEFORE_DATA).calls] == [
        Type.GLOBAL,
        Type.SENDER,
        Type.RECIPIENT,
        Type.SENDER_DOMAIN,
        Type.RECIPIENT_DOMAIN,
    ]


def test_inside_a_type_lower_priority_first_then_name() -> None:
    made = plan([registration("z", priority=5), registration("b"), registration("a"), registration("c", priority=20)])
    assert [call.name for call in made.calls] == ["z", "a", "b", "c"]


def test_each_answers_for_its_own_recipients() -> None:
    made = plan(ALL_TYPES)
    everybody = ["bob@there.example", "carol@there.example", "dave@else.example"]
    assert shape(made) == [
        ("a", everybody),
        ("a", everybody[:1]),
        ("a", everybody),
        ("a", everybody[:2]),
        ("a", everybody),
    ]


def test_the_same_work_for_several_recipients_is_one_call() -> None:
    made = plan(
        [
            registration("a", Type.RECIPIENT, "carol@there.example", context="x=1"),
            registration("a", Type.RECIPIENT, "bob@there.example", context="x=1"),
            registration("a", Type.RECIPIENT, "dave@else.example", context="x=2"),
        ],
        config=None,
    )
    assert [(call.registration.context, len(call.recipients)) for call in made.calls] == [("x=1", 2), ("x=2", 1)]
    assert shape(made)[0] == ("a", ["bob@there.example", "carol@there.example"])


@pytest.mark.parametrize(
    "more", [{"priority": 11}, {"mode": Mode.SHADOW}, {"on_error": OnError.SKIP}, {"executable": "/bin/true"}]
)
def test_different_work_stays_apart(more: dict[str, object]) -> None:
    made = plan(
        [
            registration("a", Type.RECIPIENT, "carol@there.example"),
            registration("a", Type.RECIPIENT, "bob@there.example", **more),
        ]
    )
    assert len(made.calls) == 2


def test_matching_is_without_case_and_without_tag() -> None:
    made = plan(
        [registration("a", Type.RECIPIENT, "bob@there.example")],
        recipients=("Bob+News@THERE.example", "bobby@there.example"),
    )
    assert shape(made) == [("a", ["Bob+News@THERE.example"])]


def test_the_null_sender_has_neither_address_nor_domain() -> None:
    mail = envelope("", "bob@there.example")
    chosen = Selection(1, (registration("a", Type.SENDER, ""), registration("a", Type.SENDER_DOMAIN, "")))
    assert make_plan(Stage.BEFORE_QUEUE, mail, chosen, handlers("a"), Config()).calls == ()
    assert {type_ for type_, _ in lookup_keys(mail, "+")} == {Type.GLOBAL, Type.RECIPIENT, Type.RECIPIENT_DOMAIN}


def test_disabled_and_exempt_are_left_out_with_their_reason() -> None:
    info = HandlerInfo(
        "quiet",
        (Placement(Stage.BEFORE_QUEUE, Type.GLOBAL, 10),),
        exempt=frozenset({TrafficClass.AUTHENTICATED}),
    )
    mail = envelope("alice@here.example", "bob@there.example", auth_user="alice")
    chosen = Selection(1, (registration("a"), registration("b", enabled=False)))
    made = make_plan(Stage.BEFORE_QUEUE, mail, chosen, handlers("a", "b", info=info), Config())
    assert made.calls == ()
    assert [left.reason for left in made.left_out] == ["exempt: mail of class authenticated", "disabled"]


def test_the_configuration_may_lift_an_exemption_and_set_what_a_failure_comes_to() -> None:
    config = parse_config(
        '[handlers.a]\nexempt = []\non_error = "reject"\ntimeout = "3s"\non_error_for = { local = "skip" }', "x.toml"
    )
    call = plan([registration("a")], config=config, auth_user="alice").calls[0]
    assert (call.on_error, call.timeout) == (OnError.REJECT, 3)
    assert plan([registration("a")], config=config, client=None).calls[0].on_error is OnError.SKIP
    own = registration("a", on_error=OnError.QUARANTINE)
    assert plan([own], config=config, client=None).calls[0].on_error is OnError.QUARANTINE


def test_a_plugin_that_is_not_there_keeps_its_place_and_fails() -> None:
    call = plan([registration("gone")]).calls[0]
    assert (call.handler, call.on_error) == (None, OnError.DEFER)
    assert "no plugin named gone is installed" in call.problem


def test_a_context_that_no_longer_fits_is_a_failure_of_that_call() -> None:
    assert "unknown key" in plan([registration("a", context="x=1")]).calls[0].problem


@given(
    st.lists(
        st.builds(
            registration,
            st.sampled_from(["a", "b", "gone"]),
            st.sampled_from([Type.RECIPIENT, Type.RECIPIENT_DOMAIN]),
            st.sampled_from(["bob@there.example", "carol@there.example", "there.example", "else.example"]),
        ),
        max_size=12,
    )
)
def test_no_recipient_meets_a_policy_that_is_not_his(registrations: list[Registration]) -> None:
    for call in plan(registrations).calls:
        for recipient in call.recipients:
            own = {recipient.key, recipient.domain}
            assert any(
                each.address in own and each.handler == call.name and each.type is call.registration.type
                for each in registrations
            )
