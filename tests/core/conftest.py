"""Registries in both databases; PostgreSQL is a private cluster, started once a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postroom.registry import Registry
from postroom.testing.postgresql import PostgresInstance


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is no registry yet; each test that asks runs over both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/registry.sqlite"
    server: PostgresInstance = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture
def registry(registry_url: str) -> Iterator[Registry]:
    with Registry.open(registry_url) as opened:
        yield opened
