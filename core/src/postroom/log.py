"""Logs: structlog, as text lines or JSON, to stderr, syslog or a file.

A line is one event in words, then facts as key=value; `logline` has the form and why no peer can forge a line.
Importing this costs what importing structlog costs: only what logs imports it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast

import structlog

from postroom.config import LogFormat, LogSettings
from postroom.logline import IDENT, as_text, cut, escape, format_line

SYSLOG_SOCKET = "/dev/log"
SYSLOG_PATIENCE = 1.0  # seconds that a syslog which does not read may hold us up, once a line
FACILITY_MAIL = 2 << 3  # RFC 3164 4.1.1
MAX_SYSLOG = 8000  # octets; rsyslog cuts at 8 KiB
FRAMES = 4  # of a traceback, innermost last

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_LEVEL_NUMBER = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_CREDENTIALS = re.compile(r'(://[^\s:/@"]*):[^\s/"]*@')
_SECRET_KEYS = frozenset({"password", "passwd", "secret", "token", "key", "credentials", "auth_password"})
_SURROGATE = re.compile("[\ud800-\udfff]")


class Logger(Protocol):
    """As `hookspecs.Logger`, and binding."""

    def debug(self, event: str, **facts: Any) -> Any: ...
    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...
    def error(self, event: str, **facts: Any) -> Any: ...
    def exception(self, event: str, **facts: Any) -> Any: ...
    def bind(self, **facts: Any) -> Logger: ...


class Target(Protocol):
    """Where lines go. `write` never raises and may be called by several threads."""

    stamps: bool  # whether the reader of this target adds time and process id itself

    def write(self, level: str, line: str) -> None: ...


class StderrTarget:
    """Standard error; when systemd's journal reads it, with the level in front as the journal wants it."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._journal = self.stamps = _is_journal(descriptor)

    def write(self, level: str, line: str) -> None:
        prefix = f"<{_PRIORITY[level]}>" if self._journal else ""  # sd-daemon(3)
        _write_all(self._descriptor, f"{prefix}{line}\n".encode("utf-8", "backslashreplace"))


class SyslogTarget:
    """The local syslog, facility mail; standard error while there is none."""

    stamps = True

    def __init__(self, path: str = SYSLOG_SOCKET, *, fallback: Target | None = None) -> None:
        self._path, self._fallback = path, fallback or StderrTarget()
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._warned = False

    def write(self, level: str, line: str) -> None:
        stamp = time.strftime("%b %e %H:%M:%S")  # RFC 3164 4.1.2
        head = f"<{FACILITY_MAIL | _PRIORITY[level]}>{stamp} {IDENT}[{os.getpid()}]: "
        octets = (head + line).encode("utf-8", "backslashreplace")[:MAX_SYSLOG]
        for _ in range(2):  # a second try for a syslog that was started anew
            try:
                self._connected().send(octets)
            except OSError as error:
                reason = error.strerror or "no answer in time"
                self.close()
            else:
                return
        if not self._warned:
            self._warned = True
            text = format_line("no syslog, logging to stderr", {"level": "warning", "path": self._path, "why": reason})
            self._fallback.write("warning", stamped(text) if not self._fallback.stamps else text)
        self._fallback.write(level, line if self._fallback.stamps else stamped(line))

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._socket is None:
                opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                try:
                    opened.settimeout(SYSLOG_PATIENCE)
                    opened.connect(self._path)
                except OSError:
                    opened.close()
                    raise
                self._socket = opened
            return self._socket

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


class FileTarget:
    """A file that is opened again when somebody moved or removed it (logrotate needs no signal and no copytruncate)."""

    stamps = False

    def __init__(self, path: Path, *, fallback: Target | None = None) -> None:
        self._path, self._fallback = path, fallback or StderrTarget()
        self._lock = threading.Lock()
        self._descriptor = -1
        self._identity = (0, 0)
        self._open()

    def write(self, level: str, line: str) -> None:
        try:
            with self._lock:
                try:
                    found = os.stat(self._path)  # noqa: PTH116  # a microsecond a line, Path.stat costs more
                except FileNotFoundError:
                    self._open()
                else:
                    if (found.st_dev, found.st_ino) != self._identity:
                        self._open()
                _write_all(self._descriptor, f"{line}\n".encode("utf-8", "backslashreplace"), report=True)
        except OSError:
            self._fallback.write(level, line)

    def _open(self) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = opened
        found = os.fstat(opened)
        self._identity = (found.st_dev, found.st_ino)


def _write_all(descriptor: int, octets: bytes, *, report: bool = False) -> None:
    """One write a line, so that lines of several processes never mix."""
    try:
        while octets:
            octets = octets[os.write(descriptor, octets) :]
    except OSError:
        if report:
            raise


