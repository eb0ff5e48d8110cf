"""A real pipeline whose handlers do what a line of text says, on a registry in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from postroom.config import Config
from postroom.fronts.milter.session import Session
from postroom.hookspecs import STAGE_HOOKS, HandlerInfo, Mailbox, Need, Placement, hookimpl
from postroom.mail import (
    AddField,
    AddRecipient,
    Address,
    AuthenticationResult,
    Body,
    Edit,
    Envelope,
    InsertField,
    Message,
    RemoveField,
    RemoveRecipient,
    ReplaceBody,
    ReplaceField,
    ReplaceSender,
)
from postroom.pipeline import Pipeline
from postroom.plugins import Handlers, LoadedHandler, load_plugin
from postroom.registration import Registration, Selection, Stage, Type
from postroom.services.lend import Lender
from postroom.testing import ManualClock, RecordingLogger, RecordingReinjector, StaticDirectory, StaticResolver
from postroom.verdict import Action, Reply, Verdict


class MemoryRegistry:
    """Registrations in a list. `broken` makes it unreachable."""

    local = True

    def __init__(self) -> None:
        self.registrations: list[Registration] = []
        self.broken = False
        self.late: set[str] = set()  # registered only when they are enabled
        self._generation = 1

    def generation(self) -> int:
        return self._generation

    def enabled(self) -> frozenset[tuple[str, Stage, str]]:
        self._check()
        return frozenset((each.handler, each.stage, each.executable) for each in self.registrations if each.enabled)

    def registered(self) -> frozenset[tuple[str, Stage, str]]:
        self._check()
        return frozenset(
            (each.handler, each.stage, each.executable) for each in self.registrations if each.handler not in self.late
        )

    def matching(
        self, keys: Collection[tuple[Type, str]], stages: Collection[Stage], *, include_disabled: bool = False
    ) -> Selection:
        self._check()
        found = (
            each
            for each in self.registrations
            if (each.enabled or include_disabled) and each.stage in stages and (each.type, each.address) in keys
        )
        return Selection(self._generation, tuple(found))

    def set_enabled(self, handler: str, enabled: bool) -> None:
        self._generation += 1
        self.late.discard(handler)
        self.registrations = [
            replace(each, enabled=enabled) if each.handler == handler else each for each in self.registrations
        ]

    def _check(self) -> None:
        if self.broken:
            raise ConnectionError("the database is away")


class ScriptedHandler:
    """Answers one verdict, and keeps what it was shown. `gate`, when set, is waited for before answering."""

    def __init__(self, stage: Stage, needs: Need, verdict: Callable[[], Verdict]) -> None:
        self.stage, self.needs, self._verdict = stage, needs, verdict
        self.calls: list[tuple[Envelope, Message | None]] = []
        self.gate: threading.Event | None = None
        self.entered = threading.Event()

    def answer(self, envelope: Envelope, message: Message | None) -> Verdict:
        self.calls.append((envelope, message))
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        return self._verdict()


def make_plugin(handler: ScriptedHandler) -> object:
    """A plugin with just the one hook."""

    class Plugin:
        @hookimpl
        def describe(self) -> HandlerInfo:
            return HandlerInfo("scripted", (Placement(handler.stage, Type.GLOBAL, 10),), needs=handler.needs)

    @hookimpl
    def with_message(self: Any, envelope: Envelope, message: Message) -> Verdict:
        return handler.answer(envelope, message)

    @hookimpl
    def without_message(self: Any, envelope: Envelope) -> Verdict:
        return handler.answer(envelope, None)

    setattr(Plugin, STAGE_HOOKS[handler.stage], without_message if handler.stage is Stage.BEFORE_DATA else with_message)
    return Plugin()


class World:
    """Pipeline, registry, handlers and log of one test; makes sessions."""

    def __init__(self, directory: Path, config: Config | None = None, ours: Collection[str] | None = None) -> None:
        self.config = config or Config()
        self.registry = MemoryRegistry()
        self.handlers: dict[str, ScriptedHandler] = {}
        self.log = RecordingLogger()
        self._loaded: dict[str, LoadedHandler] = {}
        self._directory = StaticDirectory([Mailbox(Address(f"somebody@{domain}")) for domain in ours or ()])
        if ours is None:
            self._directory.is_local = lambda address: None  # type: ignore[method-assign]  # nobody told us
        nothing: Any = None  # no scripted handler keeps state
        lender = Lender(self.config, ManualClock(), StaticResolver(), nothing, self._directory, RecordingReinjector())
        self.pipeline = Pipeline(self.registry, Handlers(self._loaded), lender, self.log)

    def add(
        self, registration: Registration, needs: Need, verdict: Callable[[], Verdict], late: bool = False
    ) -> ScriptedHandler:
        handler = ScriptedHandler(registration.stage, needs, verdict)
        loaded = load_plugin(registration.handler, make_plugin(handler), self.config)
        assert isinstance(loaded, LoadedHandler)
        self._loaded[registration.handler] = loaded
        self.handlers[registration.handler] = handler
        self.registry.registrations.append(registration)
        if late:
            self.registry.late.add(registration.handler)
        return handler

    def make_session(self) -> Session:
        return Session(self.pipeline, self.log)

    def errors(self) -> list[str]:
        return [f"{event} {facts}" for level, event, facts in self.log.lines if level == "error"]


def parse_given(line: str) -> tuple[Registration, Need, Callable[[], Verdict], bool]:
    """`STAGE NAME TYPE[:ADDRESS] [off | late] [needs=NEED] | VERDICT | EDIT | EDIT…`"""
    head, verdict, *edits = [part.strip() for part in line.split(" | ")]
    stage, name, type_, *options = head.split()
    type_, _, address = type_.partition(":")
    needs = next((Need(option[6:]) for option in options if option.startswith("needs=")), Need.ENVELOPE)
    registration = Registration(name, Stage(stage), Type(type_), address, enabled=not {"off", "late"} & set(options))
    return registration, needs, lambda: parse_verdict(verdict, edits), "late" in options


def parse_verdict(text: str, edits: list[str]) -> Verdict:
    word, _, rest = text.partition(" ")
    if word == "raise":
        raise RuntimeError(rest)
    action = Action(word.upper())
    reply = None
    if action in (Action.DEFER, Action.REJECT) and rest:
        detail, _, words = rest.partition(" ")
        reply = Reply(words.replace("\\n", "\n").replace("\\0", "\0"), detail)
    return Verdict(action, tuple(map(parse_edit, edits)), reply, rest if reply is None else "scripted")


def octets(text: str) -> bytes:
    r"""`\r`, `\n`, `\t`, `\0` and `\xNN` written out."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def parse_edit(text: str) -> Edit:
    word, _, rest = text.partition(" ")
    word, _, number = word.partition("@")
    name, _, value = (octets(part) for part in rest.partition(":"))
    match word:
        case "add":
            return AddField(name, value)
        case "insert":
            return InsertField(name, value, int(number or 0))
        case "replace":
            return ReplaceField(name, value, int(number or 1))
        case "remove":
            return RemoveField(octets(rest), int(number) if number else None)
        case "body":
            return ReplaceBody(Body(octets(rest)))
        case "sender":
            return ReplaceSender(Address(rest))
        case "addrcpt":
            return AddRecipient(Address(rest))
        case "delrcpt":
            return RemoveRecipient(Address(rest))
        case "result":
            first, *properties = rest.split()
            method, _, result = first.partition("=")
            pairs = [each.partition("=") for each in properties]
            return AuthenticationResult(method, result, tuple((key, value) for key, _, value in pairs))
    raise ValueError(f"no such edit: {text}")
