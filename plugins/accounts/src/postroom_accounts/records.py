"""Pure: what the directory holds, and what may be in it."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass

from postroom.config import parse_socket
from postroom.mail import Address, to_a_label

MAX_DOMAIN = 255  # RFC 5321 4.5.3.1.2
MAX_LOCAL_PART = 64  # RFC 5321 4.5.3.1.1
MAX_TARGETS = 1000
"""Addresses behind one alias, all steps together: one mail never becomes more copies."""
MAX_LIMIT = 1 << 60
MAX_TEXT = 1000

_DOMAIN = re.compile(r"(?=.{1,255}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*")  # RFC 5646 2.1, loosely


LIST_COMMANDS = (
    "admin", "bounces", "confirm", "join", "leave", "owner", "request", "subscribe", "unsubscribe",
)  # fmt: skip
"""What a list manager (Mailman) answers to beside the list: `talk-request@d` for `talk@d`."""

_TRANSPORT = re.compile(r"(?!-)[A-Za-z0-9_.-]*(:([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?)?")  # transport(5)
_ACTION = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")  # access(5)


class Route(enum.StrEnum):
    """What only the mail server reads, keys and words of its own."""

    TRANSPORT = "transport"  # a recipient's domain or address: by which transport its mail leaves
    SENDER_TRANSPORT = "sender-transport"  # the same by sender
    BLACKLIST = "blacklist"  # a sender's domain or address: what he is told


class InvalidAccount(ValueError):
    """What is wrong and what to write instead, in one line."""

    exit_status = 2


class NoSuchAccount(Exception):
    """There is none of that name."""

    exit_status = 1


class AccountExists(Exception):
    """There is one of that name, or it is in use."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain whose mail is ours. Limits are octets and hold for mailboxes that have none of their own."""

    name: str
    enabled: bool = True
    quota: int | None = None
    message_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox. A quota or limit of 0 is none, None is the domain's; an empty `maildir` is the configured place."""

    address: str
    enabled: bool = True
    quota: int | None = None
    message_limit: int | None = None
    maildir: str = ""
    languages: tuple[str, ...] = ()
    keep_copy: bool = True


@dataclass(frozen=True, slots=True)
class Login:
    """Who may log in, how, since when; the hashes themselves are nobody's to see."""

    address: str
    enabled: bool
    methods: tuple[str, ...]
    changed: float


@dataclass(frozen=True, slots=True)
class Hashes:
    """As they are stored, each with its scheme in braces; `changed` in seconds since the epoch."""

    crypt: str
    scram: str
    changed: float

    def __repr__(self) -> str:
        return "Hashes(…)"  # not even a traceback shows one


def check_domain(text: str) -> str:
    """The domain as it is stored; InvalidAccount when it is none."""
    name = to_a_label(text.strip().removeprefix("@"))
    if not _DOMAIN.fullmatch(name):
        raise InvalidAccount(f"{text[:MAX_DOMAIN]!r} is no domain: write example.org")
    return name


def check_address(text: str, what: str = "address") -> str:
    """The address as it is stored."""
    local, at, domain = text.strip().rpartition("@")
    if not at or not local or not local.isprintable() or any(each in "<>" for each in local):
        raise InvalidAccount(f"{text[:MAX_DOMAIN]!r} is no {what}: write user@example.org")
    if local.startswith("#"):  # a comment in the tables of Postfix (postmap(1)) and in Dovecot's file of logins
        raise InvalidAccount(f"{text[:MAX_DOMAIN]!r}: mail servers take a '#' at the beginning for a comment")
    if len(local.encode()) > MAX_LOCAL_PART:
        raise InvalidAccount(f"{text[:MAX_DOMAIN]!r}: at most {MAX_LOCAL_PART} octets of UTF-8 before the @")
    if not local.startswith('"') and any(each in ' ,;:()[]\\"@' for each in local):
        raise InvalidAccount(f"{text[:MAX_DOMAIN]!r} is no {what}: blanks and specials need quotes before the @")
    return Address(f"{local}@{check_domain(domain)}").key


