"""Settings of Postfix that are lists: commas or blanks between, `{ … }` around what holds some itself."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

LOOPBACK = re.compile(r"^(inet6?:)(localhost|127\.0\.0\.1|\[127\.0\.0\.1\])(:)", re.IGNORECASE)


class End(enum.StrEnum):
    """An end of a list."""

    FIRST = "first"
    LAST = "last"


Position = End | int
"""Where in a list: an end, or counted from 1."""


@dataclass(frozen=True, slots=True)
class MilterEntry:
    """One member of smtpd_milters: its address, and the options that are its own."""

    address: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if not self.options:
            return self.address
        return "{ " + ", ".join([self.address, *(f"{name}={value}" for name, value in self.options)]) + " }"


def split_list(value: str) -> list[str]:
    """The members, without the empty ones that stray commas make. `{ … }` is one member."""
    members, current, depth = [], "", 0
    for character in value:
        if character in ", \t\r\n" and not depth:
            members.append(current)
            current = ""
            continue
        depth = max(0, depth + (character == "{") - (character == "}"))
        current += character
    return [member for member in [*members, current] if member]


def has_empty_members(value: str) -> bool:
    """Whether there is a comma too many."""
    bare = re.sub(r"\{[^{}]*\}", "x", value).strip()
    return bool(bare) and any(not part.strip() for part in bare.split(","))


def read_milter(member: str) -> MilterEntry:
    if not member.startswith("{"):
        return MilterEntry(member)
    address, *options = split_list(re.sub(r"\s*=\s*", "=", member.strip("{} \t")))
    pairs = (option.strip("{} ").partition("=") for option in options)
    return MilterEntry(address, tuple((name, value) for name, _, value in pairs))


def same_socket(one: str, other: str) -> bool:
    """Whether two addresses of milters mean one socket."""
    return _plain(one) == _plain(other)


def _plain(address: str) -> str:
    return LOOPBACK.sub(r"\1localhost\3", address.removeprefix("local:").removeprefix("unix:")).lower()


def find_members(value: str, wanted: str) -> int | None:
    """Where the members of `wanted` stand in the list, one after another; None: they don't."""
    members, searched = split_list(value), split_list(wanted)
    for index in range(len(members) - len(searched) + 1):
        if members[index : index + len(searched)] == searched:
            return index
    return None


def without(value: str, unwanted: str) -> str:
    """The list without the members of `unwanted`; unchanged text when they are not in it."""
    index = find_members(value, unwanted)
    if index is None:
        return value
    members = split_list(value)
    del members[index : index + len(split_list(unwanted))]
    return join_list(members, like=value)


def with_member(value: str, member: str, position: Position) -> str:
    """The list with one more member."""
    members = split_list(value)
    if not members:
        return member
    match position:
        case End.FIRST:
            index = 0
        case End.LAST:
            index = len(members)
        case _:
            index = min(max(position - 1, 0), len(members))
    members.insert(index, member)
    return join_list(members, like=value)


def join_list(members: Sequence[str], like: str) -> str:
    """One line, with commas unless `like` does without them."""
    bare = re.sub(r"\{[^{}]*\}", "x", like)
    blanks_only = "," not in bare and len(split_list(bare)) > 1
    return (" " if blanks_only else ", ").join(members)
