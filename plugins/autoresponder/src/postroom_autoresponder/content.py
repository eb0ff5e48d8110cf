"""Whether a mail contains a text, for conditions: decoded as its reader sees it, bounded, never in vain."""

from __future__ import annotations

import email
import email.policy
from email.message import Message as Parsed
from functools import cached_property
from typing import cast

from postroom.mail import Message

from postroom_autoresponder.facts import header_facts
from postroom_autoresponder.reply import text_of_html
from postroom_autoresponder.responder import Part

MAX_BODY = 1 << 20
"""Octets of a body that conditions look at."""
MAX_PARTS = 200


class Content:
    """One mail's subject and text; decoded when first asked for."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def contains(self, part: Part, text: str) -> bool:
        where = self._subject if part is Part.SUBJECT else self._text
        return " ".join(text.casefold().split()) in where

    @cached_property
    def _subject(self) -> str:
        return _comparable(header_facts(self._message).subject)

    @cached_property
    def _text(self) -> str:
        with self._message.body.open() as reader:
            body = reader.read(MAX_BODY)
        try:
            return _comparable("\n".join(_texts(self._message, body)))
        except Exception:  # noqa: BLE001  # a library that fails at what a peer wrote; RecursionError is one
            return _comparable(body.decode("utf-8", "replace"))


def _comparable(text: str) -> str:
    return " ".join(text.casefold().split())


def _texts(message: Message, body: bytes) -> list[str]:
    kept = (b"content-type", b"content-transfer-encoding", b"mime-version")
    head = b"".join(found.raw() for found in message.fields if found.name.lower() in kept)
    parsed = email.message_from_bytes(head + b"\r\n" + body, policy=email.policy.compat32)
    texts = []
    for part, _ in zip(_walk(parsed), range(MAX_PARTS), strict=False):
        if part.get_content_maintype() == "text":
            octets = part.get_payload(decode=True)
            text = _decode(octets if isinstance(octets, bytes) else b"", part.get_content_charset())
            texts.append(text_of_html(text) if part.get_content_subtype() == "html" else text)
    return texts


def _walk(parsed: Parsed) -> list[Parsed]:
    found: list[Parsed] = []
    left = [parsed]
    while left and len(found) < MAX_PARTS:
        part = left.pop()
        found.append(part)
        if part.is_multipart():
            left.extend(reversed(cast(list[Parsed], part.get_payload())))
    return found


def _decode(octets: bytes, charset: str | None) -> str:
    try:
        return octets.decode(charset or "utf-8", "replace")
    except LookupError:
        return octets.decode("utf-8", "replace")
