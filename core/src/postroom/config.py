"""The configuration file: TOML to frozen settings.

One parser serves the core's tables, a handler's `[handlers.NAME]` table and a registration's context. An unknown key
or a wrong value is a `ConfigError` that names file, key and remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import os
import re
import tomllib
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeVar

DEFAULT_PATH = Path("/etc/postroom/postroom.toml")
PATH_VARIABLE = "POSTROOM_CONFIG"
MAX_CONFIG = 16 << 20

Network = IPv4Network | IPv6Network
T = TypeVar("T")


class ConfigError(Exception):
    """What is wrong, where, and the remedy, in one line."""


class Duration(float):
    """Seconds; written as "90s", "5m", "36d" or a plain number of seconds."""

    def __str__(self) -> str:
        for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
            if self and self % length == 0:
                return f"{int(self // length)}{unit}"
        return f"{self:g}s" if self >= 1 or not self else f"{self * 1000:g}ms"


class Size(int):
    """Octets; written as "50M", "64K" or a plain number."""

    def __str__(self) -> str:
        for length, unit in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
            if self and self % length == 0:
                return f"{int(self) // length}{unit}"
        return f"{int(self)}"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where to listen or connect: `inet:host:port`, `inet6:[host]:port`, `unix:/path`."""

    family: str  # "inet", "inet6", "unix"
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        match self.family:
            case "unix":
                return f"unix:{self.path}"
            case "inet6":
                return f"inet6:[{self.host}]:{self.port}"
            case _:
                return f"inet:{self.host}:{self.port}"


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, None: 1}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_INET = re.compile(r"inet:([^:\[\]\s]+):(\d{1,5})")
_INET6 = re.compile(r"inet6:\[([0-9a-fA-F:.]+)\]:(\d{1,5})")


def parse_duration(text: str) -> Duration:
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(f'{text!r} is no duration: write "90s", "5m", "12h" or "36d"')
    return Duration(float(found[1]) * _DURATION_UNITS[found[2]])


def parse_size(text: str) -> Size:
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f'{text!r} is no size: write "64K", "50M" or a number of octets')
    return Size(int(found[1]) * _SIZE_UNITS[found[2].upper()])


def parse_socket(text: str) -> SocketAddress:
    if text.startswith("unix:/"):
        return SocketAddress("unix", path=text[5:])
    for pattern, family in ((_INET, "inet"), (_INET6, "inet6")):
        if (found := pattern.fullmatch(text)) and int(found[2]) <= 65535:
            return SocketAddress(family, host=found[1], port=int(found[2]))
    raise ValueError(f'{text!r} is no socket: write "inet:127.0.0.1:12768", "inet6:[::1]:12768" or "unix:/path"')


def setting(
    default: Any,
    *,
    help: str,
    least: float | None = None,
    most: float | None = None,
    word: bool = False,
    secret: bool = False,
) -> Any:
    """A dataclass field with what users read about it.

    `word`: a bool that may stand in a context as a bare word (`debug`). `secret`: never shown.
    """
    metadata = {"help": help, "least": least, "most": most, "word": word, "secret": secret}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@functools.lru_cache(maxsize=256)
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def build(kind: type[T], table: Mapping[str, Any], place: str, base: T | None = None) -> T:
    """A frozen settings object of dataclass `kind` from a TOML table; `base` gives what the table does not.

    `place` is how errors call the table, for example "/etc/postroom/postroom.toml: [milter]".
    """
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    hints = _hints(typing.cast(Hashable, kind))
    values = {} if base is None else {name: getattr(base, name) for name in known}
    for key, raw in table.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known)) or 'none'}"
            raise ConfigError(f"{place}: unknown key {key!r}; {hint}")
        try:
            value = _convert(hints[key], raw)
            _check_range(value, known[key].metadata)
        except ValueError as error:
            raise ConfigError(f"{place}: {key}: {error}") from None
        values[key] = value
    try:
        return kind(**values)
    except ValueError as error:  # a settings class may check what belongs together in __post_init__
        raise ConfigError(f"{place}: {error}") from None


