"""Mailboxes: who gets mail here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, insert, select, update

from postroom_accounts import schema
from postroom_accounts.records import Account, NoSuchAccount, check_address, checked_account
from postroom_accounts.store.domains import Domains
from postroom_accounts.store.transactions import Transactions, changed, replace_rows, there


class Mailboxes:
    def __init__(self, transactions: Transactions, domains: Domains) -> None:
        self._transactions = transactions
        self._domains = domains

    def all(self, domain: str | None = None) -> list[Account]:
        rows = schema.mailbox
        wanted = select(rows).order_by(rows.c.domain, rows.c.address)
        if domain is not None:
            wanted = wanted.where(rows.c.domain == self._domains.get(domain).name)
        with self._transactions.change() as connection:
            return [_account(row) for row in connection.execute(wanted)]

    def get(self, address: str) -> Account:
        address = check_address(address)
        with self._transactions.change() as connection:
            row = connection.execute(select(schema.mailbox).where(schema.mailbox.c.address == address)).one_or_none()
        if row is None:
            raise NoSuchAccount(f"there is no mailbox {address}; add it with `postroom accounts mailbox add {address}`")
        return _account(row)

    def add(self, account: Account) -> Account:
        account = checked_account(account)
        with self._transactions.change() as connection:
            self._domains.check_free(account.address)
            connection.execute(insert(schema.mailbox), [_account_values(account)])
            changed(connection)
        return account

    def put(self, accounts: Iterable[Account]) -> list[Account]:
        """Add or change many."""
        found = [checked_account(account) for account in accounts]
        addresses = [account.address for account in found]
        with self._transactions.change() as connection:
            known = there(connection, schema.mailbox.c.address, addresses)
            self._domains.check_free(*(address for address in addresses if address not in known))
            replace_rows(connection, schema.mailbox, addresses, [_account_values(account) for account in found])
            changed(connection)
        return found

    def set(self, address: str, **values: Any) -> Account:
        with self._transactions.change() as connection:
            account = checked_account(dataclasses.replace(self.get(address), **values))
            rows = schema.mailbox
            connection.execute(update(rows).where(rows.c.address == account.address).values(_account_values(account)))
            changed(connection)
        return account

    def check_there(self, addresses: Iterable[str]) -> None:
        """NoSuchAccount where one of them is no mailbox."""
        wanted = dict.fromkeys(addresses)
        with self._transactions.change() as connection:
            known = there(connection, schema.mailbox.c.address, wanted)
            for address in wanted:
                if address not in known:
                    self.get(address)  # raises

    def remove(self, address: str) -> None:
        """With its forwards and its password; the mail in its Maildir stays."""
        with self._transactions.change() as connection:
            address = self.get(address).address
            for table in (schema.mailbox, schema.target, schema.password):
                connection.execute(delete(table).where(table.c.address == address))
            changed(connection)


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
