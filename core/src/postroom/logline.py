"""The text form of a log line, both ways: what is logged as a line, and a line as what was logged.

    event words key=value key="value with blanks"

Whatever a peer sends stands inside a value, and there no octet can end the value or the line: blanks are quoted,
everything that is not printable is escaped, `=` never stands in the event. `\\x0a` is a control character, `\\x80` to
`\\xff` an octet that was no UTF-8 (a surrogate in Python), `\\u2028` any other character that does not print.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

IDENT = "postroom"
MAX_VALUE = 2000
"""Characters of one value; the rest is cut, so that no peer fills the log (syslog takes 8 KiB a line)."""

_BARE = re.compile(r"[!#-\[\]-~]+")  # printable ASCII without blank, double quote and backslash
_UNQUOTED = re.compile(r"[ !#-\[\]-~]*")  # the same, and blanks
_PLAIN_EVENT = re.compile(r"[ -<>-\[\]-~]*")  # printable ASCII without "=" and backslash
_ODD_KEY = re.compile(r"[^A-Za-z0-9_.-]")
_PAIR = re.compile(r' ?([A-Za-z0-9_.-]+)=(?:"((?:[^"\\]|\\.)*)"|([^ "]*))(?= |$)')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
_HEAD = re.compile(rf"(?:^|^(?P<head>.*?) ){IDENT}\[(?P<pid>\d+)\]: (?P<rest>.*)$", re.DOTALL)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\S+|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d")  # ISO 8601, or RFC 3164 4.1.2


@dataclass(frozen=True)
class LogLine:
    """One line that was read: every value is text, however it went in."""

    event: str
    facts: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    pid: int = 0


def cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def escape(text: str, also: str = "") -> str:
    """Everything that does not print, backslashes and the characters in `also` as escapes."""
    parts = []
    for character in text:
        code = ord(character)
        if character == "\\":
            parts.append("\\\\")
        elif character in also or code < 0x20 or code == 0x7F:
            parts.append(f"\\x{code:02x}")
        elif character.isprintable():
            parts.append(character)
        elif 0xDC80 <= code <= 0xDCFF:  # surrogateescape: an octet that was no UTF-8
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif code <= 0xFFFF:
            parts.append(f"\\u{code:04x}")
        else:
            parts.append(f"\\U{code:08x}")
    return "".join(parts)


def _unescape_one(found: re.Match[str]) -> str:
    octet, short, long, literal = found.groups()
    if octet:
        code = int(octet, 16)
        return chr(code if code < 0x80 else 0xDC00 + code)
    if short or long:
        code = int(short or long, 16)
        return chr(code) if code <= 0x10FFFF else found[0]
    return str(literal)


def unescape(text: str) -> str:
    return _ESCAPE.sub(_unescape_one, text) if "\\" in text else text


def as_text(value: object) -> str:
    """A fact as text: octets with what is no UTF-8 as surrogates, lists with commas."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(as_text, value))
    return str(value)


@lru_cache(maxsize=1024)
def _key(key: str) -> str:
    return _ODD_KEY.sub("_", key) or "_"


def _quoted(text: str) -> str:
    return text if _UNQUOTED.fullmatch(text) else escape(text, '"')


def format_line(event: str, facts: Mapping[str, object]) -> str:
    """The line, without time and level; a fact that is None is left out."""
    event = cut(event)
    parts = [event if _PLAIN_EVENT.fullmatch(event) else escape(event, "=")]
    for key, value in facts.items():
        if value is None:
            continue
        text = value if type(value) is str else as_text(value)
        if len(text) > MAX_VALUE:
            text = cut(text)
        parts.append(f"{_key(key)}={text}" if _BARE.fullmatch(text) else f'{_key(key)}="{_quoted(text)}"')
    return " ".join(parts)


def parse_line(text: str) -> LogLine:
    """What `format_line` was given."""
    equals = text.find("=")
    blank = text.rfind(" ", 0, equals) if equals >= 0 else len(text)
    event, position, facts = text[: max(blank, 0)], max(blank, 0), {}
    while found := _PAIR.match(text, position):
        key, quoted, bare = found.groups()
        facts[key] = unescape(quoted) if quoted is not None else bare
        position = found.end()
    return LogLine(unescape(event), facts)


def read_line(line: str) -> LogLine | None:
    """One line of a log file as syslog, the journal or we wrote it, text or JSON; None when it is not ours."""
    line = line.rstrip("\r\n")
    if line.startswith("{"):
        return _from_json(line)
    found = _HEAD.match(line)
    if found is None:
        return None
    head, pid, rest = found["head"] or "", int(found["pid"]), found["rest"]
    parsed = (_from_json(rest) if rest.startswith("{") else None) or parse_line(rest)
    when = _TIME.match(head)
    return LogLine(parsed.event, parsed.facts, parsed.time or (when[0] if when else ""), pid)


def _from_json(text: str) -> LogLine | None:
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    if not isinstance(facts, dict) or not isinstance(facts.get("event"), str):
        return None
    event, time, pid = facts.pop("event"), str(facts.pop("time", "")), facts.pop("pid", 0)
    return LogLine(event, {key: as_text(value) for key, value in facts.items()}, time, pid if type(pid) is int else 0)
