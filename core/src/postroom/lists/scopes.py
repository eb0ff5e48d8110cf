"""Pure: whose lists and settings they are: the server's, a domain's or a mailbox's."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from postroom.mail import Address
from postroom.registration import Type, check_address


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


def scope_of(domain: str | None, mailbox: str | None, delimiter: str) -> Scope:
    """InvalidRegistration when it is no domain or address."""
    if domain is not None:
        return Scope(Level.DOMAIN, check_address(Type.RECIPIENT_DOMAIN, domain))
    if mailbox is not None:
        return Scope(Level.MAILBOX, Address(check_address(Type.RECIPIENT, mailbox)).without_tag(delimiter))
    return SERVER


def scopes_of(recipient: Address, delimiter: str) -> tuple[Scope, ...]:
    """The places whose policies concern the recipient; the one that decides comes first."""
    scopes = [SERVER]
    if recipient.domain:
        scopes.insert(0, Scope(Level.DOMAIN, recipient.domain))
        scopes.insert(0, Scope(Level.MAILBOX, recipient.without_tag(delimiter)))
    return tuple(scopes)
