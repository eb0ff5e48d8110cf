"""Postfix' settings as they would be without us: what an earlier installation changed is taken out in thought."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from postroom.mta.postfix_lists import find_members, split_list, without
from postroom.mta.postfix_maincf import Entry
from postroom.mta.postfix_state import Record, State
from postroom.mta.postfix_tool import Postfix, read_text

_MARK = "inet:mark.postroom.invalid:1"


def value_without_us(record: Record, now: str | None) -> str | None:
    """What the setting has to be when we leave; None: not set. What somebody else changed meanwhile stays."""
    if record.members is None:
        return record.before if now == record.ours else now
    if now is None:
        return None
    rest = now
    for members in record.members:
        rest = without(rest, members)
    ours_before = record.ours
    for members in record.members:
        ours_before = without(ours_before, members)
    if split_list(rest) in (split_list(record.before or ""), split_list(ours_before)):
        return record.before  # as it was, stray commas and all
    return rest


class CurrentView:
    """Implements `postfix_wishes.View`."""

    def __init__(self, postfix: Postfix, state: State | None) -> None:
        self._postfix = postfix
        self._records: Mapping[str, Record] = state.settings if state else {}
        self.entries: Mapping[str, Entry] = postfix.entries()

    @functools.cached_property
    def master(self) -> str:
        """The text of master.cf."""
        return read_text(self._postfix.master)

    @functools.cached_property
    def services(self) -> Mapping[str, str]:
        return self._postfix.services()

    @functools.cached_property
    def _defaults(self) -> Mapping[str, str]:
        return self._postfix.defaults()

    @functools.cached_property
    def _expanded(self) -> Mapping[str, str]:
        return self._postfix.expanded()

    def now(self, name: str) -> str | None:
        entry = self.entries.get(name)
        return entry.value if entry else None

    def _without_us(self, name: str) -> str | None:
        record = self._records.get(name)
        return value_without_us(record, self.now(name)) if record else self.now(name)

    def value(self, name: str) -> str:
        value = self._without_us(name)
        return self._defaults.get(name, "") if value is None else value

    def expanded(self, name: str) -> str:
        if name in self._records:
            return self.value(name)
        return self._expanded.get(name, "")

    def is_set(self, name: str) -> bool:
        return self._without_us(name) is not None

    def follows(self, name: str, other: str) -> bool:
        return "$" in self.value(name) and _MARK in self._postfix.expanded_with(other, _MARK, name)

    def place(self, name: str, members: str) -> int | None:
        return find_members(self.now(name) or "", members)
