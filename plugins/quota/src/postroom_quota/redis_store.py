"""Ledgers in Redis, for many hosts: one Lua script and so one round trip a mail.

All keys carry the hash tag `{quota}`: in a cluster they live on one node, as a script needs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from postroom.hookspecs import StateStore
from postroom.stores.redis import RedisScript, redis_of

from postroom_quota.ledger import HYSTERESIS, LONGEST, MAX_HELD, Answer, Held, Ledger, Request, Terms

_SETTLE = """
local value = redis.call('HGET', KEYS[1], 'h:' .. ARGV[1])
if not value then return 0 end
local octets, expires = string.match(value, '^(%d+) (%d+)$')
if tonumber(expires) > tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], 'h:' .. ARGV[1], octets .. ' ' .. ARGV[2]) end
return 1
"""
_FORGET = """
local warned = redis.call('HGET', KEYS[1], 'warned')
redis.call('DEL', KEYS[1])
if warned and warned ~= '0' then
  redis.call('HSET', KEYS[1], 'warned', warned)
  redis.call('PEXPIRE', KEYS[1], 31 * 86400000)
end
return 1
"""


class RedisStore:
    """Implements store.Store."""

    name = "Redis"

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._prefix = f"{state.prefix}{{quota}}:"
        self._reserve = RedisScript(state, (files("postroom_quota") / "reserve.lua").read_text())
        self._settle = RedisScript(state, _SETTLE)
        self._forget = RedisScript(state, _FORGET)

    def reserve(self, requests: Sequence[Request], terms: Terms) -> list[Answer]:
        keys = [self._key(each.mailbox) for each in requests]
        arguments: list[str | int] = [terms.now, terms.id, terms.expires, int(terms.write), int(terms.together)]
        arguments += [MAX_HELD, HYSTERESIS, LONGEST, len(terms.thresholds), *terms.thresholds]
        for each in requests:
            arguments += [each.used, each.size, each.limit]
        reply = self._reserve(keys, arguments)
        threes = zip(reply[0::3], reply[1::3], reply[2::3], strict=True)
        return [Answer(bool(fits), int(total), int(warn)) for fits, total, warn in threes]

    def settle(self, mailbox: str, id: str, expires: int) -> None:
        self._settle([self._key(mailbox)], [id, expires])

    def forget_warning(self, mailbox: str) -> None:
        with redis_of(self._state) as client:
            client.hdel(self._key(mailbox), "warned")

    def forget(self, mailbox: str) -> None:
        self._forget([self._key(mailbox)])

    def ledger(self, mailbox: str) -> Ledger:
        with redis_of(self._state) as client:
            found: Any = client.hgetall(self._key(mailbox))
        held, plain = [], {}
        for name, value in found.items():
            if name.startswith(b"h:"):
                octets, _, expires = value.partition(b" ")
                held.append(Held(name[2:].decode("utf-8", "surrogateescape"), int(octets), int(expires)))
            else:
                plain[name.decode()] = int(value)
        held.sort(key=lambda each: (each.expires, each.id))
        return Ledger(tuple(held), plain.get("peak", 0), plain.get("many_until", 0), plain.get("warned", 0))

    def ping(self) -> None:
        self._reserve.load()

    def _key(self, mailbox: str) -> str:
        return f"{self._prefix}{hashlib.sha256(mailbox.encode('utf-8', 'surrogateescape')).hexdigest()}"
