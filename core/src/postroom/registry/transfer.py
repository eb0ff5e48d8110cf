"""The whole registry as one TOML file, and back."""

from __future__ import annotations

import difflib
import enum
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from postroom.config import ConfigError
from postroom.registration import InvalidRegistration, Mode, OnError, Registration, Stage, Type, check_address
from postroom.registry.checks import check

TABLE = "registration"
_ALWAYS = ("handler", "stage", "type", "address", "priority", "enabled")
_KEYS = tuple(item.name for item in fields(Registration))
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*registration[ \t]*\]\]", re.MULTILINE)
_CHOICES: Mapping[str, type[enum.StrEnum]] = {"stage": Stage, "type": Type, "mode": Mode, "on_error": OnError}


def write(registrations: Iterable[Registration]) -> Iterator[str]:
    """The file, an entry at a time, in the order given: the same registrations give the same text."""
    yield "# Made by `postroom handlers export`. Entries may be in any order and carry comments;\n"
    yield "# `postroom handlers apply FILE` makes the registry hold exactly these.\n"
    for registration in registrations:
        yield f"\n[[{TABLE}]]\n"
        default = Registration(registration.handler, registration.stage, registration.type)
        for name in _KEYS:
            value = getattr(registration, name)
            if (name in _ALWAYS and value != "") or value != getattr(default, name):
                yield f"{name} = {_literal(value)}\n"


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case _:
            # a JSON string is a TOML basic string, but for DEL, which TOML wants escaped
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def read(text: str, source: str) -> list[Registration]:
    """The registrations in `text`; ConfigError names the file, the first bad entry, and the remedy."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: no valid TOML: {error}") from None
    entries = document.pop(TABLE, [])
    if document:
        raise ConfigError(f"{source}: unknown key {next(iter(document))!r}: the file holds [[{TABLE}]] entries only")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{source}: {TABLE} is a list of tables: write [[{TABLE}]] above each entry")
    places = Places(text, source, len(entries))
    known: dict[tuple[str, Stage, Type, str], int] = {}
    found = []
    for number, entry in enumerate(entries):
        try:
            registration = _registration(entry)
        except InvalidRegistration as error:
            raise ConfigError(f"{places.of(number, entry.get('handler'))}: {error}") from None
        if registration.key in known:
            other = places.of(known[registration.key], None)
            raise ConfigError(
                f"{places.of(number, registration.handler)}: {registration} stands at {other} already: leave one out"
            )
        known[registration.key] = number
        found.append(registration)
    return found


class Places:
    """How errors call the entries of a file: by number, and by line where the file is written as `export` does."""

    def __init__(self, text: str, source: str, entries: int) -> None:
        self._source = source
        starts = [found.start() for found in _HEADER.finditer(text)]
        self._text, self._starts = text, starts if len(starts) == entries else []

    def of(self, number: int, handler: object) -> str:
        line = f":{self._text.count(chr(10), 0, self._starts[number]) + 1}" if self._starts else ""
        name = f" ({handler})" if isinstance(handler, str) else ""
        return f"{self._source}{line}: {TABLE} {number + 1}{name}"


def _registration(entry: Mapping[str, Any]) -> Registration:
    for key in entry:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(_KEYS)}"
            raise InvalidRegistration(f"unknown key {key!r}; {hint}")
    for key in ("handler", "stage", "type"):
        if key not in entry:
            raise InvalidRegistration(f"{key} is missing: write {key} = …")
    values = {key: _value(key, raw) for key, raw in entry.items()}
    values["address"] = check_address(values["type"], values.get("address", ""))
    registration = Registration(**values)
    check(registration)
    return registration


def _value(key: str, raw: object) -> Any:
    if key in _CHOICES:
        members = list(_CHOICES[key])
        try:
            return _CHOICES[key](raw)  # type: ignore[arg-type]  # what is no text is no member either
        except ValueError:
            raise InvalidRegistration(f"{key} {raw!r} is not one of {', '.join(members)}") from None
    wanted, what = {"priority": (int, "a number"), "enabled": (bool, "true or false")}.get(key, (str, "text in quotes"))
    if not isinstance(raw, wanted) or (wanted is int and isinstance(raw, bool)):
        raise InvalidRegistration(f"{key} {raw!r} is wrong: write {what}")
    return raw
