"""The trace fields of a delivery: Return-Path, Delivered-To, Received; and what they say against it."""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass, replace

from postroom.delivery.report import Report, loop
from postroom.mail import Address, Field, Message

MAX_HOPS = 100
"""Received fields; more is a loop (RFC 5321 6.3)."""

_PIPE_TRACE = (b"return-path", b"x-original-to", b"delivered-to")
_UNSAFE = re.compile(r"[^\w.:\-\[\]/]+")
_TOO_MANY_HOPS = Report("554", "5.4.6", "Too many hops")


@dataclass(frozen=True, slots=True)
class Hop:
    """How a mail reached us: who handed it over, by what protocol, under which queue id."""

    by: str
    peer_helo: str
    peer_address: str  # empty: a unix socket
    queue_id: str
    time: float


def without_pipe_trace(message: Message) -> tuple[Message, str]:
    """The mail less what pipe(8) put on top of it for this very delivery (its flags D, O, R), and X-Original-To.

    Only the fields at the very top count: the mail server's own Received stands above all that came from outside.
    """
    original = ""
    at = 0
    for found in message.fields:
        name = found.name.lower()
        if name not in _PIPE_TRACE:
            break
        if name == b"x-original-to":
            original = original or found.text
        at += 1
    return (replace(message, fields=message.fields[at:]) if at else message), original


def refusal(message: Message, recipient: Address, *, final: bool) -> Report | None:
    """Why this mail is going round in circles, if it is."""
    if len(message.get_all(b"Received")) > MAX_HOPS:
        return _TOO_MANY_HOPS
    if final and any(
        Address(found.text.strip("<> ")).key == recipient.key for found in message.get_all(b"Delivered-To")
    ):
        return loop(recipient.text)
    return None


def traced(message: Message, sender: Address, recipient: Address, original: str, hop: Hop, *, final: bool) -> Message:
    """The mail with its trace on top (RFC 5321 4.4). A server behind us writes its own Return-Path and Delivered-To."""
    fields = message.fields
    top = [Field(b"Received", received(hop, recipient))]
    if final:
        fields = tuple(found for found in fields if found.name.lower() != b"return-path")
        if original:
            top.insert(0, Field(b"X-Original-To", b" " + _octets(original)))
        top.insert(0, delivered_to(recipient))
        top.insert(0, Field(b"Return-Path", b" <%b>" % _octets(sender.text)))
    return replace(message, fields=(*top, *fields))


def delivered_to(recipient: Address) -> Field:
    return Field(b"Delivered-To", b" " + _octets(recipient.text))


def received(hop: Hop, recipient: Address) -> bytes:
    peer = f"[{hop.peer_address}]" if hop.peer_address else "local"
    date = email.utils.formatdate(hop.time, localtime=True)
    return (
        b" from " + _octets(_UNSAFE.sub("?", hop.peer_helo) or "unknown") + f" ({peer})\r\n".encode()
        + f"\tby {hop.by} (Postroom) with LMTP id {_UNSAFE.sub('?', hop.queue_id)}\r\n".encode()  # RFC 3848
        + b"\tfor <" + _octets(recipient.text) + b">; " + date.encode()
    )  # fmt: skip


def _octets(text: str) -> bytes:
    clean = "".join(character for character in text if ord(character) >= 32 and ord(character) != 127)
    return clean.encode("utf-8", "surrogateescape")
