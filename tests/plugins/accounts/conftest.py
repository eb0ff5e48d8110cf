"""The directory over both databases; PostgreSQL is a private cluster, started once a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postroom.config import Config, DeliverySettings, DirectorySettings, Duration, Paths
from postroom.testing.postgresql import PostgresInstance
from postroom_accounts.directory import AccountsDirectory, open_directory
from postroom_accounts.store.accounts import Accounts


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    url = ""
    if request.param == "postgresql":
        server: PostgresInstance = request.getfixturevalue("postgres_server")
        url = server.new_database()
    return Config(
        paths=Paths(state=tmp_path / "state", run=tmp_path / "run"),
        directory=DirectorySettings(provider="accounts", url=url, timeout=Duration(5)),
        delivery=DeliverySettings(root=tmp_path / "mail"),
    )


@pytest.fixture
def accounts(config: Config) -> Iterator[Accounts]:
    with Accounts.open(config) as opened:
        yield opened


@pytest.fixture
def directory(config: Config, accounts: Accounts) -> Iterator[AccountsDirectory]:
    opened = open_directory(config)
    opened._fresh = 0.0  # ask the server each time: the tests change what was just read
    yield opened
    opened.close()
