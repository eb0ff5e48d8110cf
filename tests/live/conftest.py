"""One mail host for each way of running it; tests share it, and begin with nothing registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from live_host import LiveHost, live_host
from requirements import require, require_root


@pytest.fixture(scope="session")
def shared_host() -> Iterator[Callable[[str], LiveHost]]:
    """The host of an engine, started when it is first asked for: tests run in any order, and starting takes seconds."""
    require("master")
    require_root()
    hosts: dict[str, LiveHost] = {}
    with ExitStack() as stack:

        def host_of(engine: str) -> LiveHost:
            if engine not in hosts:
                settings: dict[str, dict[str, Any]] = {
                    "milter": {"engine": engine, "workers": 2},
                    "handlers": {"grey": {"wait": "1s", "auto_allow": 0}},
                }
                aliases = {"both@local.test": ["bob@local.test", "dora@elsewhere.example"]}
                hosts[engine] = stack.enter_context(live_host(settings, aliases=aliases))
            return hosts[engine]

        yield host_of


@pytest.fixture(params=["native", "libmilter"])
def host(request: pytest.FixtureRequest, shared_host: Callable[[str], LiveHost]) -> LiveHost:
    """Both engines in turn."""
    found = shared_host(request.param)
    found.clear()
    return found