def build_from_context(kind: type[T], context: str, place: str, base: T | None = None) -> T:
    """Settings from a registration's context: `key=value, key=value`, or bare words where the settings allow them.

    A value that holds a comma is put in double quotes; inside them a backslash escapes.
    """
    table: dict[str, Any] = {}
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    for part in _split_context(context, place):
        key, equals, text = part.partition("=")
        key = key.strip()
        if key in table:
            raise ConfigError(f"{place}: {key!r} is given twice")
        if equals:
            table[key] = _FromText(_unquote(text.strip()))
        elif key in known and known[key].metadata.get("word"):
            table[key] = True
        else:
            words = sorted(name for name, item in known.items() if item.metadata.get("word"))
            allowed = f" or one of these words: {', '.join(words)}" if words else ""
            raise ConfigError(f"{place}: {key!r} is no setting; a context is key=value, key=value{allowed}")
    return build(kind, table, place, base)


class _FromText(str):
    """A value of a context: text whatever the setting's type is."""


def _split_context(context: str, place: str) -> list[str]:
    parts, current, quoted, escaped = [], "", False, False
    for character in context:
        if escaped:
            current, escaped = current + character, False
        elif quoted and character == "\\":
            current, escaped = current + character, True
        elif character == '"':
            current, quoted = current + character, not quoted
        elif character == "," and not quoted:
            parts.append(current)
            current = ""
        else:
            current += character
    if quoted:
        raise ConfigError(f"{place}: a double quote is never closed")
    return [part.strip() for part in [*parts, current] if part.strip()]


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _check_range(value: Any, metadata: Mapping[str, Any]) -> None:
    least, most = metadata.get("least"), metadata.get("most")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if least is not None and value < least:
            raise ValueError(f"{value} is too small: at least {least:g}")
        if most is not None and value > most:
            raise ValueError(f"{value} is too large: at most {most:g}")


