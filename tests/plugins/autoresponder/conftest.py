"""The autoresponder over both stores: tests that ask for `services` run once with SQLite and once with Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.autoresponder.responding import Console, Desk
from postroom.config import RedisSettings
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices


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
