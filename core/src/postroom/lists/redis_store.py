"""Policies in Redis, shared by all hosts."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.hookspecs import StateStore
from postroom.lists.scopes import Scope, parse_scope
from postroom.lists.store import NO_POLICY, StoredPolicy
from postroom.stores.redis import RedisDocuments, keys_of


class RedisPolicies:
    """Implements store.PolicyStore."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._prefix = f"{state.prefix}{{grey}}:policy:"  # greylisting's script may only touch keys of its own tag
        self._documents = RedisDocuments(state)

    def key(self, scope: Scope) -> str:
        return f"{self._prefix}{scope.key}"

    def policy(self, scope: Scope) -> StoredPolicy:
        found = self._documents.get(self.key(scope))
        return StoredPolicy(*found) if found else NO_POLICY

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        return self._documents.replace(self.key(scope), old_version, new.version, new.document)

    def scopes(self) -> Iterator[Scope]:
        for page in keys_of(self._state, self._prefix):
            for key in page:
                yield parse_scope(key.decode().removeprefix(self._prefix))
