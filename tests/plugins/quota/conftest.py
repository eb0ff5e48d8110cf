"""Quota over both stores: every test that asks for `services` runs once with SQLite and once with Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postroom.config import Config, Duration, Host, Paths, RedisSettings
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
    config = Config(redis=redis_settings, host=Host(name="mx.example.org"), paths=Paths(state=tmp_path / "state"))
    yield FakeServices(tmp_path / "state", state=state, config=config)
    state.close()
