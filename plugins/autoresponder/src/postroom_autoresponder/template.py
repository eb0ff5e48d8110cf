"""Pure: texts with `${fields}`. Nothing can be evaluated in them, and a wrong one is refused when it is set."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from string import Template

FIELDS: Mapping[str, str] = {
    "subject": "the subject of the mail that is answered",
    "sender": "the address that the reply goes to",
    "name": "the sender's name, or the address where the mail has none",
    "mailbox": "the address of the mailbox",
    "owner": "the name set with --name, or the address of the mailbox",
    "date": "the date of the mail that is answered, as it says itself",
    "start": "the responder's first day",
    "end": "the responder's last day",
}
DEFAULT_SUBJECT = "Re: ${subject}"
MAX_SUBJECT = 256
"""Characters of a subject; encoded it stays well below RFC 5322's 998 octets a line."""

_SAMPLE = dict.fromkeys(FIELDS, "x")
_RE = re.compile(r"(?:re\s*:\s*)+", re.IGNORECASE)


class _Fields(Template):
    """`${name}` and `$name`, and `$$` for a dollar sign; ASCII names only."""

    flags = re.ASCII


class TemplateError(ValueError):
    """What is wrong with a text, in one line."""


def render(template: str, values: Mapping[str, str]) -> str:
    try:
        return _Fields(template).substitute(values)
    except KeyError as error:
        known = ", ".join(FIELDS)
        raise TemplateError(f"there is no field ${{{error.args[0]}}}; there are {known}") from None
    except ValueError as error:  # says in which line and column the sign stands
        raise TemplateError(f"{error}: write $$ for a dollar sign") from None


def render_subject(template: str, values: Mapping[str, str]) -> str:
    """One line, bounded, with `Re:` at most once (RFC 5322 3.6.5)."""
    text = one_line(render(template, values), MAX_SUBJECT)
    return f"Re: {_RE.sub('', text, count=1)}" if (found := _RE.match(text)) and found[0].count(":") > 1 else text


def render_html(template: str, values: Mapping[str, str]) -> str:
    """What comes from the mail is text, never markup."""
    return render(template, {name: html.escape(value) for name, value in values.items()})


def check_text(template: str) -> str:
    """TemplateError, a ValueError, when a mail could not be answered with it."""
    render(template, _SAMPLE)
    return template


def check_subject(template: str) -> str:
    check_text(template)
    if any(ord(character) < 32 or ord(character) == 127 for character in template):
        raise TemplateError("a subject is one line without control characters")
    return template


def one_line(text: str, most: int) -> str:
    """Text from a peer as it may stand in a header field: valid, printable, one line, bounded."""
    text = text[: 4 * most].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "".join(character if character.isprintable() else _harmless(character) for character in text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _harmless(character: str) -> str:
    """What stands for a character that is not printable: nothing of it may end a line or turn what follows around."""
    match unicodedata.category(character):
        case "Cf":  # invisible; these two belong to the spelling of Persian, and to emoji
            return character if character in "\u200c\u200d" else ""
        case "Cn" | "Co":  # newer than what Python knows, or private
            return character
        case _:
            return " "
