"""What a program is started with: its command line, as many as the recipients need, and its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from postroom.failure import FailureKind, HandlerFailed
from postroom.mail import Address, Envelope
from postroom.registration import Stage

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_ARGUMENT = (128 << 10) - 1  # octets of one argument or variable, its NUL not counted (Linux' MAX_ARG_STRLEN)
ARGUMENT_SLACK = 64 << 10  # octets that the kernel and an interpreter's line (#!) take beside the arguments
POINTER = 8  # octets of a pointer, which counts too (execve(2))


def split_recipients(
    recipients: Sequence[Address], arguments: Sequence[bytes], environment: Mapping[bytes, bytes]
) -> list[tuple[Address, ...]]:
    """The recipients in parts, each of which a command line holds beside `arguments`; HandlerFailed when none can."""
    variables = [name + b"=" + value for name, value in environment.items()]
    for octets in (*arguments, *variables):
        if len(octets) > MAX_ARGUMENT:
            raise HandlerFailed(FailureKind.LIMIT, f"{octets[:40]!r}… is longer than {MAX_ARGUMENT} octets")
    room = os.sysconf("SC_ARG_MAX") - ARGUMENT_SLACK - sum(map(_room_of, (*arguments, *variables)))
    parts: list[list[Address]] = [[]]
    left = room
    for recipient in recipients:
        octets = octets_of(recipient.text)
        taken = _room_of(octets)
        if taken > left:
            parts.append([])
            left = room
        left -= taken
        if left < 0 or len(octets) > MAX_ARGUMENT:
            raise HandlerFailed(FailureKind.LIMIT, f"{octets[:40]!r}… is longer than a command line takes")
        parts[-1].append(recipient)
    return [tuple(part) for part in parts]


def octets_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _room_of(argument: bytes) -> int:
    return len(argument) + 1 + POINTER


def environment_of(stage: Stage, envelope: Envelope) -> dict[bytes, bytes]:
    session = envelope.session
    facts = {
        "CLIENT_ADDR": str(session.client_address or ""),
        "CLIENT_NAME": session.client_name,
        "HELO": session.helo,
        "AUTH_USER": session.auth_user,
        "QUEUE_ID": envelope.queue_id,
        "STAGE": str(stage),
    }
    environment = {b"PATH": PATH.encode(), b"LANG": b"C"}
    for name, value in facts.items():
        environment[b"POSTROOM_" + name.encode()] = value.replace("\0", "").encode("utf-8", "surrogateescape")
    return environment
