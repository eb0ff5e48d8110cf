"""The tables of the registry, and the steps that lead an older schema to this one. SQLAlchemy, both databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    text,
)

from postroom.registry.database import SCHEMA_VERSION, too_new
from postroom.registry.errors import RegistryError

metadata = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite's row number has to be called INTEGER
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")  # compared octet by octet, as SQLite does

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

generation = Table(
    "generation",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),  # seconds since the epoch
    Column("who", _TEXT, nullable=False),
    Column("what", _TEXT, nullable=False),
)

registration = Table(
    "registration",
    metadata,
    Column("id", _NUMBER, Identity(), primary_key=True),
    Column("handler", _TEXT, nullable=False),
    Column("stage", _TEXT, nullable=False),
    Column("type", _TEXT, nullable=False),
    Column("address", _TEXT, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("context", _TEXT, nullable=False),
    Column("mode", _TEXT, nullable=False),
    Column("on_error", _TEXT, nullable=False),  # empty: as the handler declares
    Column("executable", _TEXT, nullable=False),
    Column("since", _NUMBER, nullable=False),  # the generation that brought this row
    Column("until", _NUMBER),  # the generation that ended it; NULL: it stands
)

_columns = registration.c
_stands = _columns.until.is_(None)


def _partial(name: str, *columns: Column[str] | Column[int], where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


# A look-up, the uniqueness of what stands, and the order of a list; closed rows, however many, are not in its way
_partial(
    "registration_standing",
    _columns.address,
    _columns.type,
    _columns.stage,
    _columns.handler,
    where="until IS NULL",
    unique=True,
)
_partial(
    "registration_by_handler",
    _columns.handler,
    _columns.address,
    _columns.type,
    _columns.stage,
    where="until IS NULL",
)
# `enabled()` leaps from one (handler, stage, executable) to the next in it
_partial(
    "registration_enabled",
    _columns.handler,
    _columns.stage,
    _columns.executable,
    where="until IS NULL AND enabled",
)
# `registered()` does the same in this one
_partial(
    "registration_kinds",
    _columns.handler,
    _columns.stage,
    _columns.executable,
    where="until IS NULL",
)
# What changed between two generations, and a look-up at an earlier one
Index("registration_since", _columns.since)
_partial("registration_until", _columns.until, where="until IS NOT NULL")
_partial("registration_closed", _columns.address, _columns.type, where="until IS NOT NULL")

Step = Callable[[Connection], None]


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.execute(schema_version.insert().values(version=0))


STEPS: Sequence[Step] = (_create,)
"""STEPS[n] leads from version n to n + 1. A step that a release carried never changes."""

assert len(STEPS) == SCHEMA_VERSION


def stored_version(connection: Connection) -> int:
    """0: the database is empty."""
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return int(connection.execute(select(schema_version.c.version)).scalar_one())


def migrate(connection: Connection, place: str, steps: Sequence[Step] = STEPS) -> None:
    """Lead the schema here, inside the caller's transaction, which holds the write lock."""
    version = stored_version(connection)
    if version > len(steps):
        raise RegistryError(too_new(place, version, len(steps)))
    for step in steps[version:]:
        step(connection)
    if version < len(steps):
        connection.execute(schema_version.update().values(version=len(steps)))
