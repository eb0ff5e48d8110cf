"""The mark on mail that we hand to the mail server ourselves: stages that shall not see it again.

A header field with a MAC that nobody outside can make: the key never leaves the state directory. It holds for the
stages, the sender, the recipients and the Message-ID that it was made for and for a week, so that a mark which got
out by accident is of use for that same mail alone. The field is taken out again by the last front that looks at it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

from postroom.mail import Address, Envelope, Field, Message
from postroom.registration import Stage

MARK_FIELD = b"X-Postroom-Seen"
KEY_FILE = "mark.key"
KEY_OCTETS = 32
MAX_AGE = 7 * 86400  # seconds; a mail server gives up after five days
MAX_SKEW = 300  # seconds that another host's clock may be ahead
MAX_MARKS = 8  # fields looked at in one mail; more were put there by a peer
MAX_LENGTH = 1000  # octets of one mark

_VERSION = "1"


def load_key(state: Path) -> bytes:
    """The key in the state directory, made when it is not there (mode 0600). OSError when neither is possible."""
    path = state / KEY_FILE
    try:
        return _read_key(path)
    except FileNotFoundError:
        pass
    beside = path.with_name(f"{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_OCTETS))
        os.fsync(descriptor)
        os.link(beside, path)  # whoever is first wins, and nobody ever reads half a key
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        beside.unlink()
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) < KEY_OCTETS:
        raise OSError(f"{path} is damaged: remove it, and a new one is made")
    return key


def sign_mark(
    key: bytes,
    stages: Collection[Stage],
    sender: Address,
    recipients: Iterable[Address],
    message_id: str | None,
    now: float,
) -> bytes:
    """The header field, with its line end, to be put on top of the mail."""
    names, made, nonce = ",".join(sorted(stages)), str(int(now)), secrets.token_hex(8)
    covered = "1" if message_id else "0"
    whole = _mac(key, [names, made, nonce, sender.key, _recipients(stages, recipients), message_id or ""])
    return b"%b: v=%b; s=%b; t=%b;\r\n\tn=%b; m=%b; b=%b\r\n" % (
        MARK_FIELD,
        *(part.encode("ascii") for part in (_VERSION, names, made, nonce, covered, whole)),
    )


def check_mark(
    key: bytes, message: Message, sender: Address, recipients: Iterable[Address], now: float
) -> frozenset[Stage]:
    """The stages that have seen this mail, by our own word; empty when it carries no mark, or a false one."""
    message_id, recipients = message.get(b"Message-ID"), tuple(recipients)
    seen: frozenset[Stage] = frozenset()
    for field in message.get_all(MARK_FIELD)[:MAX_MARKS]:
        seen |= _check_one(key, field, sender, recipients, message_id, now)
    return seen


def is_mark(field: Field) -> bool:
    return field.name.lower() == MARK_FIELD.lower()


def seen_stages(state: Path, message: Message, envelope: Envelope, now: float) -> frozenset[Stage]:
    """As `check_mark`, with the key of this host, which a mail without any mark does not need."""
    if not any(is_mark(found) for found in message.fields):
        return frozenset()
    return check_mark(load_key(state), message, envelope.sender, envelope.recipients, now)


def without_marks(message: Message) -> Message:
    """Nobody else learns the marks by which we know our own mail again."""
    fields = tuple(found for found in message.fields if not is_mark(found))
    return message if len(fields) == len(message.fields) else Message(fields, message.body)


def _check_one(
    key: bytes, field: Field, sender: Address, recipients: Collection[Address], message_id: str | None, now: float
) -> frozenset[Stage]:
    if len(field.value) > MAX_LENGTH:
        return frozenset()
    parts = dict(part.strip().partition("=")[::2] for part in field.text.split(";"))
    try:
        stages = frozenset(map(Stage, parts["s"].split(",")))
        made, nonce, given = int(parts["t"]), parts["n"], parts["b"]
        covered = (message_id or "") if parts["m"] == "1" else ""
    except (KeyError, ValueError):
        return frozenset()
    expected = _mac(key, [parts["s"], parts["t"], nonce, sender.key, _recipients(stages, recipients), covered])
    genuine = parts.get("v") == _VERSION and hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))
    fresh = -MAX_SKEW <= now - made <= MAX_AGE
    return stages if genuine and fresh else frozenset()


def _recipients(stages: Collection[Stage], recipients: Iterable[Address]) -> list[str]:
    """Before-local answers recipient by recipient, after aliases: there the other facts have to do."""
    return ["*"] if Stage.BEFORE_LOCAL in stages else sorted({recipient.key for recipient in recipients})


def _mac(key: bytes, facts: list[str | list[str]]) -> str:
    return hmac.new(key, json.dumps([_VERSION, *facts]).encode("ascii"), hashlib.sha256).hexdigest()
