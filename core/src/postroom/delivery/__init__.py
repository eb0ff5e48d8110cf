"""Hands a mail on after before-local: into a Maildir, to an LMTP server, or to a command.

Whatever the kind, nothing is reported as delivered before somebody else holds the mail durably.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from postroom.config import Config, DeliveryKind
from postroom.delivery.report import Report
from postroom.hookspecs import Clock, Directory, Logger
from postroom.mail import Address, Envelope, Message

__all__ = ["Delivery", "Parcel", "Report", "open_delivery"]


@dataclass(frozen=True)
class Parcel:
    """One mail for one mailbox: `envelope` has exactly one recipient, `message` its trace fields.

    `root` is where the Maildirs are, when the mail server's command line said so.
    """

    envelope: Envelope
    message: Message
    smtputf8: bool = False
    root: Path | None = None

    @property
    def recipient(self) -> Address:
        return self.envelope.recipients[0]


class Delivery(Protocol):
    """One way of handing mail on. Safe to use from several threads."""

    @property
    def final(self) -> bool:
        """Whether the mail ends its way here, so that Return-Path and Delivered-To are ours to write."""

    def check(self, recipient: Address, root: Path | None = None) -> Report | None:
        """The refusal for a recipient of whom it is known beforehand that no mail can be handed on, else None."""

    def deliver(self, parcel: Parcel) -> Report:
        """Hand it on and say what became of it; never raises for what a disk, a server or a program does."""

    def close(self) -> None:
        """Let go of connections that are kept open."""


def open_delivery(config: Config, directory: Directory, clock: Clock, log: Logger) -> Delivery:
    """The delivery that `[delivery]` asks for."""
    settings = config.delivery
    match settings.kind:
        case DeliveryKind.MAILDIR:
            from postroom.delivery.maildir import MaildirDelivery

            return MaildirDelivery(settings, config.host, config.host_name, directory, clock, log)
        case DeliveryKind.LMTP:
            from postroom.delivery.next_hop import NextHopDelivery

            assert settings.next_hop is not None  # checked by DeliverySettings
            return NextHopDelivery(settings.next_hop, settings.timeout, config.host_name, log)
        case DeliveryKind.COMMAND:
            from postroom.delivery.command import CommandDelivery

            return CommandDelivery(settings.command, settings.timeout, log)


def lf_chunks(message: Message) -> Iterator[bytes]:
    """The whole mail with LF line ends, as Unix programs and Maildirs hold it; a CR alone stays what it is."""
    held = b""
    for chunk in message.chunks():
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        yield octets[: len(octets) - len(held)].replace(b"\r\n", b"\n")
    if held:
        yield held
