"""Chooses where policies are: what the core was configured with."""

from __future__ import annotations

from postroom.hookspecs import StateStore
from postroom.lists.store import PolicyStore


def open_policies(state: StateStore) -> PolicyStore:
    """Redis when the core has it, else SQLite."""
    if state.redis is not None:
        from postroom.lists.redis_store import RedisPolicies  # redis-py only where it is used

        return RedisPolicies(state)
    from postroom.lists.sqlite_store import SqlitePolicies

    return SqlitePolicies(state)
