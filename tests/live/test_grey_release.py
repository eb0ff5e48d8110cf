"""Greylisting on a running server: what an administrator says acts on the sender's next attempt, in every worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_host import LiveHost, live_host, stranger
from postroom.testing.redis import RedisInstance
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-grey-release")

PASSWORD = "not-for-logs"  # of a server that lives as long as a test


@pytest.fixture(params=["sqlite", "redis"])
def host(request: pytest.FixtureRequest) -> Iterator[LiveHost]:
    require("master", "redis-server")
    require_root()
    settings: dict[str, dict[str, object]] = {
        "milter": {"workers": 2},
        "handlers": {"grey": {"wait": "1h", "auto_allow": 0}},
    }
    if request.param == "sqlite":
        with live_host(settings) as found:
            found.add("grey", "before-data")
            yield found
        return
    with RedisInstance(password=PASSWORD) as redis, live_host(settings | {"redis": {"url": redis.url}}) as found:
        found.add("grey", "before-data")
        yield found


def test_a_released_sender_comes_through_at_once_and_nobody_else(host: LiveHost) -> None:
    sender, other = stranger(), stranger()
    assert host.send(sender).final.code == 451
    assert host.send(other).final.code == 451
    assert sender in host.server.succeed("grey", "list")
    host.server.succeed("grey", "release", sender)
    assert host.send(sender).ok
    assert host.send(other).final.code == 451
    said = (
        host.server.log_path.read_text() + host.server.cli("doctor").stdout + host.server.cli("config", "show").stdout
    )
    assert PASSWORD not in said
