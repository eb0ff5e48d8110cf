"""Greylisting over both stores: every test that asks for `services` runs once with SQLite and once with Redis."""

from __future__ import annotations

import pytest
from plugins.grey.greylisting import Console, Desk
from postroom.testing import FakeServices


@pytest.fixture
def desk(services: FakeServices) -> Desk:
    return Desk(services)


@pytest.fixture
def console(services: FakeServices) -> Console:
    return Console(services)
