"""Changing and listing the directory, as commands do: SQLAlchemy Core, one transaction a change."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from postroom.config import Config
from postroom.hookspecs import DirectoryUnavailable
from postroom.mail import Address
from postroom.stores.writing import writing, writing_engine
from sqlalchemy import (
    Connection,
    Engine,
    Table,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from postroom_accounts import schema
from postroom_accounts.database import (
    DIRECTORY_MODE,
    FILE_MODE,
    AccountsUnusable,
    SqliteReader,
    open_reader,
    translated,
    translated_server,
)
from postroom_accounts.records import (
    MAX_TARGETS,
    Account,
    AccountExists,
    Domain,
    Hashes,
    InvalidAccount,
    Login,
    NoSuchAccount,
    Route,
    check_address,
    check_alias,
    check_domain,
    check_next_hop,
    check_route,
    check_route_name,
    checked_account,
    checked_domain,
)


class Accounts:
    """The directory open for changes. Every method is one transaction; `change` makes several calls one."""

    def __init__(self, engine: Engine, place: str, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._engine, self.place, self._path, self._clock = engine, place, path, clock
        self._inside: Connection | None = None

    @classmethod
    def open(cls, config: Config, *, create: bool = True, clock: Callable[[], float] = time.time) -> Accounts:
        """Its schema led here when it is older. `create`: make it where there is none, else DirectoryUnavailable."""
        reader = open_reader(config)
        if isinstance(reader, SqliteReader):
            path, timeout = reader.path, float(config.directory.timeout)
            if not path.exists():
                if not create:
                    raise DirectoryUnavailable(
                        f"{path}: there are no accounts yet; `postroom accounts domain add` makes them"
                    )
                _make_file(path)
            accounts = cls(writing_engine(path, timeout), reader.place, path, clock)
        else:
            accounts = cls(reader.engine, reader.place, None, clock)
        with accounts.change() as connection:
            schema.migrate(connection, accounts.place)
        return accounts

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One transaction, alone over all processes and hosts, for every call inside the block."""
        if self._inside is not None:
            yield self._inside
            return
        with self._transaction() as connection:
            self._inside = connection
            try:
                yield connection
            finally:
                self._inside = None

    # Domains

    def domains(self) -> list[Domain]:
        with self.change() as connection:
            rows = connection.execute(select(schema.domain).order_by(schema.domain.c.name)).all()
        return [Domain(row.name, bool(row.enabled), row.quota, row.message_limit) for row in rows]

    def domain(self, name: str) -> Domain:
        name = check_domain(name)
        with self.change() as connection:
            row = connection.execute(select(schema.domain).where(schema.domain.c.name == name)).one_or_none()
        if row is None:
            raise NoSuchAccount(f"there is no domain {name}; add it with `postroom accounts domain add {name}`")
        return Domain(row.name, bool(row.enabled), row.quota, row.message_limit)

    def add_domain(self, domain: Domain) -> Domain:
        domain = checked_domain(domain)
        with self.change() as connection:
            if _has(connection, schema.domain, name=domain.name):
                raise AccountExists(
                    f"domain {domain.name} is there already; change it with `postroom accounts domain set`"
                )
            connection.execute(insert(schema.domain), [_domain_values(domain)])
            _changed(connection)
        return domain

    def set_domain(self, name: str, **values: Any) -> Domain:
        with self.change() as connection:
            domain = checked_domain(dataclasses.replace(self.domain(name), **values))
            rows = schema.domain
            connection.execute(update(rows).where(rows.c.name == domain.name).values(_domain_values(domain)))
            _changed(connection)
        return domain

    def remove_domain(self, name: str, *, everything: bool = False) -> None:
        """AccountExists while there is something in it, unless `everything` shall go."""
        with self.change() as connection:
            domain = self.domain(name).name
            tables = (schema.mailbox, schema.target, schema.mailing_list)
            if not everything and any(_has(connection, table, domain=domain) for table in tables):
                raise AccountExists(
                    f"domain {domain} has mailboxes, aliases or lists: remove them before, or use --everything"
                )
            gone = select(schema.mailbox.c.address).where(schema.mailbox.c.domain == domain)
            connection.execute(delete(schema.password).where(schema.password.c.address.in_(gone)))
            for table in tables:
                connection.execute(delete(table).where(table.c.domain == domain))
            connection.execute(delete(schema.domain).where(schema.domain.c.name == domain))
            _changed(connection)

    # Mailboxes

    def mailboxes(self, domain: str | None = None) -> list[Account]:
        rows = schema.mailbox
        wanted = select(rows).order_by(rows.c.domain, rows.c.address)
        if domain is not None:
            wanted = wanted.where(rows.c.domain == self.domain(domain).name)
        with self.change() as connection:
            return [_account(row) for row in connection.execute(wanted)]

    def mailbox(self, address: str) -> Account:
        address = check_address(address)
        with self.change() as connection:
            row = connection.execute(select(schema.mailbox).where(schema.mailbox.c.address == address)).one_or_none()
        if row is None:
            raise NoSuchAccount(f"there is no mailbox {address}; add it with `postroom accounts mailbox add {address}`")
        return _account(row)

    def add_mailbox(self, account: Account) -> Account:
        account = checked_account(account)
        with self.change() as connection:
            self._check_free(connection, account.address)
            connection.execute(insert(schema.mailbox), [_account_values(account)])
            _changed(connection)
        return account

    def set_mailbox(self, address: str, **values: Any) -> Account:
        with self.change() as connection:
            account = checked_account(dataclasses.replace(self.mailbox(address), **values))
            rows = schema.mailbox
            connection.execute(update(rows).where(rows.c.address == account.address).values(_account_values(account)))
            _changed(connection)
        return account

    def remove_mailbox(self, address: str) -> None:
        """With its forwards and its password; the mail in its Maildir stays."""
        with self.change() as connection:
            address = self.mailbox(address).address
            for table in (schema.mailbox, schema.target, schema.password):
                connection.execute(delete(table).where(table.c.address == address))
            _changed(connection)

    # Aliases and forwards: addresses with targets

    def targets(self, *, alias: bool, domain: str | None = None) -> dict[str, tuple[str, ...]]:
        rows = schema.target
        wanted = select(rows).where(rows.c.alias == int(alias)).order_by(rows.c.domain, rows.c.address, rows.c.position)
        if domain is not None:
            wanted = wanted.where(rows.c.domain == self.domain(domain).name)
        found: dict[str, tuple[str, ...]] = {}
        with self.change() as connection:
            for row in connection.execute(wanted):
                found[row.address] = (*found.get(row.address, ()), row.target)
        return found

    def targets_of(self, address: str, *, alias: bool) -> tuple[str, ...]:
        address = check_alias(address) if alias else check_address(address)
        rows = schema.target
        wanted = select(rows.c.target).where(rows.c.address == address, rows.c.alias == int(alias))
        with self.change() as connection:
            found = tuple(row.target for row in connection.execute(wanted.order_by(rows.c.position)))
        if not found:
            what = "alias" if alias else "forward of mailbox"
            raise NoSuchAccount(f"there is no {what} {address}; see `postroom accounts {what.split()[0]} list`")
        return found

    def add_targets(self, address: str, targets: Sequence[str], *, alias: bool) -> tuple[str, ...]:
        """All targets that the address has then."""
        with self.change() as connection:
            address = check_alias(address) if alias else self.mailbox(address).address
            try:
                old = self.targets_of(address, alias=alias)
            except NoSuchAccount:
                old = ()
                if alias:
                    self._check_free(connection, address)
            return self._put_targets(connection, address, (*old, *targets), alias)

    def set_targets(self, address: str, targets: Sequence[str], *, alias: bool) -> tuple[str, ...]:
        with self.change() as connection:
            address = check_alias(address) if alias else self.mailbox(address).address
            self.targets_of(address, alias=alias)
            return self._put_targets(connection, address, targets, alias)

    def remove_targets(self, address: str, targets: Sequence[str] = (), *, alias: bool) -> None:
        """These, or all of them."""
        with self.change() as connection:
            address = check_alias(address) if alias else check_address(address)
            old = self.targets_of(address, alias=alias)
            gone = {check_address(target) for target in targets} or set(old)
            if missing := sorted(gone - set(old)):
                raise NoSuchAccount(f"{address} has no target {missing[0]}; it has {', '.join(old)}")
            kept = [target for target in old if target not in gone]
            self._put_targets(connection, address, kept, alias)

    def _put_targets(
        self, connection: Connection, address: str, targets: Sequence[str], alias: bool
    ) -> tuple[str, ...]:
        wanted = tuple(dict.fromkeys(check_address(target, "target") for target in targets))
        if len(wanted) > MAX_TARGETS:
            raise InvalidAccount(
                f"{address} would have {len(wanted)} targets: at most {MAX_TARGETS}; use a list manager"
            )
        if address in wanted:
            raise InvalidAccount(
                f"{address} would lead to itself: leave it out; --keep-copy keeps mail that is forwarded"
            )
        connection.execute(delete(schema.target).where(schema.target.c.address == address))
        domain = address.rpartition("@")[2]
        rows = [
            {"address": address, "target": target, "domain": domain, "alias": int(alias), "position": position}
            for position, target in enumerate(wanted)
        ]
        if rows:
            connection.execute(insert(schema.target), rows)
        _changed(connection)
        return wanted

    def _check_free(self, connection: Connection, address: str) -> None:
        """The domain is there, and nobody else has the address."""
        self.domain(Address(address).domain)
        if _has(connection, schema.mailbox, address=address):
            raise AccountExists(f"mailbox {address} is there already; change it with `postroom accounts mailbox set`")
        if _has(connection, schema.target, address=address):
            raise AccountExists(f"{address} is an alias: remove that before, with `postroom accounts alias remove`")
        if _has(connection, schema.mailing_list, address=address):
            raise AccountExists(f"{address} is a list: remove that before, with `postroom accounts list remove`")

    # Lists

    def lists(self) -> dict[str, str]:
        """Addresses to next hops."""
        rows = schema.mailing_list
        with self.change() as connection:
            return {row.address: row.next_hop for row in connection.execute(select(rows).order_by(rows.c.address))}

    def put_list(self, address: str, next_hop: str) -> tuple[str, str]:
        """Add it, or lead it elsewhere."""
        address, next_hop = check_alias(address), check_next_hop(next_hop)
        rows = schema.mailing_list
        with self.change() as connection:
            if not _has(connection, rows, address=address):
                self._check_free(connection, address)
            connection.execute(delete(rows).where(rows.c.address == address))
            values = {"address": address, "domain": address.rpartition("@")[2], "next_hop": next_hop}
            connection.execute(insert(rows), [values])
            _changed(connection)
        return address, next_hop

    def remove_list(self, address: str) -> str:
        address = check_alias(address)
        rows = schema.mailing_list
        with self.change() as connection:
            if not _has(connection, rows, address=address):
                raise NoSuchAccount(f"there is no list {address}; see `postroom accounts list list`")
            connection.execute(delete(rows).where(rows.c.address == address))
            _changed(connection)
        return address

    # What only the mail server reads

    def routes(self, route: Route) -> dict[str, str]:
        return self.all_routes()[route]

    def all_routes(self) -> dict[Route, dict[str, str]]:
        rows = schema.route
        found: dict[Route, dict[str, str]] = {route: {} for route in Route}
        with self.change() as connection:
            for row in connection.execute(select(rows).order_by(rows.c.map, rows.c.name)):
                found[Route(row.map)][row.name] = row.value
        return found

    def put_route(self, route: Route, name: str, value: str) -> str:
        """Add it, or change what it says."""
        name, value = check_route(route, name, value)
        rows = schema.route
        with self.change() as connection:
            connection.execute(delete(rows).where(rows.c.map == route.value, rows.c.name == name))
            connection.execute(insert(rows), [{"map": route.value, "name": name, "value": value}])
        return name

    def remove_route(self, route: Route, name: str) -> str:
        name = check_route_name(route, name)
        rows = schema.route
        with self.change() as connection:
            if not _has(connection, rows, map=route.value, name=name):
                raise NoSuchAccount(f"there is no {route} of {name}; see `postroom accounts {route} list`")
            connection.execute(delete(rows).where(rows.c.map == route.value, rows.c.name == name))
        return name

    # Passwords

    def set_password(self, address: str, crypt: str, scram: str, changed: float | None = None) -> Login:
        with self.change() as connection:
            address = self.mailbox(address).address
            rows = schema.password
            at = self._clock() if changed is None else changed
            connection.execute(delete(rows).where(rows.c.address == address))
            values = {"address": address, "enabled": 1, "crypt": crypt, "scram": scram, "changed": at}
            connection.execute(insert(rows), [values])
        return self.login(address)

    def set_login(self, address: str, *, enabled: bool) -> Login:
        with self.change() as connection:
            address = self.login(address).address
            rows = schema.password
            connection.execute(update(rows).where(rows.c.address == address).values(enabled=int(enabled)))
        return self.login(address)

    def remove_password(self, address: str) -> None:
        with self.change() as connection:
            address = self.login(address).address
            connection.execute(delete(schema.password).where(schema.password.c.address == address))

    def login(self, address: str) -> Login:
        address = check_address(address)
        found = [login for login in self._logins(address) if login.address == address]
        if not found:
            raise NoSuchAccount(f"{address} has no password; set one with `postroom accounts password {address}`")
        return found[0]

    def logins(self) -> list[Login]:
        return self._logins(None)

    def hashes(self) -> dict[str, Hashes]:
        """By address; for what a login server reads, and for nobody's eyes."""
        with self.change() as connection:
            rows = connection.execute(select(schema.password).order_by(schema.password.c.address)).all()
        return {row.address: Hashes(row.crypt, row.scram, row.changed) for row in rows}

    def _logins(self, address: str | None) -> list[Login]:
        """A login counts only while password, mailbox and domain are enabled."""
        rows, boxes, domains = schema.password, schema.mailbox, schema.domain
        joined = rows.join(boxes, rows.c.address == boxes.c.address).join(domains, boxes.c.domain == domains.c.name)
        enabled = (rows.c.enabled * boxes.c.enabled * domains.c.enabled).label("may")
        wanted = select(
            rows.c.address, enabled, func.length(rows.c.crypt), func.length(rows.c.scram), rows.c.changed
        ).select_from(joined)
        if address is not None:
            wanted = wanted.where(rows.c.address == address)
        with self.change() as connection:
            found = connection.execute(wanted.order_by(rows.c.address)).all()
        names = ("plain", "scram-sha-256")
        return [
            Login(
                row[0], bool(row[1]), tuple(name for name, there in zip(names, row[2:4], strict=True) if there), row[4]
            )
            for row in found
        ]

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._path is not None:
            with translated(self._path), writing(self._engine) as connection:
                yield connection
            return
        with translated_server(self.place), self._engine.begin() as connection:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext('postroom-accounts'), hashtext(current_schema()))")
            )
            yield connection


