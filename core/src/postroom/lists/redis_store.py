"""Policies in Redis, shared by all hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis.commands.core import Script
from redis.exceptions import RedisClusterException, RedisError

from postroom.hookspecs import StateStore, StateUnavailable
from postroom.lists.scopes import Scope, parse_scope
from postroom.lists.store import NO_POLICY, StoredPolicy

if TYPE_CHECKING:
    import redis

PAGE = 500
"""Keys that a command asks for at once: Redis serves mail in between."""

_REPLACE_POLICY = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('HSET', KEYS[1], 'version', ARGV[2], 'document', ARGV[3]) end
return 1
"""


class RedisPolicies:
    """Implements store.PolicyStore."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._prefix = f"{state.prefix}{{grey}}:policy:"  # greylisting's script may only touch keys of its own tag
        with redis_of(state) as client:
            self._replace = Script(client, _REPLACE_POLICY)

    def key(self, scope: Scope) -> str:
        return f"{self._prefix}{scope.key}"

    def policy(self, scope: Scope) -> StoredPolicy:
        with redis_of(self._state) as client:
            found: Any = client.hmget(self.key(scope), ["version", "document"])
        return StoredPolicy(found[0].decode(), found[1].decode()) if found[0] is not None else NO_POLICY

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        with redis_of(self._state) as client:
            return bool(self._replace([self.key(scope)], [old_version, new.version, new.document], client))

    def scopes(self) -> Iterator[Scope]:
        with redis_of(self._state) as client:
            for key in distinct(client.scan_iter(match=f"{escaped(self._prefix)}*", count=PAGE)):
                yield parse_scope(key.decode().removeprefix(self._prefix))


@contextmanager
def redis_of(state: StateStore) -> Iterator[redis.Redis]:
    """The client, its failures as StateUnavailable."""
    client = state.redis
    if client is None:
        raise StateUnavailable("Redis is not configured any more: restart with the configuration as it is now")
    try:
        yield client
    except (RedisError, RedisClusterException, OSError) as error:
        # Server and library say what is wrong without a password; the URL is never in their texts.
        raise StateUnavailable(f"Redis: {type(error).__name__}: {error}; is it running and as configured?") from error


def escaped(prefix: str) -> str:
    """For MATCH, where brackets and the like mean something."""
    return "".join(f"\\{character}" if character in "\\*?[]" else character for character in prefix)


def distinct(keys: Iterator[bytes]) -> Iterator[bytes]:
    """SCAN may return a key several times, in most cases close together: remember one window."""
    seen: set[bytes] = set()
    for key in keys:
        if key not in seen:
            if len(seen) >= 100 * PAGE:
                seen.clear()
            seen.add(key)
            yield key
