"""Real servers for every test that asks: started once a worker, on free loopback ports, in temporary directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from postroom.config import Config, Duration, Host, Paths, RedisSettings
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices
from postroom.testing.cicap import CIcapInstance
from postroom.testing.clamd import ClamdInstance
from postroom.testing.dovecot import DovecotInstance
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.postgresql import PostgresInstance
from postroom.testing.processes import ProgramMissing
from postroom.testing.redis import RedisInstance
from postroom.testing.rspamd import RspamdInstance
from postroom.testing.sink import SinkServer
from postroom.testing.spamd import SpamdInstance
from requirements import missing, require, require_root

StartPostfix = Callable[[PostfixSettings], PostfixInstance]


@pytest.fixture
def sink() -> Iterator[SinkServer]:
    """An SMTP server that keeps every mail."""
    with SinkServer() as server:
        yield server


@pytest.fixture
def lmtp_sink() -> Iterator[SinkServer]:
    """An LMTP server that keeps every mail."""
    with SinkServer(lmtp=True) as server:
        yield server


@pytest.fixture
def start_postfix() -> Iterator[StartPostfix]:
    """A function that starts a private Postfix; it ends with the test."""
    require("master")
    require_root()
    with ExitStack() as stack:
        yield lambda settings: stack.enter_context(PostfixInstance(settings))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisInstance]:
    """A Redis that all tests of this worker share: use keys of your own, or empty it first."""
    require("redis-server")
    with RedisInstance() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresInstance]:
    """A private cluster that all tests of this worker share: take a new database each."""
    try:
        instance = PostgresInstance().__enter__()
    except ProgramMissing as reason:
        missing(str(reason))
    yield instance
    instance.__exit__()


@pytest.fixture(params=["sqlite", "redis"])
def redis_settings(request: pytest.FixtureRequest) -> RedisSettings:
    """Each test that asks runs over both stores of handlers."""
    if request.param == "sqlite":
        return RedisSettings()
    server: RedisInstance = request.getfixturevalue("redis_server")
    server.command("FLUSHALL")
    return RedisSettings(url=server.url, timeout=Duration(30))


@pytest.fixture
def services(redis_settings: RedisSettings, tmp_path: Path) -> Iterator[FakeServices]:
    """What a handler is lent, over both stores."""
    state = RedisOrFiles(redis_settings, tmp_path / "state")
    config = Config(redis=redis_settings, host=Host(name="mx.example.org"), paths=Paths(state=tmp_path / "state"))
    yield FakeServices(tmp_path / "state", state=state, config=config)
    state.close()


@pytest.fixture(scope="session")
def clamd() -> Iterator[ClamdInstance]:
    require("clamd")
    require_root()
    with ClamdInstance() as server:
        yield server


@pytest.fixture(scope="session")
def cicap(clamd: ClamdInstance) -> Iterator[CIcapInstance]:
    require("c-icap")
    with CIcapInstance(clamd) as server:
        yield server


@pytest.fixture(scope="session")
def spamd() -> Iterator[SpamdInstance]:
    require("spamd")
    require_root()
    with SpamdInstance() as server:
        yield server


@pytest.fixture(scope="session")
def rspamd() -> Iterator[RspamdInstance]:
    """Starts slowly: give its tests one xdist group."""
    require("rspamd")
    require_root()
    with RspamdInstance() as server:
        yield server


@pytest.fixture(scope="session")
def dovecot() -> Iterator[DovecotInstance]:
    require("dovecot")
    require_root()
    with DovecotInstance() as server:
        yield server
