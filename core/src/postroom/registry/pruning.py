"""Forgetting the oldest generations: which, how many rows that is, and in what steps.

The oldest generation that can still be asked for is the lowest number in the table `generation`. It rises first; then
the rows go that ended before it. So whatever is interrupted, no generation that can be asked for ever lacks a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from postroom.registry.database import LAST, OLDEST, Database

_WANTED = f"SELECT coalesce((SELECT min(number) - 1 FROM generation WHERE at > :before), {LAST})"  # noqa: S608
_GENERATIONS = "SELECT count(*) FROM generation WHERE number < :oldest"
_REGISTRATIONS = "SELECT count(*) FROM registration WHERE until <= :oldest"
FORGET_GENERATIONS = "DELETE FROM generation WHERE number < :oldest"
FORGET_REGISTRATIONS = """
DELETE FROM registration WHERE id IN (SELECT id FROM registration WHERE until <= :oldest ORDER BY until LIMIT :most)
"""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What goes, or went: so many generations, and rows of former registrations; `oldest` is the oldest that stays."""

    oldest: int
    generations: int = 0
    registrations: int = 0

    def __bool__(self) -> bool:
        return bool(self.generations or self.registrations)


def look(database: Database, before: float) -> Pruning:
    """What would go for every state to stay that stood at `before` or since."""
    wanted = database.query(_WANTED, {"before": before})[0][0]
    oldest = max(int(wanted), int(database.query(f"SELECT {OLDEST}", {})[0][0]))
    generations, registrations = (
        int(database.query(sql, {"oldest": oldest})[0][0]) for sql in (_GENERATIONS, _REGISTRATIONS)
    )
    return Pruning(oldest, generations, registrations)
