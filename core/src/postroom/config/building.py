"""From a TOML table or a registration's context to a frozen settings object: one parser for all of them."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import re
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from postroom.config.values import (
    Duration,
    Size,
    SocketAddress,
    parse_duration,
    parse_network,
    parse_size,
    parse_socket,
)

T = TypeVar("T")


class ConfigError(Exception):
    """What is wrong, where, and the remedy, in one line."""


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
def hints_of(kind: Hashable) -> dict[str, Any]:
    """The types of a settings class, by name."""
    return typing.get_type_hints(kind)


def build(kind: type[T], table: Mapping[str, Any], place: str, base: T | None = None) -> T:
    """A frozen settings object of dataclass `kind` from a TOML table; `base` gives what the table does not.

    `place` is how errors call the table, for example "/etc/postroom/postroom.toml: [milter]".
    """
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    hints = hints_of(typing.cast(Hashable, kind))
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
            return parse_network(raw)
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
        return parse_network(raw)
    if hint is Path:
        if not raw.startswith("/"):
            raise ValueError(f"{raw!r} is no absolute path")
        return Path(raw)
    return str(raw)
