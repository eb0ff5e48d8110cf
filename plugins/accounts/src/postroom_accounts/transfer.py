"""The whole directory as one TOML file, and back; and the file that Dovecot reads for logins."""

from __future__ import annotations

import json
import os
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from postroom.config import Size, parse_size
from postroom.stores.files import replace_noticeably

from postroom_accounts.passwords import CRYPT_SCHEME, SCRAM_SCHEME, check_hash
from postroom_accounts.records import (
    Account,
    Domain,
    Hashes,
    InvalidAccount,
    Route,
    check_alias,
    checked_account,
    checked_domain,
)
from postroom_accounts.store.accounts import Accounts

T = TypeVar("T")

MAX_TIME = 1 << 40
"""Seconds since the epoch."""

_DOMAIN_KEYS = ("name", "enabled", "quota", "message_limit")
_MAILBOX_KEYS = (
    "address", "enabled", "quota", "message_limit", "maildir", "languages", "forward", "keep_copy",
    "password_crypt", "password_scram", "password_changed", "login_enabled",
)  # fmt: skip
_ALIAS_KEYS = ("address", "targets")
_LIST_KEYS = ("address", "to")
_ROUTE_KEYS = ("name", "value")
_TABLES = ("domain", "mailbox", "alias", "list", *Route)


def export(accounts: Accounts, *, with_hashes: bool = False) -> str:
    """What is at its default is left out."""
    with accounts.change():
        forwards = accounts.targets.all(alias=False)
        hashes = accounts.logins.hashes() if with_hashes else {}
        switched_off = accounts.logins.switched_off() if with_hashes else frozenset()
        domains = [_domain_table(domain) for domain in accounts.domains.all()]
        mailboxes = []
        for account in accounts.mailboxes.all():
            table = _account_table(account) | _forward_table(account, forwards.get(account.address, ()))
            if found := hashes.get(account.address):
                table |= _hash_table(found)
                if account.address in switched_off:
                    table["login_enabled"] = False
            mailboxes.append(table)
        aliases = [
            {"address": address, "targets": list(targets)}
            for address, targets in accounts.targets.all(alias=True).items()
        ]
        lists = [{"address": address, "to": next_hop} for address, next_hop in accounts.lists.all().items()]
        routes = [
            [{"name": name, "value": value} for name, value in rows.items()] for rows in accounts.routes.all().values()
        ]
    kinds = zip(_TABLES, (domains, mailboxes, aliases, lists, *routes), strict=True)
    return "\n".join(_toml(name, table) for name, tables in kinds for table in tables)


def _toml(name: str, table: Mapping[str, Any]) -> str:
    """Written by hand: tomlkit takes 0.5 ms a table, a minute where there are a hundred thousand."""
    return "".join([f"[[{name}]]\n", *(f"{key} = {_toml_value(value)}\n" for key, value in table.items())])


def _toml_value(value: str | bool | float | list[str]) -> str:
    """A JSON string is a basic string of TOML 1.0, but for DEL, which has to be escaped there."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def import_(accounts: Accounts, text: str) -> dict[str, int]:
    """Add or change what the file names, all of it or nothing; how many of each. What it does not name stays."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidAccount(f"no valid TOML: {error}") from None
    except RecursionError:
        raise InvalidAccount("no valid TOML: brackets in brackets without an end") from None
    if unknown := sorted(set(document) - set(_TABLES)):
        known_tables = ", ".join(f"[[{name}]]" for name in _TABLES)
        raise InvalidAccount(f"unknown table {unknown[0]!r}: there are {known_tables}")
    with accounts.change():
        known_domains = {each.name for each in accounts.domains.all()}
        domains: dict[str, Domain] = {}
        for table in _tables(document, "domain", _DOMAIN_KEYS):
            domain = _domain(table)
            _once(domains, domain.name, domain)
            _put_domain(accounts, domain, known_domains)
        _put_mailboxes(accounts, _tables(document, "mailbox", _MAILBOX_KEYS))
        aliases: dict[str, tuple[str, ...]] = {}
        for table in _tables(document, "alias", _ALIAS_KEYS):
            _once(aliases, check_alias(_value(table, "address", str, "")), _texts(table, "targets"))
        accounts.targets.put(aliases, alias=True)
        for table in _tables(document, "list", _LIST_KEYS):
            accounts.lists.put(_value(table, "address", str, ""), _value(table, "to", str, ""))
        for route in Route:
            for table in _tables(document, route, _ROUTE_KEYS):
                accounts.routes.put(route, _value(table, "name", str, ""), _value(table, "value", str, ""))
    return {name: len(document[name]) for name in _TABLES if name in document}


