"""Aliases and forwards: addresses that lead to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from postroom_accounts import schema
from postroom_accounts.records import MAX_TARGETS, InvalidAccount, NoSuchAccount, check_address, check_alias
from postroom_accounts.store.domains import Domains
from postroom_accounts.store.mailboxes import Mailboxes
from postroom_accounts.store.transactions import Transactions, changed, replace_rows


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

    def of_mailbox(self, address: str) -> tuple[str, ...]:
        """None where it does not forward."""
        return self._of(check_address(address), alias=False)

    def of(self, address: str, *, alias: bool) -> tuple[str, ...]:
        address = check_alias(address) if alias else check_address(address)
        found = self._of(address, alias=alias)
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

    def put(self, targets: Mapping[str, Sequence[str]], *, alias: bool) -> None:
        """Those of many addresses, in place of what they lead to; none: the address leads nowhere."""
        wanted = {
            (check_alias if alias else check_address)(address): _checked(address, each)
            for address, each in targets.items()
        }
        with self._transactions.change() as connection:
            if alias:
                rows = schema.target
                known = set(connection.execute(select(rows.c.address).where(rows.c.alias == 1)).scalars())
                self._domains.check_free(*(address for address in wanted if address not in known))
            else:
                self._mailboxes.check_there(wanted)
            lines = [row for address, each in wanted.items() for row in _rows(address, each, alias)]
            replace_rows(connection, schema.target, list(wanted), lines)
            changed(connection)

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

    def _of(self, address: str, *, alias: bool) -> tuple[str, ...]:
        rows = schema.target
        wanted = select(rows.c.target).where(rows.c.address == address, rows.c.alias == int(alias))
        with self._transactions.change() as connection:
            return tuple(row.target for row in connection.execute(wanted.order_by(rows.c.position)))

    def _put(self, connection: Connection, address: str, targets: Sequence[str], alias: bool) -> tuple[str, ...]:
        wanted = _checked(address, targets)
        replace_rows(connection, schema.target, [address], _rows(address, wanted, alias))
        changed(connection)
        return wanted


def _checked(address: str, targets: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(check_address(target, "target") for target in targets))
    if len(wanted) > MAX_TARGETS:
        raise InvalidAccount(f"{address} would have {len(wanted)} targets: at most {MAX_TARGETS}; use a list manager")
    if address in wanted:
        raise InvalidAccount(f"{address} would lead to itself: leave it out; --keep-copy keeps mail that is forwarded")
    return wanted


def _rows(address: str, targets: Sequence[str], alias: bool) -> list[dict[str, Any]]:
    domain = address.rpartition("@")[2]
    return [
        {"address": address, "target": target, "domain": domain, "alias": int(alias), "position": position}
        for position, target in enumerate(targets)
    ]