def _changed(connection: Connection) -> None:
    connection.execute(update(schema.state).values(generation=schema.state.c.generation + 1))


def _has(connection: Connection, table: Table, **values: str) -> bool:
    wanted = select(table.c[next(iter(values))]).where(*(table.c[name] == value for name, value in values.items()))
    return connection.execute(wanted.limit(1)).first() is not None


def _domain_values(domain: Domain) -> dict[str, Any]:
    return {**dataclasses.asdict(domain), "enabled": int(domain.enabled)}


def _account_values(account: Account) -> dict[str, Any]:
    return {
        **dataclasses.asdict(account),
        "domain": account.address.rpartition("@")[2],
        "enabled": int(account.enabled),
        "languages": " ".join(account.languages),
        "keep_copy": int(account.keep_copy),
    }


def _account(row: Any) -> Account:
    return Account(
        row.address,
        bool(row.enabled),
        row.quota,
        row.message_limit,
        row.maildir,
        tuple(row.languages.split()),
        bool(row.keep_copy),
    )


def _make_file(path: Path) -> None:
    """The empty file with its mode, and its directory; root's first command must not lock the server's user out."""
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        words = f"cannot be made: {error.strerror}; run as a user who may, or set [directory] url"
        raise AccountsUnusable(f"{path}: {words}") from None
    try:
        os.fchmod(descriptor, FILE_MODE)
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)
