"""The tables, and the steps that lead an older schema to this one. SQLAlchemy, both databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import BigInteger, Column, Connection, Double, Integer, MetaData, Table, Text, inspect, select

from postroom_accounts.database import SCHEMA_VERSION, AccountsUnusable

metadata = MetaData()
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")  # compared octet by octet, as SQLite does
_OCTETS = BigInteger()

state = Table(
    "accounts_state",
    metadata,
    Column("version", Integer, nullable=False),
    Column("generation", _OCTETS, nullable=False),  # counts changes: what was read before one is forgotten
)

domain = Table(
    "accounts_domain",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("enabled", Integer, nullable=False),
    Column("quota", _OCTETS),
    Column("message_limit", _OCTETS),
)

mailbox = Table(
    "accounts_mailbox",
    metadata,
    Column("address", _TEXT, primary_key=True),
    Column("domain", _TEXT, nullable=False, index=True),
    Column("enabled", Integer, nullable=False),
    Column("quota", _OCTETS),
    Column("message_limit", _OCTETS),
    Column("maildir", _TEXT, nullable=False),
    Column("languages", _TEXT, nullable=False),
    Column("keep_copy", Integer, nullable=False),
)

target = Table(
    "accounts_target",  # of an alias, or of a mailbox that forwards
    metadata,
    Column("address", _TEXT, primary_key=True),
    Column("target", _TEXT, primary_key=True),
    Column("domain", _TEXT, nullable=False, index=True),
    Column("alias", Integer, nullable=False),
    Column("position", Integer, nullable=False),
)

password = Table(
    "accounts_password",  # apart from the rest: look-ups for mail need no right to read it
    metadata,
    Column("address", _TEXT, primary_key=True),
    Column("enabled", Integer, nullable=False),
    Column("crypt", _TEXT, nullable=False),
    Column("scram", _TEXT, nullable=False),
    Column("changed", Double, nullable=False),
)

mailing_list = Table(
    "accounts_list",
    metadata,
    Column("address", _TEXT, primary_key=True),  # or @domain
    Column("domain", _TEXT, nullable=False, index=True),
    Column("next_hop", _TEXT, nullable=False),
)

route = Table(
    "accounts_route",  # what only the mail server reads: its own words for addresses and domains, by map
    metadata,
    Column("map", _TEXT, primary_key=True),
    Column("name", _TEXT, primary_key=True),
    Column("value", _TEXT, nullable=False),
)

Step = Callable[[Connection], None]


def _create(connection: Connection) -> None:
    metadata.create_all(connection, [state, domain, mailbox, target, password])
    connection.execute(state.insert().values(version=0, generation=0))


def _add_lists_and_routes(connection: Connection) -> None:
    metadata.create_all(connection, [mailing_list, route])


STEPS: Sequence[Step] = (_create, _add_lists_and_routes)
"""STEPS[n] leads from version n to n + 1. A step that a release carried never changes."""

assert len(STEPS) == SCHEMA_VERSION


def migrate(connection: Connection, place: str, steps: Sequence[Step] = STEPS) -> None:
    """Lead the schema here, inside the caller's transaction, which holds the write lock."""
    version = 0
    if inspect(connection).has_table(state.name):
        version = int(connection.execute(select(state.c.version)).scalar_one())
    if version > len(steps):
        raise AccountsUnusable(f"{place}: its schema {version} is newer than this postroom-accounts: upgrade it")
    for step in steps[version:]:
        step(connection)
    if version < len(steps):
        connection.execute(state.update().values(version=len(steps)))
