"""Entry points to validated handlers and observers.

pluggy checks each plugin against `hookspecs` in a manager of its own, so that one broken plugin cannot touch another:
what fails to import or to validate is left out and reported as a `PluginProblem`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from postroom.config import Config, ConfigError, Duration, build, build_from_context, setting
from postroom.hookspecs import ENTRY_POINT_GROUP, NAMESPACE, STAGE_HOOKS, HandlerHooks, HandlerInfo
from postroom.mail import TrafficClass
from postroom.registration import InvalidRegistration, OnError, Stage, check_name

OBSERVER_HOOKS = ("after_call", "after_mail")
EXTENSION_HOOKS = ("commands", "diagnose")
SETTINGS_CACHE = 4096  # distinct contexts remembered for one handler


@dataclass(frozen=True)
class CommonSettings:
    """What `[handlers.NAME]` may hold for any handler, programs included, beside the handler's own settings."""

    exempt: tuple[TrafficClass, ...] | None = setting(None, help="Traffic classes it is not called for.")
    timeout: Duration | None = setting(None, help="Deadline of one call.", least=0.01, most=3600)
    on_error: OnError | None = setting(None, help="What a failure comes to, where the registration does not say.")
    on_error_for: dict[str, OnError] = setting({}, help='The same for a traffic class: { authenticated = "skip" }.')

    def __post_init__(self) -> None:
        for name in self.on_error_for:
            if name not in set(TrafficClass):
                raise ValueError(f"on_error_for: {name!r} is not one of {', '.join(TrafficClass)}")


COMMON_KEYS = frozenset(item.name for item in dataclasses.fields(CommonSettings))


def common_settings(config: Config, name: str) -> CommonSettings:
    """The part of `[handlers.NAME]` that is the core's; ConfigError when it is wrong."""
    table = config.handlers.get(name, {})
    return build(
        CommonSettings, {key: value for key, value in table.items() if key in COMMON_KEYS}, config.handler_place(name)
    )


@dataclass(frozen=True)
class PluginProblem:
    """A plugin that is left out, and why, in one line."""

    name: str
    distribution: str
    text: str


@dataclass(frozen=True)
class Hook:
    """One hook implementation, called with just the arguments it takes."""

    function: Callable[..., Any]
    arguments: frozenset[str]

    def __call__(self, **given: Any) -> Any:
        return self.function(**{name: value for name, value in given.items() if name in self.arguments})


@dataclass(frozen=True, eq=False)
class LoadedHandler:
    """A handler that may be called."""

    name: str
    plugin: object
    info: HandlerInfo
    hooks: Mapping[str, Hook]
    common: CommonSettings
    base_settings: Any
    distribution: str = ""
    version: str = ""
    place: str = ""

    @property
    def stages(self) -> frozenset[Stage]:
        """Where it may be registered."""
        own = frozenset(stage for stage, hook in STAGE_HOOKS.items() if hook in self.hooks)
        return self.info.stages & own if self.info.stages else own

    @functools.cached_property
    def settings_for(self) -> Callable[[str], Any]:
        """The handler's table overlaid by a context; ConfigError when the context is wrong. Remembered by context."""

        @functools.lru_cache(maxsize=SETTINGS_CACHE)
        def settings(context: str) -> Any:
            if not context:
                return self.base_settings
            place = f"context {context!r} of {self.name}"
            return build_from_context(self.info.settings, context, place, self.base_settings)

        return settings

    def check_context(self, context: str) -> None:
        """ConfigError, in one line, when the handler could not work with it."""
        self.settings_for(context)


@dataclass(frozen=True)
class Observer:
    name: str
    hooks: Mapping[str, Hook]


@dataclass(frozen=True)
class Extension:
    """A service with commands or a diagnosis that handles no mail."""

    name: str
    hooks: Mapping[str, Hook]
    distribution: str = ""
    version: str = ""


@dataclass(frozen=True)
class Handlers:
    """Everything that was found, by name."""

    by_name: Mapping[str, LoadedHandler] = field(default_factory=dict)
    observers: tuple[Observer, ...] = ()
    problems: tuple[PluginProblem, ...] = ()
    extensions: Mapping[str, Extension] = field(default_factory=dict)

    def get(self, name: str) -> LoadedHandler | None:
        return self.by_name.get(name)

    def names(self) -> list[str]:
        return sorted(self.by_name)

    def without_plugin(self, config: Config) -> list[str]:
        """Whose table [handlers.NAME] there is, and no such plugin: a program's, or a slip of the pen."""
        left_out = {problem.name for problem in self.problems}
        return [name for name in config.handlers if name not in self.by_name and name not in left_out]


