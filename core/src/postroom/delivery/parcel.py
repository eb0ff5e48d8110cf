"""What is handed on: one mail for one mailbox; and what a way of handing it on looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from postroom.delivery.report import Report
from postroom.mail import Address, Envelope, Message


@dataclass(frozen=True)
class Parcel:
    """One mail for one mailbox: `envelope` has exactly one recipient, `message` its trace fields.

    `root` is where the Maildirs are, when the mail server's command line said so. `folder`: other than the inbox.
    """

    envelope: Envelope
    message: Message
    smtputf8: bool = False
    root: Path | None = None
    folder: str = ""

    @property
    def recipient(self) -> Address:
        return self.envelope.recipients[0]


class Delivery(Protocol):
    """One way of handing mail on. Safe to use from several threads."""

    def final(self, recipient: Address) -> bool:
        """Whether the recipient's mail ends its way here, so that Return-Path and Delivered-To are ours to write."""

    def check(self, recipient: Address, root: Path | None = None) -> Report | None:
        """The refusal for a recipient of whom it is known beforehand that no mail can be handed on, else None."""

    def deliver(self, parcel: Parcel) -> Report:
        """Hand it on and say what became of it; never raises for what a disk, a server or a program does."""

    def close(self) -> None:
        """Let go of connections that are kept open."""


def lf_chunks(message: Message) -> Iterator[bytes]:
    """The whole mail with LF line ends, as Unix programs and Maildirs hold it; a CR alone stays what it is."""
    held = b""
    for chunk in message.chunks():
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        yield octets[: len(octets) - len(held)].replace(b"\r\n", b"\n")
    if held:
        yield held
