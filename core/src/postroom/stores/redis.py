"""Redis as stores use it: scripts, pages of keys, versioned documents, and its failures in one line.

Import it only where `state.redis` is not None: redis-py costs 200 ms that a host without Redis saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from redis.commands.core import Script
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeout

from postroom.hookspecs import StateStore, StateUnavailable

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

PAGE = 500
"""Keys that a command asks for at once: Redis serves mail in between."""

_REPLACE = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('HSET', KEYS[1], 'version', ARGV[2], 'document', ARGV[3]) end
return 1
"""

_PROBE = """
redis.call('HSET', KEYS[1], 'probe', '1')
redis.call('PEXPIRE', KEYS[1], 1000)
return redis.call('HMGET', KEYS[1], 'probe')
"""  # a full Redis, a replica, and one that forbids this user a command take a script all the same


@contextmanager
def redis_of(state: StateStore) -> Iterator[redis.Redis]:
    """The client. Its failures leave as StateUnavailable."""
    client = state.redis
    if client is None:
        raise StateUnavailable("Redis is not configured any more: restart with the configuration as it is now")
    try:
        yield client
    except (RedisError, RedisClusterException, OSError) as error:
        # Server and library say what is wrong without a password; the URL is never in their texts.
        raise StateUnavailable(f"Redis: {type(error).__name__}: {error}; {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    """What an administrator can do about it."""
    match error:
        case OutOfMemoryError():
            return "give it more memory: maxmemory in redis.conf"
        case ReadOnlyError():
            return "this is a replica: name the master in [redis] url, or its sentinels"
        case MasterDownError():
            return "this is a replica without its master: name the master in [redis] url, or its sentinels"
        case AuthenticationError():
            return "see user and password in [redis] url"
        case ResponseError() if "unauthenticated" in str(error):  # said of a long command before a login
            return "see user and password in [redis] url"
        case NoPermissionError():
            return "allow this user the command and the keys postroom:* (ACL SETUSER)"
        case ResponseError() if "executing the script" in str(error):  # a command within it
            return "allow this user the commands of the script (ACL SETUSER)"
        case ResponseError() if str(error).startswith("BUSY"):
            return "somebody's script runs too long: redis-cli script kill"
        case BusyLoadingError():
            return "it reads its data and answers when it is done"
        case RedisTimeout():
            return "is it running, or too slow for [redis] timeout?"
        case _:
            return "is it running and as configured?"


class RedisScript:
    """A Lua script: one round trip, and atomic. A Redis that has forgotten it is told it again.

    In a cluster all keys of a call have to carry the same `{hash tag}`.
    """

    def __init__(self, state: StateStore, text: str) -> None:
        self._state, self._text = state, text
        with redis_of(state) as client:
            self._digest = Script(client, text).sha

    def __call__(self, keys: Sequence[str | bytes], arguments: Sequence[str | int | bytes] = ()) -> Any:
        with redis_of(self._state) as client:
            try:
                return client.evalsha(self._digest, len(keys), *keys, *arguments)
            except NoScriptError:  # loaded and called in two steps, it could be forgotten in between
                return client.eval(self._text, len(keys), *keys, *arguments)

    def load(self, probe: str = "") -> None:
        """Whether this Redis takes the script, and then writes, for a diagnosis. `probe`: the key that is written."""
        with redis_of(self._state) as client:
            client.script_load(self._text)
            client.eval(_PROBE, 1, probe or f"{self._state.prefix}probe")


class RedisDocuments:
    """Documents with a version each; `replace` does nothing where the version is another one by now."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._replace = RedisScript(state, _REPLACE)

    def get(self, key: str) -> tuple[str, str] | None:
        """Version and document; None: there is none."""
        with redis_of(self._state) as client:
            found: Any = client.hmget(key, ["version", "document"])
        return (found[0].decode(), found[1].decode()) if found[0] is not None else None

    def replace(self, key: str, old_version: str, version: str, document: str) -> bool:
        """`old_version` "": there shall be none so far; `version` "": there shall be none any more."""
        return bool(self._replace([key], [old_version, version, document]))


def keys_of(state: StateStore, prefix: str) -> Iterator[list[bytes]]:
    """Every key with that prefix, a page at a time; what comes and goes meanwhile may be there or not."""
    with redis_of(state) as client:
        yield from pages(distinct(client.scan_iter(match=f"{escaped(prefix)}*", count=PAGE), bytes))


def pages(keys: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(keys)
    while page := list(islice(iterator, PAGE)):
        yield page


def escaped(prefix: str) -> str:
    """For MATCH, where brackets and the like mean something."""
    return "".join(f"\\{character}" if character in "\\*?[]" else character for character in prefix)


def distinct(found: Iterable[T], key: Callable[[T], bytes]) -> Iterator[T]:
    """SCAN may return a key several times, in most cases close together: remember one window."""
    seen: set[bytes] = set()
    for each in found:
        if (name := key(each)) not in seen:
            if len(seen) >= 100 * PAGE:
                seen.clear()
            seen.add(name)
            yield each
