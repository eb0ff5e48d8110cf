"""Aliases and forwards: addresses that lead to others."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from postroom_accounts import schema
from postroom_accounts.records import MAX_TARGETS, InvalidAccount, NoSuchAccount, check_address, check_alias
from postroom_accounts.store.domains import Domains
from postroom_accounts.store.mailboxes import Mailboxes
from postroom_accounts.store.transactions import Transactions, changed


class Targets:
    """`alias`: of an address that is nobody's mailbox; else of a mailbox, which forwards."""

    def __init__(self, transactions: Transactions, domains: Domains, mailboxes: Mailboxes) -> None:
        self._transactions = transactions
        self._domains = domains
        self._mailboxes = mailboxes

    def all(self, *, alias: bool, domain: str | None = None) -> dict[str, tuple[str, ...]]:
        rows = schema.target
        wanted = select(rows).where(rows.c.alias == int(alias)).order_by(rows.c.domain, rows.c.address, rows.c.position)
        if domain is not None:
            wanted = wanted.where(rows.c.domain == self._domains.get(domain).name)
        found: dict[str, tuple[str, ...]] = {}
        with self._transactions.change() as connection:
            for row in connection.execute(wanted):
                found[row.address] = (*found.get(row.address, ()), row.target)
        return found

    def of(self, address: str, *, alias: bool) -> tuple[str, ...]:
        address = check_alias(address) if alias else check_address(address)
        rows = schema.target
        wanted = select(rows.c.target).where(rows.c.address == address, rows.c.alias == int(alias))
        with self._transactions.change() as connection:
            found = tuple(row.target for row in connection.execute(wanted.order_by(rows.c.position)))
        if not found:
            what = "alias" if alias else "forward of mailbox"
            raise NoSuchAccount(f"there is no {what} {address}; see `postroom accounts {what.split()[0]} list`")
        return found

    def add(self, address: str, targets: Sequence[str], *, alias: bool) -> tuple[str, ...]:
        """All targets that the address has then."""
        with self._transactions.change() as connection:
            address = check_alias(address) if alias else self._mailboxes.get(address).address
            try:
                old = self.of(address, alias=alias)
            except NoSuchAccount:
                old = ()
                if alias:
                    self._domains.check_free(address)
            return self._put(connection, address, (*old, *targets), alias)

    def set(self, address: str, targets: Sequence[str], *, alias: bool) -> tuple[str, ...]:
        with self._transactions.change() as connection:
            address = check_alias(address) if alias else self._mailboxes.get(address).address
            self.of(address, alias=alias)
            return self._put(connection, address, targets, alias)

    def remove(self, address: str, targets: Sequence[str] = (), *, alias: bool) -> None:
        """These, or all of them."""
        with self._transactions.change() as connection:
            address = check_alias(address) if alias else check_address(address)
            old = self.of(address, alias=alias)
            gone = {check_address(target) for target in targets} or set(old)
            if missing := sorted(gone - set(old)):
                raise NoSuchAccount(f"{address} has no target {missing[0]}; it has {', '.join(old)}")
            kept = [target for target in old if target not in gone]
            self._put(connection, address, kept, alias)

    def _put(self, connection: Connection, address: str, targets: Sequence[str], alias: bool) -> tuple[str, ...]:
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
        changed(connection)
        return wanted
