"""Hosts with very many mailboxes: what is done with all of them takes statements by the block, not by the mailbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from postroom_accounts.passwords import SCRAM_SCHEME
from postroom_accounts.records import Account, AccountExists, Domain, InvalidAccount, NoSuchAccount, Route
from postroom_accounts.store.accounts import Accounts
from postroom_accounts.transfer import export, import_
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

DOMAIN = '[[domain]]\nname = "a.example"\n'
HASH = f"{SCRAM_SCHEME}4096,c2FsdA==,{'A' * 43}=,{'B' * 42}A="


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    found: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def people(count: int) -> str:
    boxes = [
        f'[[mailbox]]\naddress = "u{at}@a.example"\nforward = ["x{at}@b.example", "y@b.example"]\n'
        f'password_scram = "{HASH}"\n'
        for at in range(count)
    ]
    aliases = [f'[[alias]]\naddress = "a{at}@a.example"\ntargets = ["u{at}@a.example"]\n' for at in range(count)]
    return "\n".join([DOMAIN, *boxes, *aliases])


def test_an_import_of_many_takes_few_statements_each_time(accounts: Accounts) -> None:
    for _ in range(2):  # new, and known
        with counted_statements() as statements:
            import_(accounts, people(1200))
        assert len(statements) < 80
    assert len(accounts.mailboxes.all()) == len(accounts.targets.all(alias=True)) == len(accounts.logins.all()) == 1200
    assert accounts.targets.of_mailbox("u7@a.example") == ("x7@b.example", "y@b.example")
    with counted_statements() as statements:
        text = export(accounts, with_hashes=True)
    assert len(statements) < 20
    import_(accounts, text)
    assert export(accounts, with_hashes=True) == text


def test_addresses_and_domains_are_known_again_however_they_are_written(accounts: Accounts) -> None:
    import_(accounts, people(2))
    odd = '[[domain]]\nname = "A.Example"\n[[mailbox]]\naddress = "U1@A.example"\nquota = "1M"\n'
    import_(accounts, odd + '[[alias]]\naddress = "A0@a.Example"\ntargets = []\n')
    assert accounts.mailboxes.get("u1@a.example").quota == 1 << 20
    assert accounts.targets.of_mailbox("u1@a.example") == ()  # the file names none
    assert accounts.logins.get("u1@a.example").enabled  # a password that the file does not name stays
    assert list(accounts.targets.all(alias=True)) == ["a1@a.example"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('[[mailbox]]\naddress = "x@a.example"\n' * 2, InvalidAccount, "x@a.example stands there twice"),
        ('[[alias]]\naddress = "x@a.example"\ntargets = ["y@b.example"]\n' * 2, InvalidAccount, "stands there twice"),
        ('[[mailbox]]\naddress = "a1@a.example"\n', AccountExists, "a1@a.example is an alias"),
        ('[[alias]]\naddress = "u1@a.example"\ntargets = ["y@b.example"]\n', AccountExists, "mailbox u1@a.example is"),
        ('[[mailbox]]\naddress = "x@b.example"\n', NoSuchAccount, "there is no domain b.example"),
        ('[[mailbox]]\naddress = "x@a.example"\nforward = ["x@a.example"]\n', InvalidAccount, "lead to itself"),
    ],
)
def test_the_rules_hold_for_many_at_once(accounts: Accounts, text: str, error: type[Exception], words: str) -> None:
    import_(accounts, people(2))
    before = export(accounts, with_hashes=True)
    with pytest.raises(error, match=words):
        import_(accounts, '[[mailbox]]\naddress = "new@a.example"\n' + text)
    assert export(accounts, with_hashes=True) == before


def test_a_file_says_what_the_directory_holds_whatever_that_is(accounts: Accounts) -> None:
    box = Account("u@a.example", maildir='/srv/"o\\dd"/\x7f/é/\t', languages=("de", "en"), quota=5, keep_copy=False)
    accounts.domains.add(Domain("a.example"))
    accounts.mailboxes.add(box)
    accounts.routes.put(Route.BLACKLIST, "b.example", "REJECT \"no\\t'")
    text = export(accounts)
    accounts.domains.remove("a.example", everything=True)
    accounts.routes.remove(Route.BLACKLIST, "b.example")
    import_(accounts, text)
    assert accounts.mailboxes.get("u@a.example") == box
    assert export(accounts) == text
