"""Chooses the store: what the core was configured with."""

from __future__ import annotations

from postroom.hookspecs import StateStore

from postroom_quota.store import Store


def open_store(state: StateStore) -> Store:
    """Redis when the core has it, else SQLite."""
    if state.redis is not None:
        from postroom_quota.redis_store import RedisStore  # redis-py only where it is used

        return RedisStore(state)
    from postroom_quota.sqlite_store import SqliteStore

    return SqliteStore(state)
