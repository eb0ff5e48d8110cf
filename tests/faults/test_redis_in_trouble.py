"""Redis in trouble under a running server: each mail has its answer, the log says why, and it is over when Redis is.

Greylisting with no wait takes each mail at once; a refusal is a failure's consequence, and not greylisting's own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from postroom.breaker import FAILURES_TO_OPEN
from postroom.config import SocketAddress
from postroom.fronts.milter.client import FilterAnswer, Mail, MilterClient
from postroom.fronts.milter.wire import Response
from postroom.logline import LogLine
from postroom.testing.ports import LOOPBACK
from postroom.testing.processes import wait_until
from postroom.testing.redis import RedisInstance
from postroom.testing.server import PostroomServer
from requirements import require

pytestmark = pytest.mark.xdist_group("faults-redis")

PATIENCE = 120.0  # seconds for an answer or a recovery: a breaker's pause, on a busy machine
DEFERRED = "451 4.7.1 Service unavailable - try again later"
FEW = 3  # mails: a breaker that opens would hide what comes next


@dataclass(frozen=True)
class House:
    """A server that greylists on a Redis of its own, with one milter worker."""

    server: PostroomServer
    redis: RedisInstance

    def send(self) -> FilterAnswer:
        with MilterClient.open(SocketAddress("inet", LOOPBACK, self.server.milter_port), PATIENCE) as client:
            client.negotiate()
            client.connect()
            client.helo()
            return client.deliver(Mail())

    def takes(self) -> bool:
        return self.send().response in (Response.ACCEPT, Response.CONTINUE)

    def failures(self) -> list[LogLine]:
        return [line for line in self.server.log_lines() if line.event.endswith("during call 'grey' handler")][-FEW:]

    def doctor(self) -> list[dict[str, str]]:
        """What the doctor finds wrong with greylisting."""
        found: list[dict[str, str]] = json.loads(self.server.cli("doctor", "--json").stdout)
        return [one for one in found if one["what"] == "greylisting" and one["level"] == "error"]


@contextmanager
def running_house() -> Iterator[House]:
    require("redis-server")
    arguments = ("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
    with RedisInstance(arguments=arguments) as redis:
        settings: dict[str, dict[str, object]] = {
            "redis": {"url": redis.url, "timeout": "1s"},
            "handlers": {"grey": {"wait": "0s", "auto_allow": 0}},
        }
        with PostroomServer(settings) as server:
            server.succeed("handlers", "add", "grey", "--stage", "before-data", "--type", "global", "--enabled")
            house = House(server, redis)
            wait_until(house.takes, "a mail that is taken", PATIENCE)
            yield house


@pytest.fixture(scope="module")
def shared_house() -> Iterator[House]:
    with running_house() as house:
        yield house


@pytest.fixture
def house(shared_house: House) -> House:
    """Tests share it, and leave its Redis well."""
    wait_until(shared_house.takes, "a mail that is taken", PATIENCE)
    return shared_house


Trouble = Callable[[RedisInstance], AbstractContextManager[None]]


@contextmanager
def gone(redis: RedisInstance) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.start_again()


@contextmanager
def hung(redis: RedisInstance) -> Iterator[None]:
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis.pid, signal.SIGCONT)


@contextmanager
def too_slow(redis: RedisInstance) -> Iterator[None]:
    redis.command("CLIENT", "PAUSE", "600000", "WRITE")
    try:
        yield
    finally:
        redis.command("CLIENT", "UNPAUSE")


@contextmanager
def full(redis: RedisInstance) -> Iterator[None]:
    redis.command("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        redis.command("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def replica(redis: RedisInstance) -> Iterator[None]:
    redis.command("REPLICAOF", LOOPBACK, "1")
    try:
        yield
    finally:
        redis.command("REPLICAOF", "NO", "ONE")


@contextmanager
def other_password(redis: RedisInstance) -> Iterator[None]:
    redis.command("CONFIG", "SET", "requirepass", "another")
    redis.password = "another"
    redis.command("CLIENT", "KILL", "TYPE", "normal")
    try:
        yield
    finally:
        redis.command("CONFIG", "SET", "requirepass", "")
        redis.password = ""


@contextmanager
def forbidden(redis: RedisInstance) -> Iterator[None]:
    redis.command("ACL", "SETUSER", "default", "-hset")
    try:
        yield
    finally:
        redis.command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def busy(redis: RedisInstance) -> Iterator[None]:
    redis.command("CONFIG", "SET", "busy-reply-threshold", "1")
    with socket.create_connection((LOOPBACK, redis.port)) as somebody:
        somebody.sendall(b'EVAL "while true do end" 0\r\n')
        wait_until(lambda: redis.command("PING").startswith("-BUSY"), "a script that does not end")
        try:
            yield
        finally:
            redis.command("SCRIPT", "KILL")


@contextmanager
def loading(redis: RedisInstance) -> Iterator[None]:
    redis.command("CONFIG", "SET", "rdbcompression", "no")
    for number in range(200):
        redis.command("SET", f"weight-{number}", "x" * 2000)
    redis.command("CONFIG", "SET", "key-load-delay", "500000")  # microseconds
    with socket.create_connection((LOOPBACK, redis.port)) as somebody:
        somebody.sendall(b"DEBUG RELOAD\r\n")
        wait_until(lambda: redis.command("PING").startswith("-LOADING"), "a Redis that loads")
        try:
            yield
        finally:
            redis.command("CONFIG", "SET", "key-load-delay", "0")
            wait_until(lambda: redis.command("PING").startswith("+PONG"), "a Redis that has loaded")
            redis.command("FLUSHALL")


TROUBLES = [
    (gone, "ConnectionError", "is it running and as configured?"),
    (hung, "TimeoutError", "is it running, or too slow for [redis] timeout?"),
    (too_slow, "TimeoutError", "is it running, or too slow for [redis] timeout?"),
    (full, "OutOfMemoryError", "give it more memory: maxmemory in redis.conf"),
    (replica, "ReadOnlyError", "this is a replica: name the master in [redis] url, or its sentinels"),
    (other_password, "uthenticat", "see user and password in [redis] url"),
    (forbidden, "can't run this command", "allow this user the commands of the script (ACL SETUSER)"),
    (busy, "BUSY", "somebody's script runs too long: redis-cli script kill"),
    (loading, "BusyLoadingError", "it reads its data and answers when it is done"),
]


@pytest.mark.parametrize(("trouble", "named", "remedy"), TROUBLES, ids=lambda value: getattr(value, "__name__", ""))
def test_in_trouble_mail_is_deferred_by_name_and_goes_on_when_it_is_over(
    house: House, trouble: Trouble, named: str, remedy: str
) -> None:
    with trouble(house.redis):
        answers = [house.send().reply for _ in range(FEW)]
        lines = house.failures()
        (found,) = house.doctor()
    assert answers == [DEFERRED] * FEW
    for line in lines:
        assert line.facts["error"] == "unavailable", line.facts
        assert named in line.facts["reason"]
        assert line.facts["consequence"] == "defer"
    assert named in found["found"]
    assert found["remedy"] == remedy
    wait_until(house.takes, "a mail that is taken", PATIENCE)


def test_mails_in_flight_when_redis_hangs_all_have_an_answer(house: House) -> None:
    mails = 4  # fewer than open the breaker
    with hung(house.redis), ThreadPoolExecutor(mails) as senders:
        answers = [answer.reply for answer in senders.map(lambda _: house.send(), range(mails))]
    assert answers == [DEFERRED] * mails
    wait_until(house.takes, "a mail that is taken", PATIENCE)


def test_scripts_that_are_forgotten_in_mid_flight_delay_nobody(house: House) -> None:
    over = threading.Event()

    def forget() -> None:
        while not over.is_set():
            house.redis.command("SCRIPT", "FLUSH", "SYNC")

    with ThreadPoolExecutor(5) as threads:
        forgetting = threads.submit(forget)
        try:
            taken = list(threads.map(lambda _: house.takes(), range(200)))
        finally:
            over.set()
        forgetting.result()
    assert all(taken)


def test_where_a_failure_is_to_pass_the_mail_goes_on(house: House) -> None:
    house.server.succeed("handlers", "set", "grey", "--on-error", "skip")
    try:
        with full(house.redis):
            assert house.takes()
            (line,) = house.failures()[-1:]
    finally:
        house.server.succeed("handlers", "set", "grey", "--on-error", "declared")
    assert line.facts["consequence"] == "skip"
    assert "OutOfMemoryError" in line.facts["reason"]
    wait_until(house.takes, "a mail that is taken", PATIENCE)


def test_a_long_outage_is_said_a_few_times_and_is_over_by_itself() -> None:
    mails = 8 * FAILURES_TO_OPEN
    with running_house() as house:
        with gone(house.redis):
            assert {house.send().reply for _ in range(mails)} == {DEFERRED}
            reasons = [line.facts.get("reason", "") for line in house.server.log_lines()]
            assert FAILURES_TO_OPEN <= sum("ConnectionError" in reason for reason in reasons) <= mails // 2
        wait_until(house.takes, "a mail that is taken", PATIENCE)
        events = [line.event for line in house.server.log_lines()]
    assert events.count("handler keeps failing and is left alone for a while") == 1
    assert events.count("handler works again") == 1
