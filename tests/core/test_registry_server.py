"""What only a database server can do to the registry: restart, be away, be asked by many threads and a forked child."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from postroom.registration import Registration, Stage, Type
from postroom.registry import Registry, RegistryError, RegistryUnavailable
from postroom.testing.postgresql import PostgresInstance

GREY = Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, priority=5, enabled=True)
FOR_ALL = [(Type.GLOBAL, "")]


@pytest.fixture
def registry(postgres_server: PostgresInstance) -> Iterator[Registry]:
    with Registry.open(postgres_server.new_database()) as opened:
        opened.add(GREY, who="alice")
        yield opened


def test_a_restart_of_the_server_costs_nobody_an_error(registry: Registry, postgres_server: PostgresInstance) -> None:
    assert registry.matching(FOR_ALL, list(Stage)).registrations == (GREY,)
    postgres_server.stop()
    try:
        with pytest.raises(RegistryUnavailable, match="is the server up") as caught:
            registry.matching(FOR_ALL, list(Stage))
        assert caught.value.exit_status == 75
        assert "\n" not in str(caught.value)
    finally:
        postgres_server.start()
    assert registry.matching(FOR_ALL, list(Stage)).registrations == (GREY,)
    assert registry.enabled() == {("grey", Stage.BEFORE_DATA, "")}


def test_dead_connections_in_the_pool_are_replaced(registry: Registry, postgres_server: PostgresInstance) -> None:
    registry.generation()
    with postgres_server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'postroom'")
    assert registry.matching(FOR_ALL, list(Stage)).registrations == (GREY,)


def test_more_threads_than_connections(registry: Registry) -> None:
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: registry.matching(FOR_ALL, list(Stage)).registrations, range(500)))
    assert found == [(GREY,)] * 500


def test_a_forked_child_opens_connections_of_its_own(registry: Registry) -> None:
    backend = "SELECT pg_backend_pid()"
    ours = registry._database.query(backend, {})
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        os.write(writing, b"ours" if registry._database.query(backend, {}) == ours else b"own")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"own"
    assert registry._database.query(backend, {}) == ours
    os.close(reading)
    os.close(writing)
    assert registry.matching(FOR_ALL, list(Stage)).registrations == (GREY,)


def test_a_password_is_in_no_error(postgres_server: PostgresInstance) -> None:
    url = f"postgresql://postgres:geheim@/no_such_database?host={postgres_server.base}"
    with pytest.raises(RegistryError, match="no_such_database") as caught:
        Registry.open(url)
    assert "geheim" not in str(caught.value)


def test_none_is_made_where_none_may_be_made(postgres_server: PostgresInstance) -> None:
    with pytest.raises(RegistryError, match="there is no registry"):
        Registry.open(postgres_server.new_database(), create=False)
