"""The store of many hosts: Redis, one Lua script and so one round trip an attempt.

All keys carry the hash tag `{grey}`: in a cluster they live on one node, because a script may only touch what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any

from postroom.hookspecs import StateStore, StateUnavailable
from redis.commands.core import Script
from redis.exceptions import RedisClusterException, RedisError

from postroom_grey.decision import Attempted, NetworkRecord, Record, Result, State
from postroom_grey.policy import Scope, parse_scope
from postroom_grey.store import NO_POLICY, Counts, Entry, NetworkEntry, Request, Stale, StoredPolicy, Triple, shown

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
_RELEASE = f"""
local released = 0
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'state') == '{State.WAITING}' then
    redis.call('HSET', key, 'state', '{State.RELEASED}')
    released = released + 1
  end
end
return released
"""
_RECORD_FIELDS = ("client", "sender", "recipient", "state", "first", "last", "due", "extra", "attempts", "expires")
_NETWORK_FIELDS = ("client", "successes", "allowed_since", "last", "expires")


class RedisStore:
    """Implements store.Store."""

    name = "Redis"

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._prefix = f"{state.prefix}{{grey}}:"
        with self._client() as client:
            self._attempt = Script(client, (files("postroom_grey") / "attempt.lua").read_text())
            self._replace_policy = Script(client, _REPLACE_POLICY)
            self._release = Script(client, _RELEASE)

    def attempt(self, request: Request) -> tuple[Attempted, ...] | Stale:
        keys: list[str] = [self._policy_key(scope) for scope, _ in request.known]
        keys.append(self._network_key(request.client))
        terms = request.network_terms
        arguments: list[str | int] = [request.now, len(request.known), shown(request.client), shown(request.sender)]
        arguments += [terms.needed, terms.expire, int(request.counts)]
        arguments += [version for _, version in request.known]
        for recipient, one in request.recipients:
            keys.append(self._record_key(Triple(request.client, request.sender, recipient).digest))
            arguments += [shown(recipient), one.wait, one.expire, one.penalty, one.longest_wait]
        with self._client() as client:
            reply: list[Any] = self._attempt(keys, arguments, client)
        if reply[0] == 0:
            return Stale(
                tuple(
                    (request.known[position][0], StoredPolicy(version.decode(), document.decode()))
                    for position, version, document in _threes(reply[1:])
                )
            )
        return tuple(Attempted(Result(result.decode()), first, due) for result, first, due in _threes(reply[1:]))

    def policy(self, scope: Scope) -> StoredPolicy:
        with self._client() as client:
            found: Any = client.hmget(self._policy_key(scope), ["version", "document"])
        return StoredPolicy(found[0].decode(), found[1].decode()) if found[0] is not None else NO_POLICY

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        with self._client() as client:
            return bool(
                self._replace_policy([self._policy_key(scope)], [old_version, new.version, new.document], client)
            )

    def scopes(self) -> Iterator[Scope]:
        prefix = self._policy_key_prefix
        with self._client() as client:
            for key in _distinct(client.scan_iter(match=f"{_escaped(prefix)}*", count=PAGE)):
                yield parse_scope(key.decode().removeprefix(prefix))

    def entries(self, now: int) -> Iterator[Entry]:
        prefix = self._record_key(b"")
        for key, fields in self._hashes(prefix, _RECORD_FIELDS):
            client, sender, recipient, state, *numbers = (field.decode("utf-8", "replace") for field in fields)
            record = Record(State(state), *map(int, numbers))
            if record.expires > now:
                digest = bytes.fromhex(key.decode().removeprefix(prefix))
                yield Entry(Triple(client, sender, recipient), digest, record)

    def networks(self, now: int) -> Iterator[NetworkEntry]:
        for _, fields in self._hashes(self._network_key(""), _NETWORK_FIELDS):
            record = NetworkRecord(*map(int, fields[1:]))
            if record.expires > now:
                yield NetworkEntry(fields[0].decode(), record)

    def counts(self, now: int) -> Counts:
        found = self._hashes(self._record_key(b""), ("state", "expires"))
        states = Counter(State(state.decode()) for _, (state, expires) in found if int(expires) > now)
        networks = Counter(bool(entry.record.allowed_since) for entry in self.networks(now))
        return Counts(states, networks[True], networks[False])

    def release(self, digests: Sequence[bytes]) -> int:
        released = 0
        for page in _pages(self._record_key(digest) for digest in digests):
            with self._client() as client:
                released += int(self._release(page, [], client))
        return released

    def forget(self, digests: Sequence[bytes]) -> int:
        return self._delete(self._record_key(digest) for digest in digests)

    def forget_networks(self, clients: Sequence[str]) -> int:
        return self._delete(self._network_key(client) for client in clients)

    def load_script(self) -> None:
        """Whether this Redis takes the script, for the diagnosis."""
        with self._client() as client:
            client.script_load(self._attempt.script)

    def _delete(self, keys: Iterable[str]) -> int:
        deleted = 0
        for page in _pages(keys):
            with self._client() as client:
                deleted += int(client.delete(*page))
        return deleted

    def _hashes(self, prefix: str, names: Sequence[str]) -> Iterator[tuple[bytes, list[bytes]]]:
        """Every hash under the prefix, page by page; one that goes away meanwhile is left out."""
        with self._client() as client:
            for page in _pages(_distinct(client.scan_iter(match=f"{_escaped(prefix)}*", count=PAGE))):
                pipeline = client.pipeline(transaction=False)
                for key in page:
                    pipeline.hmget(key, list(names))
                for key, fields in zip(page, pipeline.execute(), strict=True):
                    if None not in fields:
                        yield key, fields

    @property
    def _policy_key_prefix(self) -> str:
        return f"{self._prefix}policy:"

    def _policy_key(self, scope: Scope) -> str:
        return f"{self._policy_key_prefix}{scope.key}"

    def _record_key(self, digest: bytes) -> str:
        return f"{self._prefix}record:{digest.hex()}"

    def _network_key(self, client: str) -> str:
        return f"{self._prefix}network:{client}"

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        client = self._state.redis
        if client is None:
            raise StateUnavailable("Redis is not configured any more: restart with the configuration as it is now")
        try:
            yield client
        except (RedisError, RedisClusterException, OSError) as error:
            # Server and library say what is wrong without a password; the URL is never in their texts.
            raise StateUnavailable(
                f"Redis: {type(error).__name__}: {error}; is it running and as configured?"
            ) from error


def _escaped(prefix: str) -> str:
    """For MATCH, where brackets and the like mean something."""
    return "".join(f"\\{character}" if character in "\\*?[]" else character for character in prefix)


def _threes(reply: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(reply[0::3], reply[1::3], reply[2::3], strict=True)


def _pages(keys: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(keys)
    while page := list(islice(iterator, PAGE)):
        yield page


def _distinct(keys: Iterable[bytes]) -> Iterator[bytes]:
    """SCAN may return a key several times, in most cases close together: remember one window."""
    seen: set[bytes] = set()
    for key in keys:
        if key not in seen:
            if len(seen) >= 100 * PAGE:
                seen.clear()
            seen.add(key)
            yield key
