"""Changes of responders, as commands make them: read, change, check, and put back unless somebody else was quicker."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from postroom.hookspecs import StateUnavailable

from postroom_autoresponder.responder import (
    Attachment,
    BrokenResponder,
    Condition,
    Part,
    Responder,
    check_responder,
    responder_from_json,
)
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.store import Store, StoredResponder

MAX_ROUNDS = 5
"""Times that somebody else may change the same responder while one command does."""


class NoResponder(LookupError):
    """There is none of that name."""


def read_responder(store: Store, name: str) -> Responder:
    """NoResponder when there is none, BrokenResponder when what is stored is none."""
    stored = store.responder(name)
    if not stored.version:
        raise NoResponder(name)
    return responder_from_json(stored.document)


def change_responder(
    store: Store, name: str, settings: AutoresponderSettings, change: Callable[[Responder | None], Responder]
) -> tuple[Responder | None, Responder]:
    """Apply `change` to the responder as it is, however many commands run at once; what it was (None: there was none,
    or a broken one), and what it is now. ValueError when that would not work.
    """
    for _ in range(MAX_ROUNDS):
        stored = store.responder(name)
        before = _readable(stored)
        changed = change(before)
        check_responder(changed, settings)
        if store.replace_responder(name, stored.version, StoredResponder(secrets.token_hex(8), changed.to_json())):
            return before, changed
    raise StateUnavailable(f"somebody else keeps changing the responder of {name}: try again")


def remove_responder(store: Store, name: str) -> bool:
    """With everything that is remembered and counted; False when there was none."""
    for _ in range(MAX_ROUNDS):
        stored = store.responder(name)
        if not stored.version:
            return False
        if store.replace_responder(name, stored.version, StoredResponder()):
            store.forget(name)
            return True
    raise StateUnavailable(f"somebody else keeps changing the responder of {name}: try again")


def _readable(stored: StoredResponder) -> Responder | None:
    if not stored.version:
        return None
    try:
        return responder_from_json(stored.document)
    except BrokenResponder:
        return None


def read_text(octets: bytes, place: str, most: int) -> str:
    """ValueError when it is no UTF-8, or more than `most` octets."""
    if len(octets) > most:
        raise ValueError(f"{place}: larger than {most} octets (max_text)")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: octet {error.start} is no UTF-8: convert it, for example with iconv") from None


def read_attachment(path: Path, most: int) -> Attachment:
    """ValueError when it is larger than `most` octets."""
    with path.open("rb") as stream:
        octets = stream.read(most + 1)
    if len(octets) > most:
        raise ValueError(f"{path}: larger than {most} octets (max_attachments)")
    kind, encoding = mimetypes.guess_type(path.name)
    if encoding or not kind or kind.startswith(("message/", "multipart/")):  # RFC 2045 6.4: never in base64
        kind = "application/octet-stream"
    name = "".join(character if character.isprintable() else "_" for character in path.name)
    return Attachment(name.encode("utf-8", "replace").decode(), kind, octets)


def with_attachments(known: Iterable[Attachment], added: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """One of the same name is replaced."""
    return tuple({each.name: each for each in (*known, *added)}.values())


def conditions_of(subjects: Iterable[str], bodies: Iterable[str]) -> tuple[Condition, ...]:
    """ValueError when one is empty: it would always hold."""
    found = (*(Condition(Part.SUBJECT, each) for each in subjects), *(Condition(Part.BODY, each) for each in bodies))
    if any(not each.text.strip() for each in found):
        raise ValueError("an empty condition always holds: use --always")
    return found
