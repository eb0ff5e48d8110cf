"""Domains whose mail is ours."""

from __future__ import annotations

import dataclasses
from typing import Any

from postroom.mail import Address
from sqlalchemy import delete, insert, select, update

from postroom_accounts import schema
from postroom_accounts.records import AccountExists, Domain, NoSuchAccount, check_domain, checked_domain
from postroom_accounts.store.transactions import Transactions, changed, has, there


class Domains:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def all(self) -> list[Domain]:
        with self._transactions.change() as connection:
            rows = connection.execute(select(schema.domain).order_by(schema.domain.c.name)).all()
        return [Domain(row.name, bool(row.enabled), row.quota, row.message_limit) for row in rows]

    def get(self, name: str) -> Domain:
        name = check_domain(name)
        with self._transactions.change() as connection:
            row = connection.execute(select(schema.domain).where(schema.domain.c.name == name)).one_or_none()
        if row is None:
            raise NoSuchAccount(f"there is no domain {name}; add it with `postroom accounts domain add {name}`")
        return Domain(row.name, bool(row.enabled), row.quota, row.message_limit)

    def add(self, domain: Domain) -> Domain:
        domain = checked_domain(domain)
        with self._transactions.change() as connection:
            if has(connection, schema.domain, name=domain.name):
                raise AccountExists(
                    f"domain {domain.name} is there already; change it with `postroom accounts domain set`"
                )
            connection.execute(insert(schema.domain), [_domain_values(domain)])
            changed(connection)
        return domain

    def set(self, name: str, **values: Any) -> Domain:
        with self._transactions.change() as connection:
            domain = checked_domain(dataclasses.replace(self.get(name), **values))
            rows = schema.domain
            connection.execute(update(rows).where(rows.c.name == domain.name).values(_domain_values(domain)))
            changed(connection)
        return domain

    def remove(self, name: str, *, everything: bool = False) -> None:
        """AccountExists while there is something in it, unless `everything` shall go."""
        with self._transactions.change() as connection:
            domain = self.get(name).name
            tables = (schema.mailbox, schema.target, schema.mailing_list)
            if not everything and any(has(connection, table, domain=domain) for table in tables):
                raise AccountExists(
                    f"domain {domain} has mailboxes, aliases or lists: remove them before, or use --everything"
                )
            gone = select(schema.mailbox.c.address).where(schema.mailbox.c.domain == domain)
            connection.execute(delete(schema.password).where(schema.password.c.address.in_(gone)))
            for table in tables:
                connection.execute(delete(table).where(table.c.domain == domain))
            connection.execute(delete(schema.domain).where(schema.domain.c.name == domain))
            changed(connection)

    def check_free(self, *addresses: str) -> None:
        """NoSuchAccount unless their domains are there, AccountExists where somebody has one of the addresses."""
        with self._transactions.change() as connection:
            domains = dict.fromkeys(Address(address).domain for address in addresses)
            known = there(connection, schema.domain.c.name, domains)
            for domain in domains:
                if domain not in known:
                    self.get(domain)  # raises
            for table, words in _TAKEN.items():
                if taken := there(connection, table.c.address, addresses):
                    raise AccountExists(words.format(min(taken)))


_TAKEN = {
    schema.mailbox: "mailbox {} is there already; change it with `postroom accounts mailbox set`",
    schema.target: "{} is an alias: remove that before, with `postroom accounts alias remove`",
    schema.mailing_list: "{} is a list: remove that before, with `postroom accounts list remove`",
}


def _domain_values(domain: Domain) -> dict[str, Any]:
    return {**dataclasses.asdict(domain), "enabled": int(domain.enabled)}
