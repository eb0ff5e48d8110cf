"""Hands a new mail to the mail server: over SMTP, or to a sendmail program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from postroom.config import Config, ConfigError
from postroom.hookspecs import Clock
from postroom.mail import CRLF, Address, parse_message
from postroom.registration import Stage
from postroom.services.clock import SystemClock
from postroom.services.mark import load_key, sign_mark
from postroom.services.sendmail import SendmailTransport
from postroom.services.submission import SmtpTransport, SubmissionFailed

DEFAULT_PROGRAM = "/usr/sbin/sendmail"
MAX_HEADER = 1 << 20  # octets looked through for a Message-ID

_SMTP = re.compile(r"smtp:(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]\s]+)):(\d{1,5})")


class Transport(Protocol):
    def send(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        """Return only when the mail server has taken the mail for all recipients; SubmissionFailed when not."""


class MarkedReinjector:
    """Implements hookspecs.Reinjector. What it submits is not seen again by `stages`, if any."""

    def __init__(self, transport: Transport, state: Path, clock: Clock, stages: Collection[Stage] = ()) -> None:
        self._transport, self._state, self._clock = transport, state, clock
        self._stages = frozenset(stages)

    def for_stages(self, stages: Collection[Stage]) -> MarkedReinjector:
        """One whose mail those stages shall not see again."""
        return MarkedReinjector(self._transport, self._state, self._clock, stages)

    def submit(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        """Return only when the mail server has taken it; SubmissionFailed, an OSError, when it has not."""
        if not recipients:
            raise SubmissionFailed("the mail has no recipients", permanent=True)
        for address in (sender, *recipients):
            check_address(address)
        self._transport.send(sender, recipients, self._marked(sender, recipients, mail))

    def _marked(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> Iterable[bytes]:
        if not self._stages:
            return mail
        key = load_key(self._state)
        head, rest = _split_header(mail)
        message_id = parse_message(head).get(b"Message-ID")
        mark = sign_mark(key, self._stages, sender, recipients, message_id, self._clock.now())
        return _chain(mark, head, rest)


def _chain(mark: bytes, head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield mark
    yield head
    yield from rest


def _split_header(mail: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """As much of the mail as holds its header, and what follows."""
    chunks, head = iter(mail), b""
    for chunk in chunks:
        head += chunk
        if CRLF + CRLF in head or b"\n\n" in head or len(head) > MAX_HEADER:
            break
    return head, chunks


def check_address(address: Address) -> None:
    """No address ends its command: control characters never pass, angle brackets only inside quotes."""
    text = address.text
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    if any(ord(character) < 32 or ord(character) == 127 for character in text) or "<" in outside or ">" in outside:
        raise SubmissionFailed(f"{text!r} is no address", permanent=True, refused=(address,))


def open_reinjector(config: Config, clock: Clock | None = None) -> MarkedReinjector:
    """As `[reinject]` says; ConfigError when that makes no sense."""
    return MarkedReinjector(_transport(config), config.paths.state, clock or SystemClock())


def _transport(config: Config) -> Transport:
    to, timeout = config.reinject.to or DEFAULT_PROGRAM, float(config.reinject.timeout)
    if found := _SMTP.fullmatch(to):
        return SmtpTransport(found[1] or found[2], int(found[3]), timeout, lambda: config.host_name)
    try:
        program = tuple(shlex.split(to))
    except ValueError:  # a quote is never closed
        program = ()
    if program and program[0].startswith("/"):
        return SendmailTransport(program, timeout)
    raise ConfigError(
        f'{config.source}: [reinject]: to: {to!r} is neither "smtp:host:port" nor the absolute path of a program'
    )