def passwd_file(accounts: Accounts, scheme: str) -> str:
    """A Dovecot passwd-file of everybody who may log in, with hashes of one scheme."""
    may = {login.address for login in accounts.logins.all() if login.enabled}
    lines = []
    for address, hashes in accounts.logins.hashes().items():
        stored = hashes.scram if scheme == SCRAM_SCHEME else hashes.crypt
        if address in may and stored and ":" not in address:
            lines.append(f"{address}:{stored}::::::\n")
    return "".join(lines)


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            with suppress(FileNotFoundError, PermissionError):
                old = path.stat()  # what is there keeps its readers
                os.fchmod(file.fileno(), old.st_mode & 0o640)
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        replace_noticeably(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _domain(table: Mapping[str, Any]) -> Domain:
    return checked_domain(
        Domain(
            _value(table, "name", str, ""),
            _value(table, "enabled", bool, True),
            _size(table, "quota"),
            _size(table, "message_limit"),
        )
    )


def _put_domain(accounts: Accounts, domain: Domain, known: set[str]) -> None:
    if domain.name in known:
        accounts.domains.set(
            domain.name, enabled=domain.enabled, quota=domain.quota, message_limit=domain.message_limit
        )
    else:
        accounts.domains.add(domain)


def _put_mailboxes(accounts: Accounts, tables: Iterable[Mapping[str, Any]]) -> None:
    """With their forwards; a password that the file does not name stays."""
    found: dict[str, Account] = {}
    forwards: dict[str, tuple[str, ...]] = {}
    passwords: dict[str, tuple[Hashes, bool]] = {}
    now = accounts.logins.now()
    for table in tables:
        account = _account(table)
        _once(found, account.address, account)
        forwards[account.address] = _texts(table, "forward")
        hashes = _hashes(table, now)
        if hashes.crypt or hashes.scram:
            passwords[account.address] = (hashes, _value(table, "login_enabled", bool, True))
    accounts.mailboxes.put(found.values())
    accounts.targets.put(forwards, alias=False)
    accounts.logins.put_all(passwords)


def _account(table: Mapping[str, Any]) -> Account:
    return checked_account(
        Account(
            _value(table, "address", str, ""),
            _value(table, "enabled", bool, True),
            _size(table, "quota"),
            _size(table, "message_limit"),
            _value(table, "maildir", str, ""),
            _texts(table, "languages"),
            _value(table, "keep_copy", bool, True),
        )
    )


def _hashes(table: Mapping[str, Any], now: float) -> Hashes:
    changed = table.get("password_changed", now)
    if isinstance(changed, bool) or not isinstance(changed, int | float) or not 0 <= changed <= MAX_TIME:
        raise InvalidAccount(f"password_changed = {changed!r} is no time: write seconds since 1970, or leave it out")
    return Hashes(
        check_hash(_value(table, "password_crypt", str, ""), CRYPT_SCHEME),
        check_hash(_value(table, "password_scram", str, ""), SCRAM_SCHEME),
        float(changed),
    )


def _once(found: dict[str, T], address: str, value: T) -> None:
    if address in found:
        raise InvalidAccount(f"{address} stands there twice: which of them counts?")
    found[address] = value


def _domain_table(domain: Domain) -> dict[str, Any]:
    return _written(domain.name, "name", domain.enabled, domain.quota, domain.message_limit)


def _account_table(account: Account) -> dict[str, Any]:
    table = _written(account.address, "address", account.enabled, account.quota, account.message_limit)
    if account.maildir:
        table["maildir"] = account.maildir
    if account.languages:
        table["languages"] = list(account.languages)
    return table


def _written(name: str, key: str, enabled: bool, quota: int | None, limit: int | None) -> dict[str, Any]:
    table: dict[str, Any] = {key: name}
    if not enabled:
        table["enabled"] = False
    if quota is not None:
        table["quota"] = str(Size(quota))
    if limit is not None:
        table["message_limit"] = str(Size(limit))
    return table


def _forward_table(account: Account, targets: tuple[str, ...]) -> dict[str, Any]:
    table: dict[str, Any] = {"forward": list(targets)} if targets else {}
    return table if account.keep_copy else {**table, "keep_copy": False}


def _hash_table(hashes: Hashes) -> dict[str, Any]:
    table = {"password_crypt": hashes.crypt, "password_scram": hashes.scram, "password_changed": hashes.changed}
    return {key: value for key, value in table.items() if value != ""}


def _tables(document: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> list[Mapping[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidAccount(f"{name} is a list of tables: write [[{name}]]")
    for table in tables:
        if unknown := sorted(set(table) - set(keys)):
            raise InvalidAccount(f"[[{name}]]: unknown key {unknown[0]!r}; known keys: {', '.join(keys)}")
    return tables


def _value(table: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    found = table.get(key, default)
    if not isinstance(found, kind):
        raise InvalidAccount(f"{key} = {found!r} is of the wrong kind: {kind.__name__} is wanted")
    return found


def _texts(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidAccount(f"{key} is a list of texts")
    return tuple(found)


def _size(table: Mapping[str, Any], key: str) -> int | None:
    found = table.get(key)
    if isinstance(found, str):
        try:
            return int(parse_size(found))
        except ValueError as error:
            raise InvalidAccount(f"{key}: {error}") from None
    if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
        raise InvalidAccount(f'{key} = {found!r} is no size: write "500M" or a number of octets')
    return found
