"""The autoresponder over both stores: tests that ask for `services` run once with SQLite and once with Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.autoresponder.responding import Console, Desk
from postroom.config import Config, Duration, RedisSettings
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices
from postroom.testing.redis import RedisInstance


@pytest.fixture(params=["sqlite", "redis"])
def redis_settings(request: pytest.FixtureRequest) -> RedisSettings:
    if request.param == "sqlite":
        return RedisSettings()
    server: RedisInstance = request.getfixturevalue("redis_server")
    server.command("FLUSHALL")
    return RedisSettings(url=server.url, timeout=Duration(2))


@pytest.fixture
def services(redis_settings: RedisSettings, tmp_path: Path) -> Iterator[FakeServices]:
    state = RedisOrFiles(redis_settings, tmp_path / "state")
    yield FakeServices(tmp_path / "state", state=state, config=Config(redis=redis_settings))
    state.close()


@pytest.fixture
def desk(services: FakeServices) -> Desk:
    return Desk(services)


@pytest.fixture
def console(services: FakeServices) -> Console:
    return Console(services)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[FakeServices]:
    """With SQLite, where the store does not matter."""
    state = RedisOrFiles(RedisSettings(), tmp_path / "here")
    yield FakeServices(tmp_path / "here", state=state)
    state.close()
