"""A redis-py client fit for mail: bounded, quick to give up, and silent about its password.

redis-py's own defaults (ten retries with growing pauses, 5 s time limits, an unbounded pool) would hold up mail for
seconds when Redis is away. This module is imported only where Redis is configured.
"""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import urlsplit

from postroom.config import ConfigError, RedisSettings

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.connection import BlockingConnectionPool, parse_url
    from redis.exceptions import RedisClusterException, RedisError
    from redis.retry import Retry
    from redis.sentinel import Sentinel, SentinelConnectionPool
except ImportError:
    raise ConfigError("[redis] is configured, but redis-py is not installed: pip install 'postroom[redis]'") from None

from postroom.hookspecs import StateUnavailable

_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d{1,5})")


class BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Finds the master through the sentinels, and waits for a free connection instead of failing at once."""


def place(settings: RedisSettings) -> str:
    """How messages call this Redis: host and port, or path; never user or password."""
    if settings.sentinel:
        return f"Redis {settings.service!r} (sentinels {', '.join(settings.sentinel)})"
    parts = urlsplit(settings.url)
    if parts.scheme == "unix":
        return f"Redis at {parts.path}"
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or "localhost"
    kind = "Redis Cluster" if settings.cluster else "Redis"
    return f"{kind} at {host}:{parts.port or 6379}"


def check(settings: RedisSettings) -> None:
    """ConfigError when the settings cannot work; nothing is connected."""
    _url_options(settings)
    _sentinels(settings)


def connect(settings: RedisSettings) -> redis.Redis:
    """A client with a pool of its own. A single Redis and Sentinel are dialled at the first command, a Cluster now."""
    options = _url_options(settings)
    try:
        if settings.sentinel:
            return _behind_sentinels(settings, options)
        if settings.cluster:
            return cast(redis.Redis, _cluster(settings, options))
    except (RedisError, RedisClusterException) as error:
        raise StateUnavailable(f"{place(settings)}: {type(error).__name__}; is it running?") from None
    pool = BlockingConnectionPool(  # type: ignore[no-untyped-call]  # redis-py types it in part
        **{**_limits(settings), **options}, retry=_retry()
    )
    return redis.Redis(connection_pool=pool)


def _retry() -> Retry:
    """Once, at once, and only where the connection was lost: a command that timed out may have been done already."""
    return Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


def _limits(settings: RedisSettings) -> dict[str, Any]:
    return {
        "socket_timeout": float(settings.timeout),
        "socket_connect_timeout": float(settings.timeout),
        "max_connections": settings.connections,
        "timeout": float(settings.timeout),  # longest wait for a free connection of the pool
        "protocol": 2,  # RESP3's push messages are of no use here and cost a handshake
    }


def _url_options(settings: RedisSettings) -> dict[str, Any]:
    if not settings.url:
        return {}
    try:
        options: dict[str, Any] = parse_url(settings.url)  # type: ignore[no-untyped-call]  # redis-py types it in part
        if not (options.get("path") or options.get("host") or settings.sentinel):
            raise ValueError
    except ValueError:  # its text may hold a piece of the password
        raise ConfigError(
            "[redis]: url: no Redis URL: write redis://user:password@host:6379/0, rediss://… for TLS or "
            "unix:///path; in a password write @ : / as %40 %3A %2F"
        ) from None
    if settings.cluster and ("path" in options or options.get("db")):
        raise ConfigError("[redis]: url: a cluster has neither a unix socket nor a database number: give host:port")
    if settings.tls_ca is not None:
        if not settings.tls_ca.is_file():
            raise ConfigError(f"[redis]: tls_ca: {settings.tls_ca}: no such file; give the CA's certificate as PEM")
        if not settings.url.startswith("rediss://"):
            raise ConfigError("[redis]: tls_ca is given, but url does not begin with rediss://")
        options["ssl_ca_certs"] = str(settings.tls_ca)
    return options


def _sentinels(settings: RedisSettings) -> list[tuple[str, int]]:
    found = []
    for text in settings.sentinel:
        parts = _HOST_AND_PORT.fullmatch(text)
        if not parts or int(parts[3]) > 65535:
            raise ConfigError(f"[redis]: sentinel: {text!r} is no sentinel: write host:26379 or [2001:db8::1]:26379")
        found.append((parts[1] or parts[2], int(parts[3])))
    return found


def _behind_sentinels(settings: RedisSettings, options: dict[str, Any]) -> redis.Redis:
    """The URL, when there is one, gives user, password, database and TLS; its host does not count."""
    for_master = {key: value for key, value in options.items() if key not in ("host", "port", "path")}
    if for_master.pop("connection_class", None) is not None:
        for_master["ssl"] = True
    timeout = float(settings.timeout)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py types it in part
        _sentinels(settings),
        sentinel_kwargs={"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)},
    )
    pool = BlockingSentinelPool(  # type: ignore[no-untyped-call]  # redis-py types it in part
        settings.service, sentinel, **{**_limits(settings), **for_master}, retry=_retry()
    )
    return redis.Redis(connection_pool=pool)


def _cluster(settings: RedisSettings, options: dict[str, Any]) -> redis.RedisCluster:
    from redis.cluster import RedisCluster

    extra = {key: options[key] for key in ("ssl_ca_certs",) if key in options}
    return RedisCluster(
        url=settings.url,
        retry=_retry(),
        connection_pool_class=BlockingConnectionPool,
        **extra,
        **_limits(settings),
    )
