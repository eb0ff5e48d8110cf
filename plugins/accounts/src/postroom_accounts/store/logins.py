"""Who may log in: password hashes of mailboxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import delete, func, insert, select, update

from postroom_accounts import schema
from postroom_accounts.records import Hashes, Login, NoSuchAccount, check_address
from postroom_accounts.store.mailboxes import Mailboxes
from postroom_accounts.store.transactions import Transactions, replace_rows


class Logins:
    def __init__(self, transactions: Transactions, mailboxes: Mailboxes, clock: Callable[[], float]) -> None:
        self._transactions, self._mailboxes, self._clock = transactions, mailboxes, clock

    def now(self) -> float:
        """When a password that is set now was changed."""
        return self._clock()

    def put(self, address: str, crypt: str, scram: str, changed: float | None = None) -> Login:
        with self._transactions.change() as connection:
            address = self._mailboxes.get(address).address
            rows = schema.password
            at = self.now() if changed is None else changed
            connection.execute(delete(rows).where(rows.c.address == address))
            values = {"address": address, "enabled": 1, "crypt": crypt, "scram": scram, "changed": at}
            connection.execute(insert(rows), [values])
        return self.get(address)

    def put_all(self, stored: Mapping[str, tuple[Hashes, bool]]) -> None:
        """Of many mailboxes, each with whether it may log in."""
        rows = [
            {
                "address": check_address(address),
                "enabled": int(enabled),
                "crypt": hashes.crypt,
                "scram": hashes.scram,
                "changed": hashes.changed,
            }
            for address, (hashes, enabled) in stored.items()
        ]
        addresses = [str(row["address"]) for row in rows]
        with self._transactions.change() as connection:
            self._mailboxes.check_there(addresses)
            replace_rows(connection, schema.password, addresses, rows)

    def set(self, address: str, *, enabled: bool) -> Login:
        with self._transactions.change() as connection:
            address = self.get(address).address
            rows = schema.password
            connection.execute(update(rows).where(rows.c.address == address).values(enabled=int(enabled)))
        return self.get(address)

    def remove(self, address: str) -> None:
        with self._transactions.change() as connection:
            address = self.get(address).address
            connection.execute(delete(schema.password).where(schema.password.c.address == address))

    def get(self, address: str) -> Login:
        address = check_address(address)
        found = [login for login in self._logins(address) if login.address == address]
        if not found:
            raise NoSuchAccount(f"{address} has no password; set one with `postroom accounts password {address}`")
        return found[0]

    def all(self) -> list[Login]:
        return self._logins(None)

    def hashes(self) -> dict[str, Hashes]:
        """By address; for what a login server reads, and for nobody's eyes."""
        with self._transactions.change() as connection:
            rows = connection.execute(select(schema.password).order_by(schema.password.c.address)).all()
        return {row.address: Hashes(row.crypt, row.scram, row.changed) for row in rows}

    def switched_off(self) -> frozenset[str]:
        """Whose password itself is disabled, whatever mailbox and domain are."""
        rows = schema.password
        with self._transactions.change() as connection:
            return frozenset(connection.execute(select(rows.c.address).where(rows.c.enabled == 0)).scalars())

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
        with self._transactions.change() as connection:
            found = connection.execute(wanted.order_by(rows.c.address)).all()
        names = ("plain", "scram-sha-256")
        return [
            Login(
                row[0], bool(row[1]), tuple(name for name, there in zip(names, row[2:4], strict=True) if there), row[4]
            )
            for row in found
        ]
