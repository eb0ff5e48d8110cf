"""Opens the directory for changes and lists, as commands do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

from postroom.config import Config
from postroom.hookspecs import DirectoryUnavailable
from postroom.stores.writing import writing_engine
from sqlalchemy import Connection

from postroom_accounts import schema
from postroom_accounts.database import SqliteReader, open_reader
from postroom_accounts.store.domains import Domains
from postroom_accounts.store.lists import Lists
from postroom_accounts.store.logins import Logins
from postroom_accounts.store.mailboxes import Mailboxes
from postroom_accounts.store.routes import Routes
from postroom_accounts.store.targets import Targets
from postroom_accounts.store.transactions import Transactions, make_file


class Accounts:
    """Everything in the directory. Every method of its parts is one transaction; `change` makes several calls one."""

    def __init__(self, transactions: Transactions, clock: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self.domains = Domains(transactions)
        self.mailboxes = Mailboxes(transactions, self.domains)
        self.targets = Targets(transactions, self.domains, self.mailboxes)
        self.lists = Lists(transactions, self.domains)
        self.routes = Routes(transactions)
        self.logins = Logins(transactions, self.mailboxes, clock)

    @classmethod
    def open(cls, config: Config, *, create: bool = True, clock: Callable[[], float] = time.time) -> Accounts:
        """Its schema led here when it is older. `create`: make it where there is none, else DirectoryUnavailable."""
        transactions = _transactions(config, create)
        with transactions.change() as connection:
            schema.migrate(connection, transactions.place)
        return cls(transactions, clock)

    def change(self) -> AbstractContextManager[Connection]:
        """One transaction, alone over all processes and hosts, for every call inside the block."""
        return self._transactions.change()

    def close(self) -> None:
        self._transactions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _transactions(config: Config, create: bool) -> Transactions:
    reader = open_reader(config)
    if not isinstance(reader, SqliteReader):
        return Transactions(reader.engine, reader.place, None)
    path = reader.path
    if not path.exists():
        if not create:
            raise DirectoryUnavailable(f"{path}: there are no accounts yet; `postroom accounts domain add` makes them")
        make_file(path)
    return Transactions(writing_engine(path, float(config.directory.timeout)), reader.place, path)
