"""The store of many hosts: Redis, one Lua script and so one round trip an attempt.

All keys carry the hash tag `{grey}`: in a cluster they live on one node, because a script may only touch what is there.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any

from postroom.hookspecs import StateStore
from postroom.lists.redis_store import RedisPolicies
from postroom.lists.scopes import Scope
from postroom.lists.store import StoredPolicy
from postroom.stores.redis import PAGE, RedisScript, distinct, escaped, keys_of, pages, redis_of

from postroom_grey.decision import Attempted, NetworkRecord, Record, Result, State
from postroom_grey.store import EVERYTHING, Counts, Entry, NetworkEntry, Request, Stale, Triple, shown
from postroom_grey.target import Target

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
        self._policies = RedisPolicies(state)
        self._prefix = f"{state.prefix}{{grey}}:"
        self._attempt = RedisScript(state, (files("postroom_grey") / "attempt.lua").read_text())
        self._release = RedisScript(state, _RELEASE)
        self._select = RedisScript(state, (files("postroom_grey") / "select.lua").read_text())

    def attempt(self, request: Request) -> tuple[Attempted, ...] | Stale:
        keys: list[str] = [self._policies.key(scope) for scope, _ in request.known]
        keys.append(self._network_key(request.client))
        terms = request.network_terms
        arguments: list[str | int] = [request.now, len(request.known), shown(request.client), shown(request.sender)]
        arguments += [terms.needed, terms.expire, int(request.counts)]
        arguments += [version for _, version in request.known]
        for recipient, one in request.recipients:
            keys.append(self._record_key(Triple(request.client, request.sender, recipient).digest))
            arguments += [shown(recipient), one.wait, one.expire, one.penalty, one.longest_wait]
        reply: list[Any] = self._attempt(keys, arguments)
        if reply[0] == 0:
            return Stale(
                tuple(
                    (request.known[position][0], StoredPolicy(version.decode(), document.decode()))
                    for position, version, document in _threes(reply[1:])
                )
            )
        return tuple(Attempted(Result(result.decode()), first, due) for result, first, due in _threes(reply[1:]))

    def policy(self, scope: Scope) -> StoredPolicy:
        return self._policies.policy(scope)

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        return self._policies.replace_policy(scope, old_version, new)

    def scopes(self) -> Iterator[Scope]:
        return self._policies.scopes()

    def entries(self, now: int, target: Target = EVERYTHING) -> Iterator[Entry]:
        prefix, size = self._record_key(b""), 1 + len(_RECORD_FIELDS)
        found = (
            reply[start : start + size]
            for reply in self._walk(now, target, "read")
            for start in range(0, len(reply), size)
        )
        for key, *fields in distinct(found, operator.itemgetter(0)):
            client, sender, recipient, state, *numbers = (field.decode("utf-8", "replace") for field in fields)
            if target.matches_client(client):
                digest = bytes.fromhex(key.decode().removeprefix(prefix))
                yield Entry(Triple(client, sender, recipient), digest, Record(State(state), *map(int, numbers)))

    def count_entries(self, now: int, target: Target) -> int:
        if target.network is not None:
            return sum(1 for _ in self.entries(now, target))
        return sum(self._walk(now, target, "count"))

    def _walk(self, now: int, target: Target, what: str) -> Iterator[Any]:
        pattern, wanted, cursor = escaped(self._record_key(b"")) + "*", _wanted(target), b"0"
        while True:
            cursor, reply = self._select([self._prefix], [cursor, pattern, PAGE, now, wanted, what])
            yield reply
            if cursor == b"0":
                return

    def networks(self, now: int, target: Target = EVERYTHING) -> Iterator[NetworkEntry]:
        for page in self._network_pages(target):
            for _, fields in self._read(page, _NETWORK_FIELDS):
                client, record = fields[0].decode(), NetworkRecord(*map(int, fields[1:]))
                if record.expires > now and target.matches_client(client):
                    yield NetworkEntry(client, record)

    def _network_pages(self, target: Target) -> Iterator[list[Any]]:
        """The name of a client is in its key: ask for no others."""
        clients = target.clients
        if clients is None:
            yield from keys_of(self._state, self._network_key(""))
            return
        named = [self._network_key(name) for name in clients.names]
        yield named
        if clients.prefix is not None:
            for page in keys_of(self._state, self._network_key(clients.prefix)):
                yield [key for key in page if key.decode() not in named]

    def counts(self, now: int) -> Counts:
        found = self._hashes(self._record_key(b""), ("state", "expires"))
        states = Counter(State(state.decode()) for _, (state, expires) in found if int(expires) > now)
        networks = Counter(bool(entry.record.allowed_since) for entry in self.networks(now))
        return Counts(states, networks[True], networks[False])

    def release(self, digests: Iterable[bytes]) -> int:
        return sum(self._release(page) for page in pages(self._record_key(digest) for digest in digests))

    def forget(self, digests: Iterable[bytes]) -> int:
        return self._delete(self._record_key(digest) for digest in digests)

    def forget_networks(self, clients: Iterable[str]) -> int:
        return self._delete(self._network_key(client) for client in clients)

    def ping(self) -> None:
        self._attempt.load(f"{self._prefix}probe")

    def _delete(self, keys: Iterable[str]) -> int:
        deleted = 0
        for page in pages(keys):
            with redis_of(self._state) as client:
                deleted += int(client.delete(*page))
        return deleted

    def _hashes(self, prefix: str, names: Sequence[str]) -> Iterator[tuple[bytes, list[bytes]]]:
        """Every hash under the prefix."""
        for page in keys_of(self._state, prefix):
            yield from self._read(page, names)

    def _read(self, keys: Sequence[Any], names: Sequence[str]) -> Iterator[tuple[Any, list[bytes]]]:
        """One that is not there, or goes away meanwhile, is left out."""
        if not keys:
            return
        with redis_of(self._state) as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(key, list(names))
            replies: list[Any] = pipeline.execute()
        yield from ((key, fields) for key, fields in zip(keys, replies, strict=True) if None not in fields)

    def _record_key(self, digest: bytes) -> str:
        return f"{self._prefix}record:{digest.hex()}"

    def _network_key(self, client: str) -> str:
        return f"{self._prefix}network:{client}"


def _wanted(target: Target) -> str:
    """For select.lua. An empty list stands for all, since nobody asks for none."""
    clients = target.clients
    return json.dumps(
        {
            "states": sorted(target.states),
            "senders": [pattern.split("*") for pattern in target.senders],
            "recipients": [target.recipient.split("*")] if target.recipient else [],
            "all_clients": clients is None,
            "names": clients.names if clients else (),
            "prefix": clients.prefix if clients and clients.prefix is not None else False,
            "fields": _RECORD_FIELDS,
        }
    )


def _threes(reply: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(reply[0::3], reply[1::3], reply[2::3], strict=True)
