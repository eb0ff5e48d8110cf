"""Registrations in a database, with history: `Registry` answers the plan's one question, and keeps every change."""

from postroom.registry.database import Key
from postroom.registry.errors import AlreadyRegistered, NotRegistered, RegistryError, RegistryUnavailable
from postroom.registry.history import Difference, Generation, details, differences
from postroom.registry.order import acting_order, compared, sort_key
from postroom.registry.pruning import Pruning
from postroom.registry.queries import Filter
from postroom.registry.store import Registry

__all__ = [
    "AlreadyRegistered",
    "Difference",
    "Filter",
    "Generation",
    "Key",
    "NotRegistered",
    "Pruning",
    "Registry",
    "RegistryError",
    "RegistryUnavailable",
    "acting_order",
    "compared",
    "details",
    "differences",
    "sort_key",
]
