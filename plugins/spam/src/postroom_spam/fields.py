"""Pure: the header fields of a scanned mail, as edits."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Sequence

from postroom.mail import AddField, Edit, Field, InsertField, Message, RemoveField, ReplaceField, header_value

PREFIX = b"x-spam-"
WIDTH = 76  # characters of a line; RFC 5322 2.1.1 recommends 78
MAX_LINE = 998  # octets of a line (RFC 5322 2.1.1)
MAX_LEVEL = 50
MAX_REPORT_LINES = 100

_BREAKS_OUT = re.compile(rb"\r(?!\n)|(?<!\r)\n|\r\n(?![ \t])|\0")


def without_forged(message: Message) -> Iterator[Edit]:
    """Whatever the mail says of itself under our names and their like."""
    names = (found.name for found in message.fields if found.name.lower().startswith(PREFIX))
    for name in dict.fromkeys(names):
        yield RemoveField(name)


def insert_all(fields: Sequence[tuple[bytes, bytes]]) -> Iterator[Edit]:
    """At the top, in this order."""
    for name, value in reversed(fields):
        yield InsertField(name, value)


def status(is_spam: bool, score: float | None, required: float, symbols: Sequence[str], remark: str) -> bytes:
    """The value of X-Spam-Status, in SpamAssassin's form: `Yes, score=12.3 required=7.0 tests=A,B`."""
    answer = "Yes" if is_spam else "No"
    if score is None:
        return header_value(f"{answer}, {remark}")
    text = f"{answer}, score={number(score)} required={number(required)}"
    lines = [f" {text}{f' {remark}' if remark else ''}"]
    words = [f"{name}{',' if at < len(symbols) - 1 else ''}" for at, name in enumerate(symbols)] or ["none"]
    line = "\ttests="
    for word in words:
        if len(line) + len(word) > WIDTH and line.strip() != "tests=":
            lines.append(line)
            line = "\t"
        line += word
    return "\r\n".join([*lines, line]).encode("ascii", "replace")


def number(score: float) -> str:
    """One digit, cut off and not rounded: 6.96 is not 7.0 when 7.0 is spam."""
    return f"{math.trunc(score * 10 + math.copysign(1e-6, score)) / 10:.1f}"


def level(score: float) -> bytes:
    """A star a point, for filters that can only compare strings; empty below one."""
    return b" " + b"*" * min(MAX_LEVEL, int(score)) if score >= 1 else b""


def report(text: str) -> bytes:
    """Folded, a line each."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][:MAX_REPORT_LINES]
    clean = ("".join(each if " " <= each <= "~" else "?" for each in line)[:WIDTH] for line in lines)
    return b" " + "\r\n\t* ".join(["rules that hit:", *clean]).encode("ascii")


def tag_subject(message: Message, tag: str) -> Edit | None:
    """The tag before what stands in the first Subject, whose octets stay; None when it is there already."""
    written = tag if tag.isascii() else _encoded_word(tag)
    found = message.get_all(b"Subject")
    if not found:
        return AddField(b"Subject", b" " + written.encode("ascii"))
    first = found[0]
    if first.text.startswith((written, tag)):
        return None
    return ReplaceField(first.name, _tagged(first, written.encode("ascii")))


def _tagged(subject: Field, tag: bytes) -> bytes:
    value = _BREAKS_OUT.sub(b" ", subject.value)  # what no mail should have would end the field here
    if not value.startswith((b" ", b"\t", b"\r\n")):
        value = b" " + value
    first_line = value.partition(b"\r\n")[0]
    too_long = len(subject.name) + 2 + len(tag) + len(first_line) > MAX_LINE
    return b" " + tag + (b"\r\n" if too_long else b"") + value


def _encoded_word(text: str) -> str:
    """RFC 2047 2, with a blank at its end, because blanks between two encoded words are not shown (6.2)."""
    return f"=?utf-8?B?{base64.b64encode((text + ' ').encode()).decode('ascii')}?="
