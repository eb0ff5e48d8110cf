"""Random changes give the same registry as a plain dict would, now and at every generation there was."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from postroom.registration import Registration, Stage, Type
from postroom.registry import AlreadyRegistered, Key, NotRegistered, Registry

State = dict[Key, Registration]

SUBJECTS = [(Type.GLOBAL, ""), (Type.RECIPIENT, "a@example.org"), (Type.RECIPIENT_DOMAIN, "example.org")]
STAGES = [Stage.BEFORE_DATA, Stage.BEFORE_LOCAL]

registrations = st.builds(
    lambda handler, stage, subject, priority, enabled, context: Registration(
        handler, stage, subject[0], subject[1], priority, enabled, context
    ),
    handler=st.sampled_from(["grey", "spf"]),
    stage=st.sampled_from(STAGES),
    subject=st.sampled_from(SUBJECTS),
    priority=st.integers(0, 3),
    enabled=st.booleans(),
    context=st.sampled_from(["", "debug"]),
)


class RegistryModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.registry = Registry.open(f"sqlite:///{self.directory.name}/registry.sqlite")
        self.states: list[State] = [{}]

    def teardown(self) -> None:
        self.registry.close()
        self.directory.cleanup()

    @property
    def now(self) -> State:
        return self.states[-1]

    def becomes(self, state: State) -> None:
        if state != self.now:
            self.states.append(state)

    @rule(registration=registrations)
    def add(self, registration: Registration) -> None:
        try:
            self.registry.add(registration, who="model")
        except AlreadyRegistered:
            assert registration.key in self.now
        else:
            assert registration.key not in self.now
            self.becomes({**self.now, registration.key: registration})

    @rule(registration=registrations)
    def update(self, registration: Registration) -> None:
        try:
            self.registry.update(registration, who="model")
        except NotRegistered:
            assert registration.key not in self.now
        else:
            assert registration.key in self.now
            self.becomes({**self.now, registration.key: registration})

    @rule(registration=registrations, enabled=st.booleans())
    def set_enabled(self, registration: Registration, enabled: bool) -> None:
        key = registration.key
        try:
            self.registry.set_enabled(key, enabled, who="model")
        except NotRegistered:
            assert key not in self.now
        else:
            self.becomes({**self.now, key: replace(self.now[key], enabled=enabled)})

    @rule(registration=registrations)
    def remove(self, registration: Registration) -> None:
        try:
            self.registry.remove(registration.key, who="model")
        except NotRegistered:
            assert registration.key not in self.now
        else:
            self.becomes({key: each for key, each in self.now.items() if key != registration.key})

    @rule(wanted=st.lists(registrations, max_size=6, unique_by=lambda each: each.key))
    def apply(self, wanted: list[Registration]) -> None:
        self.registry.apply(wanted, who="model")
        self.becomes({each.key: each for each in wanted})

    @rule(choice=st.integers(0, 1000))
    def rollback(self, choice: int) -> None:
        generation = choice % len(self.states)
        self.registry.rollback(generation, who="model")
        self.becomes(self.states[generation])

    @rule(a=st.integers(0, 1000), b=st.integers(0, 1000))
    def diff(self, a: int, b: int) -> None:
        a, b = a % len(self.states), b % len(self.states)
        before, after = self.states[a], self.states[b]
        found = {each.registration.key: (each.before, each.after) for each in self.registry.diff(a, b)}
        keys = before.keys() | after.keys()
        assert found == {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}

    @rule(choice=st.integers(0, 1000))
    def an_earlier_generation_is_as_it_was(self, choice: int) -> None:
        number = choice % len(self.states)
        state = self.states[number]
        assert {each.key: each for each in self.registry.list(at=number)} == state
        pinned = self.registry.matching(SUBJECTS, STAGES, at=number, include_disabled=True)
        assert {each.key: each for each in pinned.registrations} == state

    @invariant()
    def the_registry_is_as_the_model(self) -> None:
        assert {each.key: each for each in self.registry.list()} == self.now
        assert self.registry.generation() == len(self.states) - 1 == len(list(self.registry.history()))
        found = self.registry.matching(SUBJECTS, STAGES)
        assert {each.key: each for each in found.registrations} == {
            key: each for key, each in self.now.items() if each.enabled
        }
        assert found.generation == len(self.states) - 1
        assert self.registry.enabled() == {
            (each.handler, each.stage, each.executable) for each in self.now.values() if each.enabled
        }
        assert self.registry.handlers() == sorted({each.handler for each in self.now.values()})


TestRegistryModel = RegistryModel.TestCase
TestRegistryModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