def _convert(hint: Any, raw: Any) -> Any:
    """`raw` (from TOML, or text from a context) as a value of the annotated type; ValueError says what is wanted."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [kind for kind in arguments if kind is not type(None)]
        if isinstance(raw, _FromText) and raw == "" and len(choices) < len(arguments):
            return None
        if choices == [IPv4Network, IPv6Network]:
            return _network(raw)
        return _convert(choices[0], raw)
    if origin is tuple:
        items = [_FromText(part) for part in raw.split()] if isinstance(raw, _FromText) else raw
        if not isinstance(items, list | tuple):
            raise ValueError(f"{raw!r} is no list")
        return tuple(_convert(arguments[0], item) for item in items)
    if origin is dict:
        if not isinstance(raw, Mapping):
            raise ValueError(f"{raw!r} is no table")
        return {str(key): _convert(arguments[1], value) for key, value in raw.items()}
    if dataclasses.is_dataclass(hint) and hint is not SocketAddress:
        if not isinstance(raw, Mapping):
            raise ValueError(f"{raw!r} is no table")
        return build(hint, raw, "in it")  # type: ignore[arg-type]  # hint is a dataclass type here
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(int(raw) if isinstance(raw, _FromText) and issubclass(hint, int) else raw)
        except ValueError:
            members = ", ".join(str(member.value) for member in hint)
            raise ValueError(f"{raw!r} is not one of {members}") from None
    return _convert_plain(hint, raw)


def _convert_plain(hint: Any, raw: Any) -> Any:
    from_text = isinstance(raw, _FromText)
    if hint is Any:
        return raw
    if hint is bool:
        if isinstance(raw, bool):
            return raw
        if from_text and raw.lower() in ("true", "yes", "on", "false", "no", "off"):
            return raw.lower() in ("true", "yes", "on")
        raise ValueError(f"{raw!r} is neither true nor false")
    if hint in (Duration, Size):
        parse: Any = parse_duration if hint is Duration else parse_size
        if isinstance(raw, int | float) and not isinstance(raw, bool) and raw >= 0:
            return hint(raw)
        if isinstance(raw, str):
            return parse(raw)
        raise ValueError(f"{raw!r} is no {hint.__name__.lower()}")
    if hint in (int, float):
        if isinstance(raw, hint) and not isinstance(raw, bool):
            return raw
        if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
            return float(raw)
        if from_text:
            try:
                return hint(raw)
            except ValueError:
                pass
        raise ValueError(f"{raw!r} is no {'whole number' if hint is int else 'number'}")
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is no text: put it in quotes")
    if hint is SocketAddress:
        return parse_socket(raw)
    if hint in (IPv4Network, IPv6Network):
        return _network(raw)
    if hint is Path:
        if not raw.startswith("/"):
            raise ValueError(f"{raw!r} is no absolute path")
        return Path(raw)
    return str(raw)


def _network(raw: Any) -> Network:
    try:
        return ip_network(str(raw), strict=False)
    except ValueError:
        raise ValueError(f"{raw!r} is no network: write 192.0.2.0/24 or 2001:db8::/32") from None


@dataclass(frozen=True)
class Paths:
    state: Path = setting(Path("/var/lib/postroom"), help="Databases, quarantine and spool.")
    run: Path = setting(Path("/run/postroom"), help="Sockets and process id.")


@dataclass(frozen=True)
class Host:
    name: str = setting("", help="How this host calls itself; empty: its fully qualified name.")
    authserv_id: str = setting("", help="Our name in Authentication-Results (RFC 8601 2.5); empty: `name`.")
    networks: tuple[Network, ...] = setting(
        (ip_network("127.0.0.0/8"), ip_network("::1/128")), help="Own networks: their mail is of class `local`."
    )
    relays: tuple[Network, ...] = setting((), help="Own gateways: the client before them counts (spf).")
    recipient_delimiter: str = setting("+", help="Separates a tag from a user name; empty: no tags.")
    domains: tuple[str, ...] = setting((), help="Domains whose mailboxes are here, where no directory plugin knows.")
    local_transports: tuple[str, ...] = setting(
        ("local", "virtual", "lmtp", "postroom", "plesk_virtual"),
        help="Transports of the mail server that deliver here: a hint where `domains` is empty.",
    )


@dataclass(frozen=True)
class ServerSettings:
    user: str = setting("", help="Whom to run as when started by root; empty: whoever started it.")
    group: str = setting("", help="Its group, which also gets the unix sockets; empty: the user's own.")
    grace: Duration = setting(Duration(30), help="Stopping: longest wait for the mails in hand.", most=3600)
    reload_grace: Duration = setting(
        Duration(300), help="Reloading: how long connections made before keep their old worker.", most=3600
    )
    housekeeping: Duration = setting(
        Duration(3600), help="How often what is too old is deleted (quarantine, history); 0: not by the server."
    )

    def __post_init__(self) -> None:
        if 0 < self.housekeeping < 1:
            raise ValueError(f"housekeeping {self.housekeeping} is too often: write 1s or more, or 0 for never")


LEAST_HISTORY = Duration(86400)
"""Of the registry: whatever a mail under way began with can still be read."""


@dataclass(frozen=True)
class RegistrySettings:
    url: str = setting(
        "", help="sqlite:///path or postgresql+psycopg://…; empty: a file in the state directory.", secret=True
    )
    timeout: Duration = setting(Duration(5), help="Longest wait for the database.", least=0.1, most=25)
    history: Duration = setting(
        Duration(365 * 86400), help="How far back `diff` and `rollback` reach, at least a day; 0: for ever."
    )

    def __post_init__(self) -> None:
        if 0 < self.history < LEAST_HISTORY:
            raise ValueError(
                f"history {self.history} is less than {LEAST_HISTORY}: mails under way may still ask for it"
            )


@dataclass(frozen=True)
class QuarantineSettings:
    keep: Duration = setting(
        Duration(30 * 86400), help="What was held, and released, longer ago is deleted; 0: nothing ever is."
    )


@dataclass(frozen=True)
class DirectorySettings:
    provider: str = setting(
        "", help="Directory service that knows domains and mailboxes; empty: `[host] domains` and the Maildirs."
    )
    url: str = setting("", help="Its database, where it has one; empty: a file in the state directory.", secret=True)
    timeout: Duration = setting(Duration(5), help="Longest wait for its answer.", least=0.1, most=25)


@dataclass(frozen=True)
class RedisSettings:
    url: str = setting("", help="redis://[user:password@]host:port/db, rediss:// for TLS, unix:///path.", secret=True)
    sentinel: tuple[str, ...] = setting((), help="host:port of each sentinel; then `service` names the master.")
    service: str = setting("", help="Name of the master that the sentinels watch.")
    cluster: bool = setting(False, help="The URL is a node of a Redis Cluster.")
    timeout: Duration = setting(Duration(0.5), help="Longest wait for one answer.", least=0.01, most=20)
    connections: int = setting(16, help="Most connections a worker opens.", least=1, most=1000)
    tls_ca: Path | None = setting(None, help="CA certificates for rediss://; none: the system's.")

    def __post_init__(self) -> None:
        if self.sentinel and not self.service:
            raise ValueError("sentinel needs service, the name of the master that they watch")
        if self.sentinel and self.cluster:
            raise ValueError("sentinel and cluster exclude each other")
        if self.cluster and not self.url:
            raise ValueError("cluster needs url, one node of the cluster")

    @property
    def configured(self) -> bool:
        return bool(self.url or self.sentinel)


class MilterEngine(enum.StrEnum):
    NATIVE = "native"
    LIBMILTER = "libmilter"


class BeforeData(enum.StrEnum):
    DATA = "data"  # one answer at DATA, as in the reference
    RCPT = "rcpt"  # an answer for each recipient at RCPT


@dataclass(frozen=True)
class MilterSettings:
    listen: tuple[SocketAddress, ...] = setting(
        (SocketAddress("inet", "127.0.0.1", 12768),), help="Where the mail server connects."
    )
    workers: int = setting(0, help="Worker processes; 0: one a core.", least=0, most=256)
    threads: int = setting(16, help="Handlers at once in one worker.", least=1, most=1000)
    connections: int = setting(1000, help="Most connections at once in one worker.", least=1, most=100000)
    engine: MilterEngine = setting(MilterEngine.NATIVE, help="native, or libmilter (pymilter, `postroom[libmilter]`).")
    before_data: BeforeData = setting(BeforeData.DATA, help="Answer before-data at DATA or for each RCPT.")
    stage_timeout: Duration = setting(Duration(25), help="All handlers at before-data together.", least=1, most=3600)
    content_timeout: Duration = setting(Duration(270), help="All handlers at end of message.", least=1, most=3600)
    max_message: Size = setting(Size(100 << 20), help="A longer mail is refused by name of this limit.", least=1024)
    max_header: Size = setting(Size(1 << 20), help="A longer header is refused by name of this limit.", least=1024)
    max_recipients: int = setting(10000, help="More recipients are refused for now.", least=1)


@dataclass(frozen=True)
class LmtpSettings:
    listen: tuple[SocketAddress, ...] = setting((), help="Where mail is handed to before-local; none: run/lmtp.sock.")
    workers: int = setting(1, help="Worker processes.", least=1, most=256)
    threads: int = setting(16, help="Deliveries at once in one worker.", least=1, most=1000)
    connections: int = setting(1000, help="Most connections at once in one worker.", least=1, most=100000)
    max_message: Size = setting(Size(100 << 20), help="A longer mail is refused (announced as SIZE).", least=1024)
    max_recipients: int = setting(1000, help="More recipients are refused for now.", least=100)
    handler_timeout: Duration = setting(Duration(240), help="All handlers for one recipient.", least=1, most=3600)
    idle_timeout: Duration = setting(Duration(300), help="A silent client is sent away.", least=1, most=3600)


@dataclass(frozen=True)
class HandoverSettings:
    listen: tuple[SocketAddress, ...] = setting(
        (), help="Unix sockets on which the qmail and sendmail wrappers hand mail over; none: nobody does."
    )
    workers: int = setting(1, help="Worker processes.", least=1, most=256)
    threads: int = setting(16, help="Mails at once in one worker.", least=1, most=1000)
    connections: int = setting(1000, help="Most connections at once in one worker.", least=1, most=100000)
    max_message: Size = setting(Size(100 << 20), help="A longer mail is refused by name of this limit.", least=1024)
    max_recipients: int = setting(10000, help="More recipients are refused for now.", least=1)
    handler_timeout: Duration = setting(Duration(240), help="All handlers for one mail.", least=1, most=3600)
    idle_timeout: Duration = setting(Duration(60), help="A silent client is hung up on.", least=1, most=3600)
    believe: tuple[str, ...] = setting(
        ("qmaild",), help="Users whose processes are believed what they say of the SMTP client; root always is."
    )

    def __post_init__(self) -> None:
        if any(address.family != "unix" for address in self.listen):
            raise ValueError('listen takes unix sockets only, such as "unix:/run/postroom/handover.sock"')


class DeliveryKind(enum.StrEnum):
    MAILDIR = "maildir"
    LMTP = "lmtp"
    COMMAND = "command"


@dataclass(frozen=True)
class DeliverySettings:
    kind: DeliveryKind = setting(DeliveryKind.MAILDIR, help="What happens after before-local.")
    root: Path = setting(Path("/var/qmail/mailnames"), help="Maildirs: ROOT/domain/user/Maildir.")
    create: bool = setting(False, help="Make the Maildir of an unknown user instead of answering 5.1.1.")
    next_hop: SocketAddress | None = setting(None, help='LMTP server for kind = "lmtp".')
    folder_delimiter: str = setting(
        "", help='kind = "lmtp": mail for a folder goes to user+Folder@domain with this delimiter; empty: to the inbox.'
    )
    command: tuple[str, ...] = setting(
        (),
        help='Program and arguments for kind = "command"; {sender}, {recipient}, {user}, {domain}, {queue_id}, '
        "{folder} are filled in.",
    )
    list_command: tuple[str, ...] = setting(
        (), help="Program of the list manager, filled in the same way; for lists that the directory sends to `command`."
    )
    timeout: Duration = setting(Duration(60), help="Longest wait for next hop or command.", least=1, most=900)

    def __post_init__(self) -> None:
        if self.kind is DeliveryKind.LMTP and self.next_hop is None:
            raise ValueError('kind = "lmtp" needs next_hop, for example "unix:/run/dovecot/lmtp"')
        if self.kind is DeliveryKind.COMMAND and not self.command:
            raise ValueError('kind = "command" needs command, for example ["/usr/bin/maildrop", "-d", "{recipient}"]')


@dataclass(frozen=True)
class ReinjectSettings:
    to: str = setting("", help="smtp:host:port, or the absolute path of a sendmail program; empty: /usr/sbin/sendmail.")
    timeout: Duration = setting(Duration(30), help="Longest wait for the mail server.", least=1, most=300)


@dataclass(frozen=True)
class DnsSettings:
    nameservers: tuple[str, ...] = setting((), help="host:port or [v6]:port of each; none: those of /etc/resolv.conf.")
    timeout: Duration = setting(Duration(5), help="Longest wait for one answer, retries included.", least=0.1, most=20)
    cache: int = setting(10000, help="Answers remembered in a worker; 0: none.", least=0, most=1000000)


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class LogSettings:
    format: LogFormat = setting(LogFormat.TEXT, help="text lines, or JSON.")
    level: LogLevel = setting(LogLevel.INFO, help="debug, info, warning or error.")
    target: str = setting("stderr", help="stderr, syslog, or the absolute path of a file.")

    def __post_init__(self) -> None:
        if self.target not in ("stderr", "syslog") and not self.target.startswith("/"):
            raise ValueError(f'target {self.target!r} is neither "stderr" nor "syslog" nor an absolute path')


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
            values[name] = build(_hints(Config)[name], table, f"{source}: [{name}]")
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
        return parse_config(octets.decode(), str(path))
    except FileNotFoundError:
        if named:
            raise ConfigError(f"{path}: no such file; make it, or leave out --config and ${PATH_VARIABLE}") from None
        return Config()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