class InvalidPlugin(Exception):
    """Why a plugin is left out, with the remedy."""


def find_handlers(config: Config, found: Iterable[metadata.EntryPoint] | None = None) -> Handlers:
    """All installed plugins; `found` replaces the entry points of this environment, for tests."""
    entry_points = metadata.entry_points(group=ENTRY_POINT_GROUP) if found is None else found
    by_name: dict[str, LoadedHandler] = {}
    observers: list[Observer] = []
    extensions: dict[str, Extension] = {}
    problems: list[PluginProblem] = []
    for entry_point in sorted(entry_points, key=lambda each: (each.name, _distribution(each)[0])):
        distribution, version = _distribution(entry_point)
        try:
            if entry_point.name in by_name:
                other = by_name[entry_point.name].distribution
                raise InvalidPlugin(f"the name is taken by {other}: uninstall one of them")
            loaded = load_plugin(entry_point.name, entry_point.load(), config, distribution, version)
        except InvalidPlugin as error:
            problems.append(PluginProblem(entry_point.name, distribution, str(error)))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever its import does, it is left out
            text = f"cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
            problems.append(PluginProblem(entry_point.name, distribution, f"{text}; repair or uninstall it"))
        else:
            if isinstance(loaded, Observer):
                observers.append(loaded)
            elif isinstance(loaded, Extension):
                extensions[loaded.name] = loaded
            else:
                by_name[loaded.name] = loaded
    return Handlers(by_name, tuple(observers), tuple(problems), extensions)


def load_plugin(
    name: str, plugin: object, config: Config, distribution: str = "", version: str = ""
) -> LoadedHandler | Observer | Extension:
    """One plugin, validated; InvalidPlugin says what is wrong with it."""
    hooks = _validated_hooks(name, plugin)
    if "describe" not in hooks:
        if any(hook in hooks for hook in OBSERVER_HOOKS):
            return Observer(name, hooks)
        if any(hook in hooks for hook in EXTENSION_HOOKS) and not any(hook in hooks for hook in STAGE_HOOKS.values()):
            return Extension(name, hooks, distribution, version)
        raise InvalidPlugin("has no hook `describe`: mark it with postroom.hookspecs.hookimpl")
    try:
        check_name(name)
    except InvalidRegistration as error:
        raise InvalidPlugin(str(error)) from None
    info = hooks["describe"]()
    if not isinstance(info, HandlerInfo):
        raise InvalidPlugin(f"describe() gave {type(info).__name__}, not a HandlerInfo")
    if not dataclasses.is_dataclass(info.settings):
        raise InvalidPlugin(f"its settings type {info.settings.__name__} is no dataclass")
    for placement in info.placements:
        if STAGE_HOOKS[placement.stage] not in hooks:
            hook = STAGE_HOOKS[placement.stage]
            raise InvalidPlugin(f"wants to act at {placement.stage} by default but has no hook {hook}")
    if not any(hook in hooks for hook in STAGE_HOOKS.values()):
        raise InvalidPlugin("acts at no stage: it has none of " + ", ".join(STAGE_HOOKS.values()))
    table = config.handlers.get(name, {})
    own = {key: value for key, value in table.items() if key not in COMMON_KEYS}
    place = config.handler_place(name)
    try:
        common, base = common_settings(config, name), build(info.settings, own, place)
    except ConfigError as error:
        raise InvalidPlugin(str(error)) from None
    where = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
    return LoadedHandler(name, plugin, info, hooks, common, base, distribution, version, where)


def _validated_hooks(name: str, plugin: object) -> dict[str, Hook]:
    manager = pluggy.PluginManager(NAMESPACE)
    manager.add_hookspecs(HandlerHooks)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        text = " ".join(str(error).split())
        raise InvalidPlugin(f"{text}; see postroom.hookspecs for the hooks and their arguments") from None
    hooks: dict[str, Hook] = {}
    for caller in manager.get_hookcallers(plugin) or []:
        for implementation in caller.get_hookimpls():
            hooks[caller.name] = Hook(implementation.function, frozenset(implementation.argnames))
    return hooks


def _distribution(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    found = entry_point.dist
    return (found.name, found.version) if found else ("", "")
