"""Plugins are found by entry point; a wrong one is named and left out, and takes nobody with it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from postroom.config import Config, ConfigError, Duration, parse_config, setting
from postroom.hookspecs import HandlerInfo, Placement, hookimpl
from postroom.mail import Envelope
from postroom.plugins import InvalidPlugin, LoadedHandler, Observer, find_handlers, load_plugin
from postroom.registration import Stage, Type
from postroom.testing import envelope
from postroom.verdict import Action, Verdict, skipped

INFO = HandlerInfo("for tests", (Placement(Stage.BEFORE_DATA, Type.GLOBAL, 5),))


@dataclass(frozen=True)
class Settings:
    level: int = setting(1, help="how much", least=1)


class Good:
    @hookimpl
    def describe(self) -> HandlerInfo:
        return INFO

    @hookimpl
    def before_data(self, envelope: Envelope) -> Verdict:
        return skipped(str(envelope.sender))


class NoDescribe:
    @hookimpl
    def before_data(self) -> Verdict:
        return skipped()


class UnknownHook(Good):
    @hookimpl
    def before_lunch(self) -> Verdict:
        return skipped()


class WrongArgument(Good):
    @hookimpl
    def before_data(self, letter: str) -> Verdict:  # type: ignore[override]  # the fault that is tested
        return skipped()


class WrongPlacement(NoDescribe):
    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo("x", (Placement(Stage.BEFORE_LOCAL, Type.GLOBAL, 5),))


class ActsNowhere:
    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo("x", ())


class NotInfo(Good):
    @hookimpl
    def describe(self) -> HandlerInfo:
        return "info"  # type: ignore[return-value]  # the fault that is tested


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (NoDescribe, "no hook `describe`"),
        (UnknownHook, "before_lunch"),
        (WrongArgument, "letter"),
        (WrongPlacement, "no hook before_local"),
        (ActsNowhere, "acts at no stage"),
        (NotInfo, "not a HandlerInfo"),
        (object, "no hook `describe`"),
    ],
)
def test_a_wrong_plugin_is_named_with_what_is_wrong(plugin: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidPlugin, match=words) as caught:
        load_plugin("wrong", plugin(), Config())
    assert "\n" not in str(caught.value)


def test_a_hook_gets_just_the_arguments_that_it_takes() -> None:
    loaded = load_plugin("good", Good(), Config())
    assert isinstance(loaded, LoadedHandler)
    verdict = loaded.hooks["before_data"](envelope=envelope("a@b"), settings=None, services=None, message=None)
    assert (verdict.action, verdict.reason) == (Action.SKIP, "a@b")
    assert loaded.stages == {Stage.BEFORE_DATA}


class Watching:
    @hookimpl
    def after_call(self, record: Any) -> None: ...


def test_what_only_watches_is_an_observer() -> None:
    assert isinstance(load_plugin("watching", Watching(), Config()), Observer)


class Tuned(Good):
    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo("x", INFO.placements, settings=Settings)


def test_settings_come_from_the_table_and_the_context() -> None:
    config = parse_config('[handlers.tuned]\nlevel = 3\ntimeout = "2s"', "x.toml")
    loaded = load_plugin("tuned", Tuned(), config)
    assert isinstance(loaded, LoadedHandler)
    assert loaded.base_settings == Settings(3)
    assert loaded.settings_for("level=5") == Settings(5)
    assert loaded.common.timeout == Duration(2)
    with pytest.raises(ConfigError, match="level=0"):
        loaded.check_context("level=0")


@pytest.mark.parametrize(
    "table", ["levle = 3", 'on_error = "explode"', 'exempt = ["everybody"]', 'on_error_for = { moon = "skip" }']
)
def test_a_wrong_table_leaves_the_plugin_out_and_says_why(table: str) -> None:
    config = parse_config(f"[handlers.tuned]\n{table}", "x.toml")
    with pytest.raises(InvalidPlugin, match=r"x\.toml: \[handlers\.tuned\]"):
        load_plugin("tuned", Tuned(), config)


def test_a_broken_plugin_is_left_out_and_the_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("postroom_test_good")
    module.handler, module.wrong = Good(), UnknownHook()  # type: ignore[attr-defined]  # a module made by hand
    monkeypatch.setitem(sys.modules, "postroom_test_good", module)
    found = [
        EntryPoint("absent", "no_such_module_at_all:handler", "postroom.handlers"),
        EntryPoint("good", "postroom_test_good:handler", "postroom.handlers"),
        EntryPoint("wrong", "postroom_test_good:wrong", "postroom.handlers"),
        EntryPoint("good", "postroom_test_good:handler", "postroom.handlers"),
    ]
    handlers = find_handlers(Config(), found)
    assert handlers.names() == ["good"]
    assert sorted(problem.name for problem in handlers.problems) == ["absent", "good", "wrong"]
    assert all("\n" not in problem.text for problem in handlers.problems)


def test_the_plugins_of_this_repository_are_found_and_whole() -> None:
    handlers = find_handlers(Config())
    assert handlers.problems == ()
    assert {"grey", "spf"} <= set(handlers.names())
