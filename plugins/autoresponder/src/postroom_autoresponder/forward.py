"""Pure: a copy of a mail for somebody else, as it came, and when there must be none."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.mail import NULL_SENDER, Address, Message

MAX_HOPS = 50  # Received fields; half of what RFC 5321 6.3 allows
MARK = b"Delivered-To"  # whoever gets the copy back knows by it that it has been here


def goes_round(message: Message, mailbox: Address) -> bool:
    """Whether the mail has been forwarded from here before, or has been on its way too long."""
    if len(message.get_all(b"Received")) > MAX_HOPS:
        return True
    return any(Address(found.text.strip("<> ")).key == mailbox.key for found in message.get_all(MARK))


def copy_sender(sender: Address, mailbox: Address) -> Address:
    """The mailbox: SPF passes, and what is wrong with the copy is its owner's to hear. A bounce stays one."""
    return mailbox if sender else NULL_SENDER


def copy_of(message: Message, mailbox: Address) -> Iterator[bytes]:
    """The mail, untouched below one line."""
    yield b"%b: %b\r\n" % (MARK, mailbox.text.encode("utf-8", "surrogateescape"))
    yield from message.chunks()
