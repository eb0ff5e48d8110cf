"""What only Redis has: round trips, its own failures, and the ways to reach it."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plugins.grey.greylisting import Console, Desk, receive_in_a_process
from postroom.config import Config, Duration, RedisSettings
from postroom.hookspecs import FindingLevel, StateUnavailable
from postroom.services.state import RedisOrFiles
from postroom.testing import FakeServices, envelope
from postroom.testing.ports import free_port, free_ports
from postroom.testing.processes import wait_until
from postroom.testing.redis import RedisInstance, SentinelInstance
from postroom.verdict import Action
from postroom_grey.handler import GreyHandler
from postroom_grey.settings import GreySettings
from requirements import require

PASSWORD = "s3cr3t-p4ss"
MINUTE = 60


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lend(stack: ExitStack, directory: Path, **settings: Any) -> FakeServices:
    redis = RedisSettings(**{"timeout": Duration(2), **settings})
    state = RedisOrFiles(redis, directory)
    stack.callback(state.close)
    return FakeServices(directory, state=state, config=Config(redis=redis))


def wait_and_pass(services: FakeServices) -> None:
    desk = Desk(services)
    mail = envelope("alice@s.example", "bob@r.example", "carol@q.example")
    assert desk.receive(mail).action is Action.DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(mail).action is Action.SKIP
    Console(services)("set", "enabled=no", "--domain", "r.example")
    assert desk.receive(envelope("new@s.example", "bob@r.example")).action is Action.SKIP
    console = Console(services)
    console("list", "--state", "passed")
    assert len(console.shown) == 2
    assert not [one for one in GreyHandler().diagnose(GreySettings(), services) if one.level is FindingLevel.ERROR]


def calls(server: RedisInstance) -> Counter[str]:
    """Commands that Redis has served for clients, less those of a script and of getting to know a client."""
    found: Counter[str] = Counter()
    for line in server.command("INFO", "commandstats").splitlines():
        if line.startswith("cmdstat_"):
            name, _, facts = line.removeprefix("cmdstat_").partition(":")
            found[name] = int(facts.partition("calls=")[2].partition(",")[0])
    return found


def test_an_attempt_is_one_round_trip(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    redis_server = stack.enter_context(RedisInstance())  # its own: what others left behind would be counted, too
    services = lend(stack, tmp_path, url=redis_server.url, timeout=Duration(20))
    desk = Desk(services)
    Console(services)("allow", "*@white.example", "--mailbox", "carol@q.example")
    mail = envelope("alice@s.example", "bob@r.example", "carol@q.example", "dave@q.example")
    desk.receive(mail)  # knows the lists and has loaded the script from here on
    before = calls(redis_server)
    first, second = reads(redis_server), reads(redis_server)
    for _ in range(50):
        desk.receive(mail)
    third = reads(redis_server)
    made = calls(redis_server) - before
    assert made["evalsha"] == 50
    assert set(made) <= {"hget", "hmget", "hset", "pexpire", "evalsha", "info"}  # what the script does, and this test
    asking = second - first
    assert 50 <= third - second - asking <= 52  # one packet each; the server may notice closed connections late


def reads(server: RedisInstance) -> int:
    """Packets that Redis has read from clients."""
    facts = dict(line.split(":", 1) for line in server.command("INFO", "stats").splitlines() if ":" in line)
    return int(facts["total_reads_processed"])


def test_a_forgotten_script_is_loaded_again(stack: ExitStack, tmp_path: Path, redis_server: RedisInstance) -> None:
    redis_server.command("FLUSHALL")
    desk = Desk(lend(stack, tmp_path, url=redis_server.url))
    assert desk.receive(envelope()).action is Action.DEFER
    redis_server.command("SCRIPT", "FLUSH")
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope()).action is Action.SKIP


def test_every_record_has_an_end(stack: ExitStack, tmp_path: Path, redis_server: RedisInstance) -> None:
    redis_server.command("FLUSHALL")
    services = lend(stack, tmp_path, url=redis_server.url)
    desk = Desk(services, GreySettings(auto_allow=1))
    desk.receive(envelope())
    desk.clock.advance(5 * MINUTE)
    desk.receive(envelope())
    client = services.state.redis
    assert client is not None
    keys = list(client.scan_iter())
    assert len(keys) == 2
    for key in keys:
        assert b"{grey}" in key
        assert 36 * 86400 < int(client.ttl(key)) <= 36 * 86400 + 60


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_exactly_one_of_many_processes_is_first(kind: str, tmp_path: Path, redis_server: RedisInstance) -> None:
    redis_server.command("FLUSHALL")
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(6), context.Queue()
    url = redis_server.url if kind == "redis" else ""
    processes = [
        context.Process(target=receive_in_a_process, args=(url, str(tmp_path), barrier, answers)) for _ in range(6)
    ]
    for process in processes:
        process.start()
    found = Counter(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    assert found == {"first": 1, "early": 5}


def test_a_redis_that_goes_away_fails_quickly_and_comes_back(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance(password=PASSWORD))
    desk = Desk(lend(stack, tmp_path, url=server.url, timeout=Duration(0.5)))
    assert desk.receive(envelope()).action is Action.DEFER
    server.kill()
    with pytest.raises(StateUnavailable) as failure:
        desk.receive(envelope())
    assert PASSWORD not in str(failure.value)
    assert "is it running" in str(failure.value)
    server.start_again()
    assert desk.receive(envelope()).action is Action.DEFER


def test_a_redis_that_hangs_is_given_up_in_time(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance())
    desk = Desk(lend(stack, tmp_path, url=server.url, timeout=Duration(0.2)))
    desk.receive(envelope())
    server.command("CLIENT", "PAUSE", "3000", "ALL")
    with pytest.raises(StateUnavailable):
        desk.receive(envelope())


def test_a_wrong_password_is_said_and_not_shown(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance(password="another"))
    services = lend(stack, tmp_path, url=f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0")
    with pytest.raises(StateUnavailable) as failure:
        Desk(services).receive(envelope())
    assert PASSWORD not in str(failure.value)
    (found,) = [one for one in GreyHandler().diagnose(GreySettings(), services) if one.level is FindingLevel.ERROR]
    assert PASSWORD not in found.text + found.remedy
    result = Console(services).run("status")
    assert result.exit_code != 0
    assert PASSWORD not in result.output + str(result.exception)


def test_with_a_password_and_a_database_number(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance(password=PASSWORD))
    wait_and_pass(lend(stack, tmp_path, url=server.url.removesuffix("/0") + "/3"))


def test_a_user_who_may_do_no_more_than_the_page_says(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    page = (Path(__file__).parents[3] / "docs/handlers/grey.md").read_text()
    (rights,) = re.findall(r"ACL SETUSER postroom on >PASSWORD (.*)$", page, re.MULTILINE)
    server = stack.enter_context(RedisInstance())
    said = server.command("ACL", "SETUSER", "postroom", "on", f">{PASSWORD}", *rights.split())
    assert said.startswith("+OK"), said
    wait_and_pass(lend(stack, tmp_path, url=f"redis://postroom:{PASSWORD}@127.0.0.1:{server.port}/0"))


def test_through_a_unix_socket(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    path = tmp_path / "redis.sock"
    stack.enter_context(RedisInstance(arguments=("--unixsocket", str(path))))
    wait_until(path.exists, "Redis listens on its socket")
    wait_and_pass(lend(stack, tmp_path, url=f"unix://{path}"))


def _is_whole(server: RedisInstance) -> bool:
    return "cluster_state:ok" in server.command("CLUSTER", "INFO")


def test_in_a_cluster(stack: ExitStack, tmp_path: Path) -> None:
    """Three nodes, of which most hold nothing of ours: what a script touches has to be on one."""
    require("redis-server", "redis-cli")
    ports = free_ports(3)
    servers = []
    for port in ports:
        arguments = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "5000")
        node = RedisInstance(arguments=arguments)
        node.port = port
        servers.append(stack.enter_context(node))
    nodes = [f"127.0.0.1:{port}" for port in ports]
    made = subprocess.run(
        ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"], capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stdout
    for server in servers:
        wait_until(partial(_is_whole, server), "the cluster is whole")
    wait_and_pass(lend(stack, tmp_path, url=f"redis://127.0.0.1:{ports[0]}", cluster=True))


def test_a_cluster_that_is_not_there_fails_by_name(stack: ExitStack, tmp_path: Path) -> None:
    services = lend(stack, tmp_path, url=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}", cluster=True)
    with pytest.raises(StateUnavailable, match=r"Redis Cluster at 127\.0\.0\.1") as failure:
        Desk(services).receive(envelope())
    assert PASSWORD not in str(failure.value)


def test_behind_a_sentinel(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance(password=PASSWORD))
    sentinel = stack.enter_context(SentinelInstance(server))
    wait_and_pass(
        lend(
            stack,
            tmp_path,
            sentinel=(f"127.0.0.1:{sentinel.port}",),
            service=sentinel.service,
            url=f"redis://:{PASSWORD}@master",
        )
    )


def _received(desk: Desk) -> Action | None:
    try:
        return desk.receive(envelope()).action
    except StateUnavailable:
        return None


def test_when_a_sentinel_makes_a_replica_the_master_all_is_still_known(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    master = stack.enter_context(RedisInstance())
    copying = ("--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
    replica = stack.enter_context(RedisInstance(arguments=copying))
    wait_until(lambda: "master_link_status:up" in replica.command("INFO", "replication"), "a replica")
    sentinel = stack.enter_context(SentinelInstance(master))
    sentinel_itself = RedisInstance()  # to ask it with
    sentinel_itself.port = sentinel.port
    wait_until(
        lambda: str(replica.port) in sentinel_itself.command("SENTINEL", "REPLICAS", sentinel.service),
        "a sentinel that knows the replica",
    )
    known = (f"127.0.0.1:{sentinel.port}",)
    desk = Desk(lend(stack, tmp_path, sentinel=known, service=sentinel.service))
    assert desk.receive(envelope()).action is Action.DEFER
    wait_until(lambda: replica.command("DBSIZE").startswith(":1"), "the replica's copy")
    master.kill()
    desk.clock.advance(5 * MINUTE)
    wait_until(lambda: _received(desk) is Action.SKIP, "the new master")
    assert "role:master" in replica.command("INFO", "replication")


def test_over_tls(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server", "openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject]
    subprocess.run(words, check=True, capture_output=True)
    tls = free_port()
    options = ["--tls-port", str(tls), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"]
    stack.enter_context(RedisInstance(arguments=tuple(options)))
    wait_and_pass(lend(stack, tmp_path, url=f"rediss://127.0.0.1:{tls}/0", tls_ca=certificate))
    untrusted = lend(stack, tmp_path, url=f"rediss://127.0.0.1:{tls}/0")
    with pytest.raises(StateUnavailable):
        Desk(untrusted).receive(envelope())


def test_the_doctor_warns_of_a_redis_that_forgets(stack: ExitStack, tmp_path: Path) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance(arguments=("--maxmemory-policy", "allkeys-lru")))
    services = lend(stack, tmp_path, url=server.url)
    warnings = [
        one.text for one in GreyHandler().diagnose(GreySettings(), services) if one.level is FindingLevel.WARNING
    ]
    assert any("allkeys-lru" in text for text in warnings)
    assert any("appendonly no" in text for text in warnings)


@pytest.mark.parametrize("apart", [-3600, 0, 3600])
def test_the_doctor_warns_of_clocks_that_differ(stack: ExitStack, tmp_path: Path, apart: int) -> None:
    require("redis-server")
    server = stack.enter_context(RedisInstance())
    services = lend(stack, tmp_path, url=server.url)
    services.clock.advance(time.time() + apart - services.clock.now())
    found = [one.text for one in GreyHandler().diagnose(GreySettings(), services) if "clocks" in one.text]
    assert bool(found) == bool(apart)
    assert all(re.search(r"\b3[56]\d\d s apart", text) for text in found)
