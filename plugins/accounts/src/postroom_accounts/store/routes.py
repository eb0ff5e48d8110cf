"""What only the mail server reads: the rows of its maps."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from postroom_accounts import schema
from postroom_accounts.records import NoSuchAccount, Route, check_route, check_route_name
from postroom_accounts.store.transactions import Transactions, has


class Routes:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def of(self, route: Route) -> dict[str, str]:
        return self.all()[route]

    def all(self) -> dict[Route, dict[str, str]]:
        rows = schema.route
        found: dict[Route, dict[str, str]] = {route: {} for route in Route}
        with self._transactions.change() as connection:
            for row in connection.execute(select(rows).order_by(rows.c.map, rows.c.name)):
                found[Route(row.map)][row.name] = row.value
        return found

    def put(self, route: Route, name: str, value: str) -> str:
        """Add it, or change what it says."""
        name, value = check_route(route, name, value)
        rows = schema.route
        with self._transactions.change() as connection:
            connection.execute(delete(rows).where(rows.c.map == route.value, rows.c.name == name))
            connection.execute(insert(rows), [{"map": route.value, "name": name, "value": value}])
        return name

    def remove(self, route: Route, name: str) -> str:
        name = check_route_name(route, name)
        rows = schema.route
        with self._transactions.change() as connection:
            if not has(connection, rows, map=route.value, name=name):
                raise NoSuchAccount(f"there is no {route} of {name}; see `postroom accounts {route} list`")
            connection.execute(delete(rows).where(rows.c.map == route.value, rows.c.name == name))
        return name
