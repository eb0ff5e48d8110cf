"""Mailing lists: addresses whose mail a list manager takes."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from postroom_accounts import schema
from postroom_accounts.records import NoSuchAccount, check_alias, check_next_hop
from postroom_accounts.store.domains import Domains
from postroom_accounts.store.transactions import Transactions, changed, has


class Lists:
    def __init__(self, transactions: Transactions, domains: Domains) -> None:
        self._transactions = transactions
        self._domains = domains

    def all(self) -> dict[str, str]:
        """Addresses to next hops."""
        rows = schema.mailing_list
        with self._transactions.change() as connection:
            return {row.address: row.next_hop for row in connection.execute(select(rows).order_by(rows.c.address))}

    def put(self, address: str, next_hop: str) -> tuple[str, str]:
        """Add it, or lead it elsewhere."""
        address, next_hop = check_alias(address), check_next_hop(next_hop)
        rows = schema.mailing_list
        with self._transactions.change() as connection:
            if not has(connection, rows, address=address):
                self._domains.check_free(address)
            connection.execute(delete(rows).where(rows.c.address == address))
            values = {"address": address, "domain": address.rpartition("@")[2], "next_hop": next_hop}
            connection.execute(insert(rows), [values])
            changed(connection)
        return address, next_hop

    def remove(self, address: str) -> str:
        address = check_alias(address)
        rows = schema.mailing_list
        with self._transactions.change() as connection:
            if not has(connection, rows, address=address):
                raise NoSuchAccount(f"there is no list {address}; see `postroom accounts list list`")
            connection.execute(delete(rows).where(rows.c.address == address))
            changed(connection)
        return address
