"""Lists and Postfix' own tables in the directory: kept, looked up, written as maps; the way from the first schema."""

from __future__ import annotations

import pytest
from postroom.config import Config
from postroom.mail import Address
from postroom_accounts import schema
from postroom_accounts.directory import AccountsDirectory, open_directory
from postroom_accounts.records import (
    Account,
    AccountExists,
    Domain,
    InvalidAccount,
    NoSuchAccount,
    Route,
    check_next_hop,
    check_route,
)
from postroom_accounts.store.accounts import Accounts
from postroom_accounts.transfer import export, import_
from sqlalchemy import text

HOP = "lmtp:inet:127.0.0.1:8024"


def fill(accounts: Accounts) -> None:
    accounts.domains.add(Domain("local.test"))
    accounts.domains.add(Domain("lists.test"))
    accounts.mailboxes.add(Account("bob@local.test"))
    accounts.lists.put("Talk@local.test", HOP)


def hop(directory: AccountsDirectory, address: str) -> str | None:
    found = directory.mailbox(Address(address))
    return None if found is None else found.next_hop


def test_a_list_has_its_command_addresses(accounts: Accounts, directory: AccountsDirectory) -> None:
    fill(accounts)
    accounts.mailboxes.add(Account("talk-owner@local.test"))
    for address in ("talk@local.test", "TALK-request@local.test", "talk-bounces+x=y@local.test", "talk+tag@local.test"):
        assert hop(directory, address) == HOP, address
    assert hop(directory, "talk-owner@local.test") == ""  # a mailbox of its own comes first
    assert hop(directory, "talk-other@local.test") is None
    assert hop(directory, "bob@local.test") == ""
    assert directory.expand(Address("talk@local.test")) == (Address("talk@local.test"),)
    accounts.lists.remove("talk@local.test")
    assert hop(directory, "talk@local.test") is None


def test_a_whole_domain_of_lists(accounts: Accounts, directory: AccountsDirectory) -> None:
    fill(accounts)
    accounts.mailboxes.add(Account("ann@lists.test"))
    accounts.lists.put("@lists.test", "command")
    assert hop(directory, "anything@lists.test") == "command"
    assert hop(directory, "ann@lists.test") == ""
    accounts.domains.set("lists.test", enabled=False)
    found = directory.mailbox(Address("anything@lists.test"))
    assert found is not None
    assert not found.enabled


def test_an_address_is_one_thing(accounts: Accounts) -> None:
    fill(accounts)
    with pytest.raises(AccountExists, match="mailbox"):
        accounts.lists.put("bob@local.test", HOP)
    with pytest.raises(AccountExists, match="is a list"):
        accounts.mailboxes.add(Account("talk@local.test"))
    with pytest.raises(AccountExists, match="is a list"):
        accounts.targets.add("talk@local.test", ["bob@local.test"], alias=True)
    with pytest.raises(NoSuchAccount):
        accounts.lists.put("talk@far.test", HOP)
    with pytest.raises(NoSuchAccount):
        accounts.lists.remove("bob@local.test")
    accounts.lists.put("talk@local.test", "command")
    assert accounts.lists.all() == {"talk@local.test": "command"}
    with pytest.raises(AccountExists, match="lists"):
        accounts.domains.remove("local.test")
    accounts.domains.remove("local.test", everything=True)
    assert accounts.lists.all() == {}


@pytest.mark.parametrize("next_hop", ["", "lmtp:", "lmtp:nowhere", "/usr/bin/mailman post", "smtp:inet:127.0.0.1:25"])
def test_no_next_hop(next_hop: str) -> None:
    with pytest.raises(InvalidAccount, match="write lmtp:inet"):
        check_next_hop(next_hop)


