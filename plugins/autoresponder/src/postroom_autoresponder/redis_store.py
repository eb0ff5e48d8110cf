"""The store of many hosts: Redis, one Lua script and so one round trip a mail.

All keys carry the hash tag `{autoresponder}`: in a cluster they live on one node, because the hour's limit is for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from postroom.hookspecs import StateStore
from postroom.stores.redis import RedisDocuments, RedisScript, keys_of, redis_of

from postroom_autoresponder.decision import Answered, Silence
from postroom_autoresponder.store import (
    COUNTS_MEMORY,
    MAIL_MEMORY,
    NO_RESPONDER,
    REPLIED,
    Claim,
    Granted,
    Stale,
    StoredResponder,
    judged_silence,
)

_RELEASE = """
local known = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if string.match(known, '^(%d+)') == ARGV[2] then
  if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
  else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
end
for _, hour in ipairs({KEYS[4], KEYS[5]}) do
  if tonumber(redis.call('HGET', hour, 'count') or '0') > 0 then redis.call('HINCRBY', hour, 'count', -1) end
end
if ARGV[6] == '1' then
  redis.call('HINCRBY', KEYS[3], ARGV[4], -1)
  redis.call('HINCRBY', KEYS[3], ARGV[5], 1)
end
return 1
"""


class RedisStore:
    """Implements store.Store."""

    name = "Redis"

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._prefix = f"{state.prefix}{{autoresponder}}:"
        self._claim = RedisScript(state, (files("postroom_autoresponder") / "claim.lua").read_text())
        self._release = RedisScript(state, _RELEASE)
        self._documents = RedisDocuments(state)

    def claim(self, claim: Claim) -> Granted | Stale:
        name, terms = claim.responder, claim.terms
        keys = [self._key(kind, name) for kind in ("responder", "answered", "expiries", "mails", "counts")]
        arguments: list[str | int | bytes] = [claim.known, claim.now, str(claim.silence or "")]
        arguments += [int(claim.forwards), int(claim.counts), claim.sender, claim.mail]
        arguments += [terms.interval, terms.daily_limit, terms.remembered, terms.hourly_limit]
        arguments += [terms.memory, MAIL_MEMORY, COUNTS_MEMORY, terms.mailbox_limit]
        reply: list[Any] = self._claim([*keys, *self._hours(claim)], arguments)
        if reply[0] == 0:
            return Stale(StoredResponder(reply[1].decode(), reply[2].decode()))
        before = Answered(*map(int, reply[3:6]))
        return Granted(judged_silence(reply[1].decode()), bool(reply[2]), before if before.last else None)

    def release(self, claim: Claim, granted: Granted, reason: Silence) -> None:
        before = granted.before
        written = f"{before.last} {before.day} {before.count}" if before else ""
        keys = [self._key(kind, claim.responder) for kind in ("answered", "expiries", "counts")]
        arguments: list[str | int | bytes] = [claim.sender, claim.now, written, REPLIED, str(reason), int(claim.counts)]
        self._release([*keys, *self._hours(claim)], arguments)

    def responder(self, name: str) -> StoredResponder:
        found = self._documents.get(self._key("responder", name))
        return StoredResponder(*found) if found else NO_RESPONDER

    def replace_responder(self, name: str, old_version: str, new: StoredResponder) -> bool:
        return self._documents.replace(self._key("responder", name), old_version, new.version, new.document)

    def responders(self) -> Iterator[tuple[str, StoredResponder]]:
        for name in self._names("responder"):
            if (found := self.responder(name)).version:
                yield name, found

    def counts(self, name: str) -> Mapping[str, int]:
        with redis_of(self._state) as client:
            found: Any = client.hgetall(self._key("counts", name))
        return {word.decode(): int(count) for word, count in found.items() if int(count) > 0}

    def counted(self) -> Iterator[str]:
        yield from self._names("counts")

    def remembered(self, name: str, now: int) -> int:
        with redis_of(self._state) as client:
            return int(client.zcount(self._key("expiries", name), f"({now}", "+inf"))

    def forget(self, name: str, sender: bytes | None = None) -> int:
        answered, expiries = self._key("answered", name), self._key("expiries", name)
        with redis_of(self._state) as client:
            if sender is not None:
                client.zrem(expiries, sender)
                return int(client.hdel(answered, sender))
            known = int(client.hlen(answered))
            client.delete(answered, expiries, self._key("mails", name), self._key("counts", name))
            return known

    def ping(self) -> None:
        self._claim.load()

    def _names(self, kind: str) -> list[str]:
        prefix = self._key(kind, "")
        return sorted({key.decode().removeprefix(prefix) for page in keys_of(self._state, prefix) for key in page})

    def _hours(self, claim: Claim) -> list[str]:
        """Of the host, and of the mailbox."""
        return [f"{self._prefix}hour", self._key("hour", claim.mailbox)]

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"
