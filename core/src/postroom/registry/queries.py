"""The questions that people and the server ask of a registry, in SQL that both databases understand."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.registration import Stage, Type
from postroom.registry.database import COLUMNS, CURRENT, LAST, storable

_FIRST = "ORDER BY r.handler, r.stage, r.executable LIMIT 1"


def _leaping(among: str) -> str:
    """(handler, stage, executable) of the rows among which it looks, each once, and a row with the last generation.

    Leaps through an index of any size, from one to the next: to the next program there, or the next stage, or the next
    handler. DISTINCT reads all rows, and SQLite reads the equal ones for (a, b, c) > (…).
    """
    return f"""
WITH RECURSIVE found (id) AS (
    SELECT (SELECT r.id {among} {_FIRST})
    UNION ALL
    SELECT (SELECT coalesce(
        (SELECT r.id {among} AND r.handler = p.handler AND r.stage = p.stage AND r.executable > p.executable
         {_FIRST}),
        (SELECT r.id {among} AND r.handler = p.handler AND r.stage > p.stage {_FIRST}),
        (SELECT r.id {among} AND r.handler > p.handler {_FIRST}))
        FROM registration AS p WHERE p.id = found.id)
    FROM found WHERE found.id IS NOT NULL)
SELECT NULL, NULL, NULL, {LAST}
UNION ALL
SELECT r.handler, r.stage, r.executable, NULL FROM found, registration AS r WHERE r.id = found.id
"""  # noqa: S608  # nothing from outside


ENABLED = _leaping(f"FROM registration AS r WHERE {CURRENT} AND r.enabled")
REGISTERED = _leaping(f"FROM registration AS r WHERE {CURRENT}")
HANDLERS = f"""
WITH RECURSIVE found (handler) AS (
    SELECT (SELECT r.handler FROM registration AS r WHERE {CURRENT} ORDER BY r.handler LIMIT 1)
    UNION ALL
    SELECT (SELECT r.handler FROM registration AS r WHERE {CURRENT} AND r.handler > found.handler
            ORDER BY r.handler LIMIT 1)
    FROM found WHERE found.handler IS NOT NULL)
SELECT handler FROM found WHERE handler IS NOT NULL
"""  # noqa: S608  # nothing from outside
SQLITE_HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
POSTGRES_HAS_TABLE = "SELECT 1 WHERE to_regclass('schema_version') IS NOT NULL"

CHANGED = f"""
SELECT 0, {COLUMNS} FROM registration AS r WHERE r.since <= :a AND r.until > :a AND r.until <= :b
UNION ALL
SELECT 1, {COLUMNS} FROM registration AS r WHERE r.since > :a AND r.since <= :b AND (r.until IS NULL OR r.until > :b)
"""  # noqa: S608  # nothing from outside
"""What stood at generation :a and no more at :b (0), and what stands at :b and did not at :a (1)."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which registrations are meant; None does not matter. `address` in the form in which it is compared."""

    handler: str | None = None
    stage: Stage | None = None
    type: Type | None = None
    address: str | None = None
    enabled: bool | None = None

    def where(self) -> tuple[str, dict[str, str | bool]]:
        conditions: list[str] = []
        values: dict[str, str | bool] = {}
        for name in ("address", "type", "stage", "handler"):
            if (value := getattr(self, name)) is not None:
                conditions.append(f"r.{name} = :{name}")
                values[name] = str(value)
        if self.enabled is not None:
            conditions.append("r.enabled" if self.enabled else "NOT r.enabled")
        return "".join(f" AND {condition}" for condition in conditions), values

    def possible(self) -> bool:
        return all(storable(text) for text in (self.handler, self.address) if text is not None)
