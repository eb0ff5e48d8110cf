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
from postroom.mail import Address, Envelope

from postroom_grey.client import client_address
from postroom_grey.patterns import Kind, Pattern, PatternList
from postroom_grey.settings import PERSONAL_SETTINGS, GreySettings


class Level(enum.StrEnum):
    """Whose policy it is; a later one goes before an earlier one."""

    SERVER = "server"
    DOMAIN = "domain"
    MAILBOX = "mailbox"


@dataclass(frozen=True, slots=True)
class Scope:
    """One policy's place; `name` is a domain, or an address without its tag, in the form in which it is compared."""

    level: Level
    name: str = ""

    @property
    def key(self) -> str:
        """What the policy is stored under; a raw 8-bit name, which no command can set, stays storable."""
        name = self.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return f"{self.level}:{name}" if name else str(self.level)

    def __str__(self) -> str:
        return f"{self.level} {self.name}" if self.name else str(self.level)


SERVER = Scope(Level.SERVER)


def parse_scope(key: str) -> Scope:
    level, _, name = key.partition(":")
    return Scope(Level(level), name)


def scopes_of(recipient: Address, delimiter: str) -> tuple[Scope, ...]:
    """The places whose policies concern the recipient; the one that decides comes first."""
    scopes = [SERVER]
    if recipient.domain:
        scopes.insert(0, Scope(Level.DOMAIN, recipient.domain))
        scopes.insert(0, Scope(Level.MAILBOX, recipient.without_tag(delimiter)))
    return tuple(scopes)


@dataclass(frozen=True)
class Policy:
    """What is set at one place. `table` holds settings as they were written."""

    table: Mapping[str, Any] = field(default_factory=dict)
    allow: PatternList = PatternList()
    deny: PatternList = PatternList()

    def __bool__(self) -> bool:
        return bool(self.table or self.allow or self.deny)

    @cached_property
    def overrides(self) -> Mapping[str, Any]:
        """The settings that are set here, checked and converted."""
        built = build(GreySettings, self.table, "stored settings of grey")
        return {name: getattr(built, name) for name in self.table}

    def to_json(self) -> str:
        lists = {
            name: [[pattern.kind, pattern.text] for pattern in patterns.patterns]
            for name, patterns in (("allow", self.allow), ("deny", self.deny))
        }
        return json.dumps({"settings": dict(self.table), **lists}, separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str) -> Policy:
        stored = json.loads(document)
        allow, deny = (
            PatternList(tuple(Pattern(Kind(kind), text) for kind, text in stored[name])) for name in ("allow", "deny")
        )
        return cls(stored["settings"], allow, deny)


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
    for scope in scopes:
        policy = policies.get(scope)
        if policy is None or not _counts(scope, settings):
            continue
        if found := _allowed(policy.allow, envelope):
            return Ruling(recipient, Fate.ALLOWED, settings, f"{found} at {scope}")
        if found := _denied(policy.deny, envelope):
            return Ruling(recipient, Fate.DENIED, settings, f"{found} at {scope}")
    return Ruling(recipient, Fate.GREY, settings)


def _counts(scope: Scope, settings: GreySettings) -> bool:
    return settings.personal or scope.level is not Level.MAILBOX


def _overlaid(settings: GreySettings, policy: Policy) -> GreySettings:
    return dataclasses.replace(settings, **policy.overrides) if policy.table else settings


def _allowed(patterns: PatternList, envelope: Envelope) -> Pattern | None:
    """Only a name that resolves back to the client counts here: anybody can give his address any name."""
    session = envelope.session
    return (
        patterns.match_sender(envelope.sender)
        or patterns.match_client(client_address(session))
        or (patterns.match_name(session.client_name) if session.has_client_name else None)
    )


def _denied(patterns: PatternList, envelope: Envelope) -> Pattern | None:
    session = envelope.session
    return (
        patterns.match_sender(envelope.sender)
        or patterns.match_client(client_address(session))
        or (patterns.match_name(session.client_name) if session.has_client_name else None)
        or patterns.match_name(session.client_ptr)
    )


def check_settings(scope: Scope, names: set[str]) -> str:
    """What is wrong with settings of these names at that place, with the remedy; empty when nothing is."""
    if scope.level is Level.SERVER:
        return ""
    wrong = sorted(names - set(PERSONAL_SETTINGS))
    if not wrong:
        return ""
    return f"{wrong[0]} is one for the whole server: leave out --{scope.level}, or set {', '.join(PERSONAL_SETTINGS)}"
