"""The configuration file: TOML to frozen settings.

One parser serves the core's tables, a handler's `[handlers.NAME]` table and a registration's context. An unknown key
or a wrong value is a `ConfigError` that names file, key and remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postroom.config.building import ConfigError, build, build_from_context, hints_of, setting
from postroom.config.sections import (
    LEAST_HISTORY,
    BeforeData,
    DeliveryKind,
    DeliverySettings,
    DirectorySettings,
    DnsSettings,
    HandoverSettings,
    Host,
    LmtpSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    MilterEngine,
    MilterSettings,
    Paths,
    QuarantineSettings,
    RedisSettings,
    RegistrySettings,
    ReinjectSettings,
    ServerSettings,
)
from postroom.config.values import Duration, Network, Size, SocketAddress, parse_duration, parse_size, parse_socket

__all__ = [
    "DEFAULT_PATH",
    "LEAST_HISTORY",
    "MAX_CONFIG",
    "PATH_VARIABLE",
    "BeforeData",
    "Config",
    "ConfigError",
    "DeliveryKind",
    "DeliverySettings",
    "DirectorySettings",
    "DnsSettings",
    "Duration",
    "HandoverSettings",
    "Host",
    "LmtpSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "MilterEngine",
    "MilterSettings",
    "Network",
    "Paths",
    "QuarantineSettings",
    "RedisSettings",
    "RegistrySettings",
    "ReinjectSettings",
    "ServerSettings",
    "Size",
    "SocketAddress",
    "build",
    "build_from_context",
    "config_path",
    "load_config",
    "parse_config",
    "parse_duration",
    "parse_size",
    "parse_socket",
    "setting",
]

DEFAULT_PATH = Path("/etc/postroom/postroom.toml")
PATH_VARIABLE = "POSTROOM_CONFIG"
MAX_CONFIG = 16 << 20


@dataclass(frozen=True)
class Config:
    """All settings of one host. `handlers` are raw tables: each handler's own settings type checks its table."""

    paths: Paths = field(default_factory=Paths)
    host: Host = field(default_factory=Host)
    server: ServerSettings = field(default_factory=ServerSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    quarantine: QuarantineSettings = field(default_factory=QuarantineSettings)
    directory: DirectorySettings = field(default_factory=DirectorySettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    milter: MilterSettings = field(default_factory=MilterSettings)
    lmtp: LmtpSettings = field(default_factory=LmtpSettings)
    handover: HandoverSettings = field(default_factory=HandoverSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    reinject: ReinjectSettings = field(default_factory=ReinjectSettings)
    dns: DnsSettings = field(default_factory=DnsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    handlers: dict[str, dict[str, Any]] = field(default_factory=dict)
    source: str = "built-in defaults"

    @functools.cached_property  # the resolver may be asked: once, not for each mail
    def host_name(self) -> str:
        if self.host.name:
            return self.host.name
        import socket

        return socket.getfqdn()

    @property
    def authserv_id(self) -> str:
        return self.host.authserv_id or self.host_name

    @property
    def registry_url(self) -> str:
        return self.registry.url or f"sqlite:///{self.paths.state / 'registry.sqlite'}"

    @property
    def lmtp_listen(self) -> tuple[SocketAddress, ...]:
        return self.lmtp.listen or (SocketAddress("unix", path=str(self.paths.run / "lmtp.sock")),)

    def handler_place(self, name: str) -> str:
        """How errors call a handler's table."""
        return f"{self.source}: [handlers.{name}]"


def parse_config(text: str, source: str) -> Config:
    """The settings in `text`; `source` is the file's name, for errors."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: no valid TOML: {error}") from None
    tables = {item.name: item for item in dataclasses.fields(Config) if item.name != "source"}
    values: dict[str, Any] = {"source": source}
    for name, table in document.items():
        if name not in tables:
            close = difflib.get_close_matches(name, tables, 1)
            hint = f"did you mean [{close[0]}]?" if close else f"known tables: {', '.join(sorted(tables))}"
            raise ConfigError(f"{source}: unknown table [{name}]; {hint}")
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} is a table: write [{name}]")
        if name == "handlers":
            for handler, settings in table.items():
                if not isinstance(settings, dict):
                    raise ConfigError(f"{source}: [handlers]: {handler} is a table: write [handlers.{handler}]")
            values[name] = table
        else:
            values[name] = build(hints_of(Config)[name], table, f"{source}: [{name}]")
    return Config(**values)


def config_path(given: str | None) -> tuple[Path, bool]:
    """The file to read, and whether somebody asked for it by name (then it has to be there)."""
    named = given or os.environ.get(PATH_VARIABLE)
    return (Path(named), True) if named else (DEFAULT_PATH, False)


def load_config(given: str | None = None) -> Config:
    """`--config`, else $POSTROOM_CONFIG, else /etc/postroom/postroom.toml; without that file, the defaults."""
    path, named = config_path(given)
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_CONFIG + 1)
        if len(octets) > MAX_CONFIG:
            raise ConfigError(f"{path}: longer than {Size(MAX_CONFIG)} octets: this is no configuration file")
        return parse_config(octets.decode("utf-8-sig"), str(path))  # some editors begin a file with a mark
    except FileNotFoundError:
        if named:
            raise ConfigError(f"{path}: no such file; make it, or leave out --config and ${PATH_VARIABLE}") from None
        return Config()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