@pytest.mark.parametrize(
    ("route", "name", "value"),
    [
        (Route.TRANSPORT, "x.test", ""),
        (Route.TRANSPORT, "x.test", ":"),
        (Route.TRANSPORT, "x.test", "smtp:[a]\nb.test smtp:c"),
        (Route.TRANSPORT, "two words", "smtp:"),
        (Route.SENDER_TRANSPORT, "*", "smtp:"),
        (Route.BLACKLIST, "x.test", "REJECT\nb.test OK"),
        (Route.BLACKLIST, "x.test", " "),
        (Route.BLACKLIST, "x.test", "R" * 2000),
    ],
)
def test_what_would_break_a_map_is_not_kept(route: Route, name: str, value: str) -> None:
    with pytest.raises(InvalidAccount):
        check_route(route, name, value)


def test_routes_become_maps(accounts: Accounts, directory: AccountsDirectory) -> None:
    fill(accounts)
    accounts.targets.add("@local.test", ["bob@local.test"], alias=True)
    accounts.routes.put(Route.TRANSPORT, "Partner.example", "smtp:[10.0.0.5]:25")
    accounts.routes.put(Route.TRANSPORT, ".partner.example", "error:no")
    accounts.routes.put(Route.SENDER_TRANSPORT, "local.test", "smtp:[relay.example]:587")
    accounts.routes.put(Route.BLACKLIST, "@spam.example", "REJECT go away")
    accounts.routes.put(Route.BLACKLIST, "a@b.example", "OK")
    accounts.routes.put(Route.BLACKLIST, "a@b.example", "DISCARD")
    maps = directory.maps()
    assert maps["transport"] == {"partner.example": "smtp:[10.0.0.5]:25", ".partner.example": "error:no"}
    assert maps["sdd_transport_maps"] == {"@local.test": "smtp:[relay.example]:587"}
    assert maps["blacklists"] == {"spam.example": "REJECT go away", "a@b.example": "DISCARD"}
    assert {"talk@local.test", "talk-request@local.test", "bob@local.test"} <= set(maps["vmailbox"])
    assert maps["virtual"]["talk-request@local.test"] == "talk-request@local.test"  # not the alias of everybody
    assert accounts.routes.remove(Route.BLACKLIST, "A@b.example") == "a@b.example"
    with pytest.raises(NoSuchAccount):
        accounts.routes.remove(Route.BLACKLIST, "a@b.example")
    accounts.routes.remove(Route.BLACKLIST, "spam.example")
    assert "blacklists" not in directory.maps()


def test_export_and_import_carry_lists_and_routes(accounts: Accounts, directory: AccountsDirectory) -> None:
    fill(accounts)
    accounts.routes.put(Route.TRANSPORT, "*", "smtp:[relay.example]")
    accounts.routes.put(Route.SENDER_TRANSPORT, "local.test", "smtp:[relay.example]:587")
    accounts.routes.put(Route.BLACKLIST, "spam.example", 'REJECT "no"')
    written, maps = export(accounts), directory.maps()
    for domain in ("local.test", "lists.test"):
        accounts.domains.remove(domain, everything=True)
    for route, rows in accounts.routes.all().items():
        for name in rows:
            accounts.routes.remove(route, name)
    counts = import_(accounts, written)
    assert counts == {"domain": 2, "mailbox": 1, "list": 1, "transport": 1, "sender-transport": 1, "blacklist": 1}
    assert (export(accounts), directory.maps()) == (written, maps)


def test_the_first_schema_answers_for_mail_and_is_led_here_by_the_next_command(config: Config) -> None:
    with Accounts.open(config) as accounts:
        fill(accounts)
        with accounts.change() as connection:
            for table in (schema.mailing_list, schema.route):
                connection.execute(text(f"DROP TABLE {table.name}"))
            connection.execute(schema.state.update().values(version=1))
    directory = open_directory(config)
    assert hop(directory, "bob@local.test") == ""
    assert hop(directory, "talk@local.test") is None
    directory.close()
    with Accounts.open(config) as accounts:
        assert [each.name for each in accounts.domains.all()] == ["lists.test", "local.test"]
        accounts.lists.put("talk@local.test", HOP)
        accounts.routes.put(Route.BLACKLIST, "spam.example", "REJECT")
    directory = open_directory(config)
    assert hop(directory, "talk@local.test") == HOP
    directory.close()
