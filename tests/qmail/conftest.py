"""A qmail host of stand-ins, with our wrappers before them, and the server running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postroom.testing.processes import temporary_directory
from qmail.house import House, make_house, serving


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that other users can search, too."""
    with temporary_directory("qmail") as path:
        yield path


@pytest.fixture
def house(directory: Path) -> Iterator[House]:
    found = make_house(directory / "qmail")
    with serving(found):
        yield found


@pytest.fixture
def closed_house(directory: Path) -> House:
    """The server is not there."""
    return make_house(directory / "qmail")
