"""One mail host for each way of running it; tests share it, and begin with nothing registered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_host import LiveHost, live_host
from requirements import require, require_root


@pytest.fixture(scope="module", params=["native", "libmilter"])
def shared_host(request: pytest.FixtureRequest) -> Iterator[LiveHost]:
    require("master")
    require_root()
    settings = {
        "milter": {"engine": request.param, "workers": 2},
        "handlers": {"grey": {"wait": "1s", "auto_allow": 0}},
    }
    with live_host(settings, aliases={"both@local.test": ["bob@local.test", "dora@elsewhere.example"]}) as host:
        yield host


@pytest.fixture
def host(shared_host: LiveHost) -> LiveHost:
    """Both engines in turn."""
    shared_host.clear()
    return shared_host
