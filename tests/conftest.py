"""Real servers for every test that asks: started once a worker, on free loopback ports, in temporary directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from postroom.testing.cicap import CIcapInstance
from postroom.testing.clamd import ClamdInstance
from postroom.testing.dovecot import DovecotInstance
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.redis import RedisInstance
from postroom.testing.rspamd import RspamdInstance
from postroom.testing.sink import SinkServer
from postroom.testing.spamd import SpamdInstance
from requirements import require, require_root

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
