"""The words in which an administrator says what shall act where: stage, type, registration."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from postroom.mail import address_from_wire, to_a_label

MAX_NAME = 255
MAX_ADDRESS = 320  # RFC 5321 4.5.3.1: 64 octets of local part, "@", 255 of domain
MAX_DOMAIN, MAX_LABEL = 255, 63  # RFC 1035 2.3.4
MAX_CONTEXT = 65536
MIN_PRIORITY, MAX_PRIORITY = 0, 16384  # the reference's range

_QUOTED = re.compile(r'^"(?:[^"\\]|\\.)*"(?=@)')  # a local part may hold anything in quotes (RFC 5321 4.1.2)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udbff]")


class Stage(enum.StrEnum):
    """The four points of a mail's way, in order."""

    BEFORE_DATA = "before-data"
    BEFORE_QUEUE = "before-queue"
    BEFORE_LOCAL = "before-local"
    BEFORE_REMOTE = "before-remote"


class Type(enum.StrEnum):
    """Whose mail a registration is about."""

    GLOBAL = "global"
    SENDER = "sender"
    RECIPIENT = "recipient"
    SENDER_DOMAIN = "sender-domain"
    RECIPIENT_DOMAIN = "recipient-domain"

    @property
    def by_recipient(self) -> bool:
        """Whether it answers for some recipients of a mail rather than for all."""
        return self in (Type.RECIPIENT, Type.RECIPIENT_DOMAIN)


BEFORE_DATA_ORDER = (Type.GLOBAL, Type.SENDER, Type.RECIPIENT, Type.SENDER_DOMAIN, Type.RECIPIENT_DOMAIN)
OTHER_ORDER = (Type.SENDER, Type.RECIPIENT, Type.SENDER_DOMAIN, Type.RECIPIENT_DOMAIN, Type.GLOBAL)


def type_order(stage: Stage) -> tuple[Type, ...]:
    """The order in which types act at a stage (the reference's table)."""
    return BEFORE_DATA_ORDER if stage is Stage.BEFORE_DATA else OTHER_ORDER


class OnError(enum.StrEnum):
    """What happens to the mail when a handler fails."""

    DEFER = "defer"
    REJECT = "reject"
    SKIP = "skip"
    QUARANTINE = "quarantine"


class Mode(enum.StrEnum):
    ACTIVE = "active"
    SHADOW = "shadow"  # runs, logs and counts what it would have done, and does nothing


class InvalidRegistration(ValueError):
    """What is wrong and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One row of the registry. (handler, stage, type, address) tells registrations apart.

    `address` is empty for `global`, an address for `sender` and `recipient`, a domain for the other two; always in
    the form in which it is compared. `executable` is the absolute path of a program, empty for an installed plugin.
    `on_error` None means: as the handler declares.
    """

    handler: str
    stage: Stage
    type: Type
    address: str = ""
    priority: int = 10
    enabled: bool = False
    context: str = ""
    mode: Mode = Mode.ACTIVE
    on_error: OnError | None = None
    executable: str = ""

    @property
    def key(self) -> tuple[str, Stage, Type, str]:
        return (self.handler, self.stage, self.type, self.address)

    def __str__(self) -> str:
        return f"{self.handler} at {self.stage} for {self.address or 'all'} ({self.type})"


@dataclass(frozen=True, slots=True)
class Selection:
    """The registrations that may concern one mail, as they were at one generation of the registry."""

    generation: int
    registrations: tuple[Registration, ...] = ()


def check_address(type_: Type, text: str) -> str:
    """`text` in the form in which registrations of that type are compared; InvalidRegistration when it is none."""
    if type_ is Type.GLOBAL:
        if text:
            raise InvalidRegistration(f"type global takes no address, but got {text!r}: leave the address out")
        return ""
    wants_domain = type_ in (Type.SENDER_DOMAIN, Type.RECIPIENT_DOMAIN)
    what = "domain" if wants_domain else "address"
    a_what = f"a {what}" if wants_domain else f"an {what}"
    if not text:
        raise InvalidRegistration(f"type {type_} needs {a_what}: give one with --address")
    unquoted = text if wants_domain else _QUOTED.sub("", text)
    if len(text) > MAX_ADDRESS or any(character in " <>," for character in unquoted) or _CONTROL.search(text):
        raise InvalidRegistration(
            f"{text[:MAX_ADDRESS]!r} is no {what}: leave out blanks, <>, commas, control characters"
        )
    if wants_domain:
        if "@" in text:
            raise InvalidRegistration(f"{text!r} is an address, but type {type_} takes a domain: leave out 'user@'")
        return _checked_domain(to_a_label(text), text)
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise InvalidRegistration(f"{text!r} is no address: write user@domain, or use a -domain type")
    if "@" in local and not (local.startswith('"') and local.endswith('"')):
        raise InvalidRegistration(f"{text!r} is no address: it has more than one '@'")  # RFC 5321 4.1.2
    address = address_from_wire(text.encode("utf-8", "surrogateescape"))
    _checked_domain(address.domain, text)
    return address.key


def _checked_domain(domain: str, text: str) -> str:
    """An A-label form that DNS could know, or an address literal (RFC 5321 4.1.2)."""
    if domain.startswith("[") and domain.endswith("]"):
        return domain
    labels = domain.split(".")
    if len(domain) > MAX_DOMAIN or not domain.isascii() or not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise InvalidRegistration(
            f"{text!r} has no possible domain: labels of 1 to {MAX_LABEL} characters, with single dots between them"
        )
    return domain


def check_name(name: str) -> str:
    """The reference's rule: anything but "/" and NUL."""
    if not name or len(name) > MAX_NAME or "/" in name or "\0" in name or name != name.strip():
        raise InvalidRegistration(f"{name!r} is no handler name: 1 to {MAX_NAME} characters, no '/' and no NUL")
    return name


def check_priority(priority: int) -> int:
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidRegistration(f"priority {priority} is out of range: {MIN_PRIORITY} to {MAX_PRIORITY}")
    return priority
