"""The `Authentication-Results` field (RFC 8601): made from results, parsed, and recognised when it claims our name.

Across the mail queue, findings travel in this field and nowhere else; so one that comes from outside under our name
has to go before anybody reads it (RFC 8601 5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from postroom.mail import AuthenticationResult, Field, to_a_label

NAME = b"Authentication-Results"
FINDING = "authentication-results"
"""Under this name handlers at before-local find `Results`: what earlier stages on this host found out."""

MAX_VALUE = 512
"""Characters of one property's value or reason; more is cut."""

_TOKEN = re.compile(r"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=\s]+")  # RFC 2045 5.1, with UTF-8 as RFC 6532 3.2 allows
_BARE_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*@[A-Za-z0-9.-]+")  # RFC 8601 2.2 pvalue
_KEYWORD = re.compile(r"[^A-Za-z0-9._-]+")
_NOISE = re.compile(r"\s\d+\s*$|[\s\"\\]+")  # blanks and quotes, and the version after the name
_NAME_GOES_ON = re.compile(r"\.?[a-z0-9_-]")
_LEXEMES = re.compile(r"(?P<quoted>\"(?:[^\"\\]|\\.)*\")|(?P<special>[;=])|(?P<word>[^\s;=\"]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Results:
    """One field: whose it is, and what it says."""

    authserv_id: str
    results: tuple[AuthenticationResult, ...]


def format_value(authserv_id: str, results: Sequence[AuthenticationResult]) -> bytes:
    """The field's value, leading blank and CRLF folds included; nothing in a result can end the field."""
    parts = [_value(_clean(authserv_id) or "localhost")]
    parts += [_format_result(result) for result in results] or ["none"]
    return " ".join(("", ";\r\n\t".join(parts))).encode("utf-8", "replace")


def _format_result(result: AuthenticationResult) -> str:
    words = [f"{_keyword(result.method)}={_keyword(result.result)}"]
    if result.reason:
        words.append(f"reason={_quoted(_clean(result.reason))}")
    for name, value in result.properties:
        ptype, _, rest = name.partition(".")
        words.append(f"{_keyword(ptype)}.{_keyword(rest)}={_value(_clean(value))}")
    return "\r\n\t ".join(words) if sum(map(len, words)) > 70 else " ".join(words)


def _keyword(text: str) -> str:
    return _KEYWORD.sub("", text) or "unknown"


def _clean(text: str) -> str:
    """Printable, bounded, and without octets that are no UTF-8."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:MAX_VALUE]
    return "".join(" " if ord(character) < 32 or 127 <= ord(character) < 160 else character for character in text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _value(text: str) -> str:
    return text if _TOKEN.fullmatch(text) or _BARE_ADDRESS.fullmatch(text) else _quoted(text)


def parse_value(value: bytes) -> Results | None:
    """What a field's value says; None when it is malformed. Comments and versions are left out."""
    text = _without_comments(value.decode("utf-8", "surrogateescape"))
    if text is None:
        return None
    sections = _sections(text)
    if not sections or not sections[0] or "=" in sections[0]:
        return None
    results = []
    for section in sections[1:]:
        if not section or [word.lower() for word in section] == ["none"]:
            continue
        result = _parse_result(section)
        if result is None:
            return None
        results.append(result)
    return Results(sections[0][0], tuple(results))


def _parse_result(section: list[str]) -> AuthenticationResult | None:
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(section):
        if position + 2 >= len(section) or section[position + 1] != "=":
            return None
        name, value = section[position], section[position + 2]
        position += 3
        while position < len(section) and section[position] == "=":  # a bare `b=` value may end in "="
            value += "="
            position += 1
            if position < len(section) and (position + 1 >= len(section) or section[position + 1] != "="):
                value += section[position]
                position += 1
        pairs.append((name, value))
    method, result = pairs[0]
    reason = next((value for name, value in pairs[1:] if name.lower() == "reason"), "")
    properties = tuple((name.lower(), value) for name, value in pairs[1:] if name.lower() != "reason")
    return AuthenticationResult(method.partition("/")[0].lower(), result.lower(), properties, reason)


def _sections(text: str) -> list[list[str]]:
    """Lexemes between semicolons; quoted strings without their quotes."""
    sections: list[list[str]] = [[]]
    for found in _LEXEMES.finditer(text):
        if found["special"] == ";":
            sections.append([])
        elif found["quoted"] is not None:
            sections[-1].append(re.sub(r"\\(.)", r"\1", found["quoted"][1:-1], flags=re.DOTALL))
        else:
            sections[-1].append(found[0])
    if not sections[-1]:
        sections.pop()
    return sections


def _without_comments(text: str) -> str | None:
    """Comments (RFC 5322 3.2.2, they nest) become blanks; None when one is never closed."""
    if "(" not in text:
        return text
    kept: list[str] = []
    depth, quoted, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and (quoted or depth):
            escaped = True
        elif character == '"' and not depth:
            quoted = not quoted
        elif not quoted and character == "(":
            depth += 1
        elif not quoted and depth and character == ")":
            depth -= 1
            kept.append(" ")
            continue
        if not depth:
            kept.append(character)
    return None if depth else "".join(kept)


def claims(value: bytes, authserv_id: str) -> bool:
    """Whether a field says that it is ours. One that cannot be read, but names us, counts as ours."""
    ours = to_a_label(authserv_id)
    text = _without_comments(value.decode("utf-8", "surrogateescape"))
    first = _sections(text)[:1] if text is not None else []
    if text is not None and first and first[0]:
        return to_a_label(first[0][0]) == ours or _seems(text.partition(";")[0], ours)
    return ours.encode("utf-8", "surrogateescape") in value.lower()


def _seems(head: str, ours: str) -> bool:
    """Whether a lenient reader may take a malformed name for ours, whatever blanks and signs are around and in it."""
    squeezed = _NOISE.sub("", head).lstrip("=").lower()
    return squeezed.startswith(ours) and not _NAME_GOES_ON.match(squeezed, len(ours))


def without_forged(fields: Sequence[Field], authserv_id: str) -> tuple[Field, ...]:
    """The fields less those that claim our name."""
    return tuple(
        field
        for field in fields
        if len(field.name) < len(NAME)
        or field.name.strip().lower() != b"authentication-results"
        or not claims(field.value, authserv_id)
    )


def find_ours(fields: Sequence[Field], authserv_id: str) -> tuple[AuthenticationResult, ...]:
    """All results under our name, for readers behind a front that took forged ones out."""
    found: list[AuthenticationResult] = []
    for field in fields:
        if field.name.lower() == b"authentication-results" and claims(field.value, authserv_id):
            parsed = parse_value(field.value)
            found.extend(parsed.results if parsed else ())
    return tuple(found)
