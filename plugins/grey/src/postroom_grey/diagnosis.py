"""For `postroom doctor`: is the store there, quick, and does it keep what it is given?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from postroom.hookspecs import Diagnosis, FindingLevel, Services, StateUnavailable
from postroom.lists.scopes import SERVER

from postroom_grey.backends import open_store
from postroom_grey.settings import GreySettings
from postroom_grey.store import Store

SLOW = 0.05
"""Seconds; a mail waits for one answer of the store."""
PROBES = 5
CLOCKS = 5.0
"""Seconds that this host's clock may differ from that of Redis, and so from other hosts'."""


def diagnose(settings: GreySettings, services: Services) -> Iterator[Diagnosis]:
    """One line a question, the worst first to be asked."""
    subject = "greylisting"
    try:
        store = open_store(services.state)
        yield _latency(store)
        store.ping()
        if services.state.redis is not None:
            yield Diagnosis(FindingLevel.OK, subject, "Redis takes the script")
            yield from _redis(services)
            yield from _clocks(services)
        else:
            yield Diagnosis(FindingLevel.OK, subject, "SQLite file grey.sqlite can be written")
        yield _counts(store, services)
    except StateUnavailable as error:
        text, _, remedy = str(error).partition("; ")
        yield Diagnosis(FindingLevel.ERROR, subject, text, remedy or "see [redis] or [paths] state")
    if settings.wait >= settings.expire:
        yield Diagnosis(
            FindingLevel.WARNING,
            subject,
            f"wait ({settings.wait}) is not shorter than expire ({settings.expire})",
            "set expire to some days in [handlers.grey]",
        )


def _latency(store: Store) -> Diagnosis:
    seconds = []
    for _ in range(PROBES):
        begun = time.perf_counter()
        store.policy(SERVER)
        seconds.append(time.perf_counter() - begun)
    median = sorted(seconds)[PROBES // 2]
    text = f"{store.name} answers in {median * 1000:.1f} ms"
    if median > SLOW:
        return Diagnosis(FindingLevel.WARNING, "greylisting", text, "every mail waits for it: put it nearer")
    return Diagnosis(FindingLevel.OK, "greylisting", text)


def _redis(services: Services) -> Iterator[Diagnosis]:
    from redis.exceptions import RedisClusterException, RedisError

    client = services.state.redis
    assert client is not None
    try:
        memory, persistence = _info(client, "memory"), _info(client, "persistence")
    except (RedisError, RedisClusterException) as error:
        yield Diagnosis(
            FindingLevel.WARNING, "greylisting", f"Redis does not tell its settings: {error}", "allow this user INFO"
        )
        return
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        yield Diagnosis(
            FindingLevel.WARNING,
            "greylisting",
            f"Redis throws away settings and lists when its memory is full (maxmemory-policy {policy})",
            "set maxmemory-policy to noeviction or volatile-ttl in redis.conf",
        )
    if not persistence.get("aof_enabled"):
        yield Diagnosis(
            FindingLevel.WARNING,
            "greylisting",
            "Redis may lose what came last, settings and lists too, when it stops (appendonly no)",
            "set appendonly to yes in redis.conf",
        )


def _clocks(services: Services) -> Iterator[Diagnosis]:
    """All hosts have the same Redis, so that each one's difference from it tells of their differences."""
    from redis.exceptions import RedisClusterException, RedisError

    client = services.state.redis
    assert client is not None
    before = services.clock.now()
    try:
        answer: object = client.time()
    except (RedisError, RedisClusterException):  # not worth a line: this user may not ask
        return
    after = services.clock.now()
    if isinstance(answer, dict):  # by node, in a cluster
        answer = next(iter(answer.values()))
    seconds = float(answer[0])  # type: ignore[index]  # redis-py types it as anything
    apart = max(before - seconds - 1, seconds - after)  # whole seconds, rounded down
    if apart > CLOCKS:
        yield Diagnosis(
            FindingLevel.WARNING,
            "greylisting",
            f"the clocks of this host and of Redis are {apart:.0f} s apart: hosts count different waits",
            "synchronise both, with chrony for example",
        )


def _info(client: object, section: str) -> dict[str, object]:
    """In a cluster every node answers; one is enough."""
    answer = client.info(section)  # type: ignore[attr-defined]  # Redis and RedisCluster have it
    first = next(iter(answer.values()), None)
    return first if isinstance(first, dict) else answer


def _counts(store: Store, services: Services) -> Diagnosis:
    counts = store.counts(round(services.clock.now() * 1000))
    records = sum(counts.records.values())
    return Diagnosis(FindingLevel.OK, "greylisting", f"{records} senders remembered, {counts.allowed} networks allowed")
