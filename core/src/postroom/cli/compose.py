"""Where the parts meet: a configuration becomes a pipeline, and the environment that commands work in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from postroom.cli.output import CommandFailed, show_table
from postroom.config import Config, load_config

if TYPE_CHECKING:
    from postroom.hookspecs import Services
    from postroom.pipeline import Pipeline
    from postroom.plugins import Handlers, LoadedHandler
    from postroom.registration import Registration
    from postroom.registry import Registry
    from postroom.services.lend import Lender


EXTENSION_TIMEOUT = 60.0
"""Seconds that a command of a plugin which is no handler may wait for services."""


def open_registry(config: Config, *, create: bool = True) -> Registry:
    from postroom.registry import Registry

    return Registry.open(config.registry_url, float(config.registry.timeout), create=create)


def compose_lender(config: Config) -> Lender:
    """The services of one process."""
    from postroom.services.clock import SystemClock
    from postroom.services.directory import open_directory
    from postroom.services.dns import DnsResolver
    from postroom.services.lend import Lender
    from postroom.services.reinject import open_reinjector
    from postroom.services.state import open_state

    clock = SystemClock()
    return Lender(
        config=config,
        clock=clock,
        dns=DnsResolver(config.dns, clock, f"{config.source}: [dns]"),
        state=open_state(config.redis, config.paths.state),
        directory=open_directory(config),
        reinject=open_reinjector(config),
    )


def compose_pipeline(config: Config, handlers: Handlers | None = None) -> Pipeline:
    """All that a worker process needs behind its front."""
    from postroom.log import get_logger
    from postroom.pipeline import Pipeline
    from postroom.plugins import find_handlers

    found = find_handlers(config) if handlers is None else handlers
    log = get_logger()
    for problem in found.problems:
        log.error("plugin is left out", plugin=problem.name, distribution=problem.distribution, problem=problem.text)
    for name in found.without_plugin(config):
        log.info("a table configures no installed plugin: well for a program", table=f"handlers.{name}")
    return Pipeline(open_registry(config), found, compose_lender(config), log)


class Environment:
    """What a command finds in `click.Context.obj`; everything in it is made when it is first asked for."""

    def __init__(self, config_path: str | None = None) -> None:
        self.config_path = config_path
        self.as_json = False

    @functools.cached_property
    def config(self) -> Config:
        return load_config(self.config_path)

    @functools.cached_property
    def _handlers(self) -> Handlers:
        from postroom.plugins import find_handlers

        return find_handlers(self.config)

    @functools.cached_property
    def _registry(self) -> Registry:
        return open_registry(self.config)

    @functools.cached_property
    def _lender(self) -> Lender:
        from postroom.config import LogLevel, LogSettings
        from postroom.log import configure

        configure(LogSettings(level=LogLevel.WARNING))  # a command speaks for itself; stderr gets what is amiss
        return compose_lender(self.config)

    def handlers(self) -> Handlers:
        return self._handlers

    def open_registry(self) -> Registry:
        return self._registry

    def lender(self) -> Lender:
        return self._lender

    def pipeline(self, handlers: Handlers | None = None) -> Pipeline:
        from postroom.log import get_logger
        from postroom.pipeline import Pipeline

        lender = self._lender  # first: it sets the log up
        return Pipeline(self._registry, handlers or self._handlers, lender, get_logger())

    def handler(self, name: str) -> LoadedHandler:
        """The plugin of that name; ends the command when it is not there."""
        found = self._handlers.get(name)
        if found is not None:
            return found
        for problem in self._handlers.problems:
            if problem.name == name:
                self.fail(f"plugin {name} is left out: {problem.text}")
        known = ", ".join(self._handlers.names()) or "none is installed"
        return self.fail(f"there is no plugin named {name!r}; installed: {known}")

    def services(self, handler: str) -> Services:
        from postroom.log import get_logger

        known = handler in self._handlers.extensions
        timeout = EXTENSION_TIMEOUT if known else self.handler(handler).info.timeout
        lender = self._lender  # first: it sets the log up
        return lender.lend(get_logger(handler=handler), timeout)

    def settings(self, handler: str) -> Any:
        return self.handler(handler).base_settings

    def registrations(self, handler: str) -> Sequence[Registration]:
        return list(self._registry.list(handler=handler))

    def register(self, registration: Registration) -> bool:
        from postroom.cli.who import who
        from postroom.registry import Filter

        with self._registry.change(who()) as change:
            known = next(iter(change.find(Filter(*registration.key))), None)
            if known is None:
                change.add(dataclasses.replace(registration, enabled=True))
            elif not known.enabled:
                change.update(dataclasses.replace(known, enabled=True))
        return known is None or not known.enabled

    def unregister(self, registration: Registration) -> bool:
        from postroom.cli.who import who
        from postroom.registry import Filter

        with self._registry.change(who()) as change:
            known = next(iter(change.find(Filter(*registration.key))), None)
            if known is not None:
                change.remove(known.key)
        return known is not None

    def show(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        show_table(columns, rows, title=title, as_json=self.as_json)

    def fail(self, message: str, status: int = 1) -> NoReturn:
        raise CommandFailed(message, status)