def check_mailbox(text: str) -> str:
    """An address that names a directory of its own."""
    address = check_address(text)
    user = address.rpartition("@")[0]
    if user.startswith((".", '"')) or "/" in user:
        raise InvalidAccount(f"{text!r}: a mailbox is a directory: no '/', no quotes, no dot at the beginning")
    return address


def check_alias(text: str) -> str:
    """An address, or `@domain` for everybody there who is nobody else."""
    if text.strip().startswith("@"):
        return f"@{check_domain(text)}"
    return check_address(text, "alias")


def check_maildir(text: str) -> str:
    if text and (not text.startswith("/") or ".." in text.split("/") or "\0" in text or not _is_utf8(text)):
        raise InvalidAccount(f"{text!r} is no absolute path: write /var/mail/…/Maildir, or nothing for the usual place")
    return os.path.normpath(text) if text else ""


def check_limit(value: int | None, what: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LIMIT):
        raise InvalidAccount(f"{what} {value!r} is no size: write 500M, 2G, or 0 for none")
    return value


def check_languages(languages: tuple[str, ...]) -> tuple[str, ...]:
    for language in languages:
        if not _LANGUAGE.fullmatch(language):
            raise InvalidAccount(f"{language!r} is no language: write en, de or pt-BR")
    return tuple(dict.fromkeys(language.replace("_", "-") for language in languages))


def checked_domain(domain: Domain) -> Domain:
    return Domain(
        check_domain(domain.name),
        bool(domain.enabled),
        check_limit(domain.quota, "quota"),
        check_limit(domain.message_limit, "message limit"),
    )


def checked_account(account: Account) -> Account:
    return Account(
        check_mailbox(account.address),
        bool(account.enabled),
        check_limit(account.quota, "quota"),
        check_limit(account.message_limit, "message limit"),
        check_maildir(account.maildir),
        check_languages(account.languages),
        bool(account.keep_copy),
    )


def check_next_hop(text: str) -> str:
    """Where a list manager takes mail: `lmtp:` and a socket, or `command`: `[delivery] list_command`."""
    if text == "command":
        return text
    try:
        return f"lmtp:{parse_socket(text.removeprefix('lmtp:'))}"
    except ValueError:
        words = "write lmtp:inet:127.0.0.1:8024, lmtp:unix:/path, or command for [delivery] list_command"
        raise InvalidAccount(f"{text[:MAX_TEXT]!r} is no next hop: {words}") from None


def check_route(route: Route, name: str, value: str) -> tuple[str, str]:
    """Key and value as Postfix' table has them. Subdomains are `.example.org`; everybody, in transports, is `*`."""
    if len(value) > MAX_TEXT:
        raise InvalidAccount(f"at most {MAX_TEXT} characters, not {len(value)}")
    if route is Route.BLACKLIST:
        if not _ACTION.fullmatch(value):
            raise InvalidAccount(f'{value!r} is no action: write REJECT, or "REJECT text" in ASCII (access(5))')
    elif not _TRANSPORT.fullmatch(value) or not value.strip(":"):
        raise InvalidAccount(f"{value!r} is no transport: write smtp:[relay.example.org]:587 or error:text")
    return check_route_name(route, name), value


def check_route_name(route: Route, name: str) -> str:
    name = name.strip()
    if name == "*" and route is Route.TRANSPORT:
        return name
    if "@" in name.lstrip("@"):
        return check_address(name)
    if route is Route.SENDER_TRANSPORT:
        return f"@{check_domain(name)}"  # sender_dependent_default_transport_maps looks up user@domain and @domain
    return f".{check_domain(name[1:])}" if name.startswith(".") else check_domain(name)


def list_of(address: str) -> str:
    """The list whose command address this would be; itself where it would be none."""
    local, _, domain = address.rpartition("@")
    base, _, command = local.rpartition("-")
    return f"{base}@{domain}" if base and command in LIST_COMMANDS else address


def command_addresses(address: str) -> tuple[str, ...]:
    local, _, domain = address.rpartition("@")
    return tuple(f"{local}-{command}@{domain}" for command in LIST_COMMANDS) if local else ()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
