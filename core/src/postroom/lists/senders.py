"""Pure: a white and a black list, and what they say of one mail."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postroom.lists.patterns import InvalidPattern, Kind, Pattern, PatternList, client_address
from postroom.lists.scopes import Scope
from postroom.mail import Envelope

MAX_PATTERNS = 100_000
"""Patterns of one list: every worker keeps the lists that it needs in memory."""


class ListName(enum.StrEnum):
    ALLOW = "allow"  # the white list
    DENY = "deny"  # the black list


@dataclass(frozen=True)
class SenderLists:
    """The lists of one scope."""

    allow: PatternList = PatternList()
    deny: PatternList = PatternList()

    def __bool__(self) -> bool:
        return bool(self.allow or self.deny)

    def named(self, name: ListName) -> PatternList:
        return self.allow if name is ListName.ALLOW else self.deny

    def with_list(self, name: ListName, patterns: PatternList) -> SenderLists:
        match name:
            case ListName.ALLOW:
                return SenderLists(patterns, self.deny)
            case ListName.DENY:
                return SenderLists(self.allow, patterns)

    def table(self) -> dict[str, Any]:
        """As it is stored."""
        return {name: [[found.kind, found.text] for found in self.named(name).patterns] for name in ListName}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> SenderLists:
        return cls(
            *(PatternList(tuple(Pattern(Kind(kind), text) for kind, text in table.get(name, ()))) for name in ListName)
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """The mail is on that list; `by` says which pattern at which place decided, for the log."""

    name: ListName
    by: str


def find_listing(envelope: Envelope, scopes: Iterable[Scope], lists: Mapping[Scope, SenderLists]) -> Listing | None:
    """The first scope decides; at one scope white goes before black (the reference's order)."""
    for scope in scopes:
        own = lists.get(scope)
        if own is None:
            continue
        if found := match_allow(own.allow, envelope):
            return Listing(ListName.ALLOW, f"{found} at {scope}")
        if found := match_deny(own.deny, envelope):
            return Listing(ListName.DENY, f"{found} at {scope}")
    return None


def match_allow(patterns: PatternList, envelope: Envelope) -> Pattern | None:
    """Only a name that resolves back to the client counts here: anybody can give his address any name."""
    session = envelope.session
    return (
        patterns.match_sender(envelope.sender)
        or patterns.match_client(client_address(session))
        or (patterns.match_name(session.client_name) if session.has_client_name else None)
    )


def match_deny(patterns: PatternList, envelope: Envelope) -> Pattern | None:
    return match_allow(patterns, envelope) or patterns.match_name(envelope.session.client_ptr)


def with_patterns(patterns: PatternList, added: Iterable[Pattern]) -> PatternList:
    """InvalidPattern when the list gets too long."""
    together = PatternList.of([*patterns.patterns, *added])
    if len(together.patterns) > MAX_PATTERNS:
        raise InvalidPattern(f"more than {MAX_PATTERNS} patterns: use networks or '*' to say the same with fewer")
    return together


def without_patterns(patterns: PatternList, removed: Sequence[Pattern]) -> PatternList:
    return PatternList.of(set(patterns.patterns) - set(removed))


def lists_of_document(document: str) -> SenderLists:
    """From what is stored for a scope, which may hold a handler's settings, too."""
    return SenderLists.from_table(json.loads(document)) if document else SenderLists()


def document_with(document: str, lists: SenderLists) -> str:
    """What else is stored stays; empty when nothing is left."""
    rest = json.loads(document) if document else {}
    if not lists and not any(value for name, value in rest.items() if name not in list(ListName)):
        return ""
    return json.dumps({"settings": {}, **rest, **lists.table()}, separators=(",", ":"))
