"""Where the directory sends mail on to, when it is delivered: aliases, and mailboxes that forward."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.hookspecs import Directory
from postroom.mail import Address, Message

MAX_TRACE = 20
"""Delivered-To fields that are looked at, from the top: the ways through our own directory are shorter."""


@dataclass(frozen=True, slots=True)
class Targets:
    """`stays`: the recipient itself gets the mail; `others` get copies."""

    stays: bool = True
    others: tuple[Address, ...] = ()


def targets_of(recipient: Address, directory: Directory) -> Targets:
    """All that is behind the recipient, each address once."""
    found = directory.expand(recipient)
    others = tuple(each for each in found if each.key != recipient.key)
    return Targets(len(others) < len(found), others)


def still_owed(targets: Targets, recipient: Address, message: Message, directory: Directory) -> tuple[Address, ...]:
    """The others who do not get this very mail anyway.

    Whoever has had it needs no copy: mailboxes that forward to each other are no loop. And a copy that came from an
    address behind which the recipient is has gone to all others there, too.
    """
    if not targets.others:
        return ()
    trace = [Address(found.text.strip("<> ")) for found in message.get_all(b"Delivered-To")[:MAX_TRACE]]
    for before in trace if targets.stays else ():
        if any(each.key == recipient.key for each in directory.expand(before)):
            return ()
    had = {each.key for each in trace}
    return tuple(each for each in targets.others if each.key not in had)
