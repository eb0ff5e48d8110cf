"""SPF macros (RFC 7208 7): pure text, no DNS of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

MAX_NAME = 253  # RFC 7208 7.3

_MACRO = re.compile(
    r"%(?:(?P<literal>[%_-])|\{(?P<letter>[slodiphvcrt])(?P<digits>[0-9]*)(?P<reverse>r?)(?P<delimiters>[.+,/_=-]*)\})",
    re.IGNORECASE,
)
_LITERALS = {"%": "%", "_": " ", "-": "%20"}  # RFC 7208 7.1
_EXPLANATION_ONLY = "crt"  # RFC 7208 7.2
_MANY = 3  # digits; no value has a thousand parts


class MacroError(ValueError):
    """The text is no macro-string; says which part."""


def expand(text: str, value: Callable[[str], str], *, explanation: bool = False) -> str:
    """`text` with every macro filled in; `value` gives what a lower-case letter stands for.

    In an explanation, blanks and the letters c, r and t are allowed as well.
    """
    pieces: list[str] = []
    position = 0
    while True:
        at = text.find("%", position)
        literal = text[position:] if at < 0 else text[position:at]
        if not explanation and any(not "!" <= character <= "~" for character in literal):
            raise MacroError("a character that is not printable ASCII")
        pieces.append(literal)
        if at < 0:
            return "".join(pieces)
        found = _MACRO.match(text, at)
        if not found:
            raise MacroError(f"no macro: {text[at : at + 20]}")
        pieces.append(_LITERALS[found["literal"]] if found["literal"] else _fill(found, value, explanation))
        position = found.end()


def _fill(found: re.Match[str], value: Callable[[str], str], explanation: bool) -> str:
    letter, digits = found["letter"], found["digits"]
    if letter.lower() in _EXPLANATION_ONLY and not explanation:
        raise MacroError(f"only for explanations: {found[0]}")
    if digits and not digits.strip("0"):
        raise MacroError(f"no parts at all: {found[0]}")  # RFC 7208 7.3: the number is not zero
    text = value(letter.lower())
    if digits or found["reverse"] or found["delimiters"]:
        parts = re.split("[" + re.escape(found["delimiters"] or ".") + "]", text)
        if found["reverse"]:
            parts.reverse()
        if digits and len(digits.lstrip("0")) <= _MANY:
            parts = parts[-int(digits) :]
        text = ".".join(parts)
    return quote(text, safe="", errors="surrogateescape") if letter.isupper() else text


def domain_name(text: str) -> str:
    """An expanded domain-spec as it is asked: without the last dot, whole labels off the left until it fits."""
    name = text.removesuffix(".")
    while len(name) > MAX_NAME and "." in name:
        name = name.partition(".")[2]
    return name
