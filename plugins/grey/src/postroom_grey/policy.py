"""Pure: settings and lists of the server, a domain and a mailbox, and what they make of one recipient."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from postroom.config import build
from postroom.lists.patterns import PatternList
from postroom.lists.scopes import SERVER, Level, Scope, scopes_of
from postroom.lists.senders import ListName, SenderLists, find_listing
from postroom.mail import Address, Envelope

from postroom_grey.settings import PERSONAL_SETTINGS, GreySettings


@dataclass(frozen=True)
class Policy:
    """What is set at one place. `table` holds settings as they were written."""

    table: Mapping[str, Any] = field(default_factory=dict)
    allow: PatternList = PatternList()
    deny: PatternList = PatternList()

    def __bool__(self) -> bool:
        return bool(self.table or self.allow or self.deny)

    @cached_property
    def lists(self) -> SenderLists:
        return SenderLists(self.allow, self.deny)

    @cached_property
    def overrides(self) -> Mapping[str, Any]:
        """The settings that are set here, checked and converted."""
        built = build(GreySettings, self.table, "stored settings of grey")
        return {name: getattr(built, name) for name in self.table}

    def to_json(self) -> str:
        return json.dumps({"settings": dict(self.table), **self.lists.table()}, separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str) -> Policy:
        stored = json.loads(document)
        lists = SenderLists.from_table(stored)
        return cls(stored["settings"], lists.allow, lists.deny)


NOTHING = Policy()
Policies = Mapping[Scope, Policy]


class Fate(enum.StrEnum):
    """What the policies say of one recipient before anything remembered is asked."""

    OFF = "off"  # greylisting is off for this recipient
    ALLOWED = "allowed"  # on a white list
    DENIED = "denied"  # on a black list: a permanent refusal
    GREY = "grey"  # what is remembered decides


@dataclass(frozen=True, slots=True)
class Ruling:
    """`by` says which pattern at which place decided, for the log."""

    recipient: Address
    fate: Fate
    settings: GreySettings
    by: str = ""


def server_settings(base: GreySettings, policies: Policies) -> GreySettings:
    return _overlaid(base, policies.get(SERVER, NOTHING))


def settings_for(base: GreySettings, policies: Policies, scopes: tuple[Scope, ...]) -> GreySettings:
    """The settings in force at the first of `scopes`, which are in the order of `scopes_of`."""
    settings = server_settings(base, policies)
    for scope in reversed(scopes):
        if _counts(scope, settings) and scope != SERVER:
            settings = _overlaid(settings, policies.get(scope, NOTHING))
    return settings


def rule(envelope: Envelope, recipient: Address, base: GreySettings, policies: Policies, delimiter: str) -> Ruling:
    """Mailbox before domain before server; at one place white before black (the reference's order)."""
    scopes = scopes_of(recipient, delimiter)
    settings = settings_for(base, policies, scopes)
    if not settings.enabled:
        return Ruling(recipient, Fate.OFF, settings)
    lists = {scope: policies[scope].lists for scope in scopes if scope in policies and _counts(scope, settings)}
    if listing := find_listing(envelope, scopes, lists):
        match listing.name:
            case ListName.ALLOW:
                return Ruling(recipient, Fate.ALLOWED, settings, listing.by)
            case ListName.DENY:
                return Ruling(recipient, Fate.DENIED, settings, listing.by)
    return Ruling(recipient, Fate.GREY, settings)


def _counts(scope: Scope, settings: GreySettings) -> bool:
    return settings.personal or scope.level is not Level.MAILBOX


def _overlaid(settings: GreySettings, policy: Policy) -> GreySettings:
    return dataclasses.replace(settings, **policy.overrides) if policy.table else settings


def check_settings(scope: Scope, names: set[str]) -> str:
    """What is wrong with settings of these names at that place, with the remedy; empty when nothing is."""
    if scope.level is Level.SERVER:
        return ""
    wrong = sorted(names - set(PERSONAL_SETTINGS))
    if not wrong:
        return ""
    return f"{wrong[0]} is one for the whole server: leave out --{scope.level}, or set {', '.join(PERSONAL_SETTINGS)}"