def _is_journal(descriptor: int) -> bool:
    """Whether systemd connected it to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Timestamp:
    """Local time with its offset, as rsyslog writes it; strftime is asked once a second."""

    def __init__(self) -> None:
        self._second: tuple[int, str, str] = (-1, "", "")

    def __call__(self, now: float) -> str:
        second = int(now)
        known, clock, offset = self._second
        if second != known:
            local = time.localtime(second)
            clock, zone = time.strftime("%Y-%m-%dT%H:%M:%S", local), time.strftime("%z", local)
            offset = f"{zone[:3]}:{zone[3:]}"
            self._second = (second, clock, offset)
        return f"{clock}.{int((now - second) * 1000000):06d}{offset}"


def stamped(line: str) -> str:
    """A line for a target that adds neither time nor process id, outside of the logger."""
    return f"{Timestamp()(time.time())} {IDENT}[{os.getpid()}]: {line}"


class _Renderer:
    """The one processor: an event with its facts to a line."""

    def __init__(self, format: LogFormat, stamps: bool, now: Callable[[], float]) -> None:
        self._json, self._stamps, self._now = format is LogFormat.JSON, stamps, now
        self._timestamp = Timestamp()

    def __call__(self, logger: object, method: str, facts: MutableMapping[str, Any]) -> str:  # noqa: ARG002
        event = as_text(facts.pop("event"))
        level = "error" if method == "exception" else method
        if given := facts.pop("exc_info", None):
            facts.update(_exception_facts(given))
        if not _SECRET_KEYS.isdisjoint(facts):
            facts.update(dict.fromkeys(_SECRET_KEYS & facts.keys(), "[hidden]"))
        line = (self._as_json if self._json else self._as_text)(event, level, facts)
        return _CREDENTIALS.sub(r"\1:[hidden]@", line) if "://" in line else line

    def _as_text(self, event: str, level: str, facts: Mapping[str, Any]) -> str:
        if level != "info":
            facts = {"level": level, **facts}
        line = format_line(event, facts)
        if self._stamps:
            return line
        return f"{self._timestamp(self._now())} {IDENT}[{os.getpid()}]: {line}"

    def _as_json(self, event: str, level: str, facts: Mapping[str, Any]) -> str:
        head = {"time": self._timestamp(self._now()), "level": level, "pid": os.getpid(), "event": _clean(event)}
        rest = {key: _plain(value) for key, value in facts.items() if value is not None and key not in head}
        return json.dumps(head | rest)


def _clean(text: str) -> str:
    """Lone surrogates are no JSON (RFC 8259 8.2): raw octets as escapes."""
    return escape(cut(text)) if _SURROGATE.search(text) else cut(text)


def _plain(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _clean(as_text(value))


def _exception_facts(given: object) -> dict[str, str]:
    """A traceback on one line: what it was, and the innermost places."""
    if isinstance(given, BaseException):
        error: BaseException | None = given
    elif isinstance(given, tuple):
        error = given[1]
    else:
        error = sys.exc_info()[1]
    if error is None:
        return {}
    return {"error": f"{type(error).__name__}: {error}", "at": _places(error.__traceback__)}


def _places(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)[-FRAMES:]
    return " ".join(f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}" for frame in frames)


class _Output:
    """What structlog calls with a finished line."""

    def __init__(self, target: Target) -> None:
        self._write = target.write

    def debug(self, line: str) -> None:
        self._write("debug", line)

    def info(self, line: str) -> None:
        self._write("info", line)

    def warning(self, line: str) -> None:
        self._write("warning", line)

    warn = warning

    def error(self, line: str) -> None:
        self._write("error", line)

    exception = error

    def critical(self, line: str) -> None:
        self._write("critical", line)

    fatal = critical


def open_target(name: str) -> Target:
    """`stderr`, `syslog`, or a file; OSError when the file cannot be opened."""
    match name:
        case "stderr":
            return StderrTarget()
        case "syslog":
            return SyslogTarget()
        case path:
            return FileTarget(Path(path))


def configure(settings: LogSettings, *, target: Target | None = None, now: Callable[[], float] = time.time) -> None:
    """Set up this process's logs; loggers made before keep what they had, so get new ones after it."""
    target = target or open_target(settings.target)
    output = _Output(target)
    renderer = _Renderer(settings.format, target.stamps, now)
    structlog.configure(
        processors=[cast(structlog.types.Processor, renderer)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVEL_NUMBER[settings.level]),
        logger_factory=lambda *_: output,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def get_logger(**bound: Any) -> Logger:
    """A logger whose every line carries `bound`."""
    return cast(Logger, structlog.get_logger().bind(**bound))
