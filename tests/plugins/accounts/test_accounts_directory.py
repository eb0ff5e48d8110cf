"""Who is ours, over SQLite and PostgreSQL; against a plain model; with the database gone; across threads and forks."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postroom.config import Config, ConfigError, DirectorySettings, Duration, Host
from postroom.hookspecs import DirectoryUnavailable
from postroom.mail import Address
from postroom.services.directory import open_directory as open_chosen
from postroom.testing.postgresql import PostgresInstance
from postroom_accounts.database import AccountsUnusable, translate
from postroom_accounts.directory import AccountsDirectory, Known, open_directory
from postroom_accounts.records import (
    MAX_TARGETS,
    Account,
    AccountExists,
    Domain,
    InvalidAccount,
    NoSuchAccount,
)
from postroom_accounts.store.accounts import Accounts


def texts(addresses: tuple[Address, ...]) -> list[str]:
    return [each.text for each in addresses]


@pytest.fixture
def town(accounts: Accounts) -> Accounts:
    accounts.domains.add(Domain("example.org", quota=1000, message_limit=50))
    accounts.mailboxes.add(Account("bob@example.org", languages=("de", "en")))
    accounts.mailboxes.add(Account("ann@example.org", quota=0, message_limit=10, maildir="/srv/ann"))
    return accounts


def test_domains_and_mailboxes(town: Accounts, directory: AccountsDirectory, config: Config) -> None:
    assert directory.is_local(Address("whoever@EXAMPLE.org")) is True
    assert directory.is_local(Address("bob@other.example")) is False
    assert directory.is_local(Address("")) is False
    bob = directory.mailbox(Address("BOB+tag@Example.Org"))
    assert bob is not None
    assert bob.address == Address("bob@example.org")
    assert bob.maildir == str(config.delivery.root / "example.org/bob/Maildir")
    assert (bob.quota, bob.message_limit, bob.languages, bob.enabled) == (1000, 50, ("de", "en"), True)
    ann = directory.mailbox(Address("ann@example.org"))
    assert ann is not None
    assert (ann.quota, ann.message_limit, ann.maildir) == (None, 10, "/srv/ann")
    assert directory.mailbox(Address("nobody@example.org")) is None
    assert [each.address.text for each in directory.mailboxes()] == ["ann@example.org", "bob@example.org"]


@pytest.mark.parametrize("odd", ["a\0b@example.org", "a\udcff@example.org", "bob", "@", "x" * 5000 + "@example.org"])
def test_odd_addresses_are_nobody(town: Accounts, directory: AccountsDirectory, odd: str) -> None:
    assert directory.mailbox(Address(odd)) is None
    assert texts(directory.expand(Address(odd))) == [odd]


def test_the_core_finds_it_by_name(config: Config) -> None:
    assert isinstance(open_chosen(config), AccountsDirectory)


def test_a_change_is_seen_at_once_by_every_thread(town: Accounts, directory: AccountsDirectory) -> None:
    seen: list[bool | None] = []

    def look() -> None:
        seen.append(directory.is_local(Address("a@new.example")))

    for _ in range(2):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
        if len(seen) == 2:
            town.domains.add(Domain("new.example"))
    assert seen == [False, False, True, True]


def test_a_disabled_domain_stays_ours_and_takes_no_mail(town: Accounts, directory: AccountsDirectory) -> None:
    town.targets.add("info@example.org", ["bob@example.org"], alias=True)
    town.domains.set("example.org", enabled=False)
    assert directory.is_local(Address("bob@example.org")) is True
    bob = directory.mailbox(Address("bob@example.org"))
    assert bob is not None
    assert not bob.enabled
    assert texts(directory.expand(Address("info@example.org"))) == ["info@example.org"]


def test_aliases_forwards_and_everybody(town: Accounts, directory: AccountsDirectory) -> None:
    town.targets.add("info@example.org", ["bob@example.org", "team@example.org"], alias=True)
    town.targets.add("team@example.org", ["ann@example.org", "bob@example.org", "x@far.example"], alias=True)
    town.targets.add("@example.org", ["ann@example.org"], alias=True)
    town.targets.add("ann@example.org", ["ann@phone.example"], alias=False)
    assert texts(directory.expand(Address("INFO@example.org"))) == [
        "bob@example.org",
        "ann@example.org",
        "ann@phone.example",
        "x@far.example",
    ]
    assert texts(directory.expand(Address("typo@example.org"))) == ["ann@example.org", "ann@phone.example"]
    assert texts(directory.expand(Address("bob+x@example.org"))) == ["bob+x@example.org"]
    town.mailboxes.set("ann@example.org", keep_copy=False)
    assert texts(directory.expand(Address("ann@example.org"))) == ["ann@phone.example"]


def test_loops_end(town: Accounts, directory: AccountsDirectory) -> None:
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        town.targets.add(f"{one}@example.org", [f"{other}@example.org"], alias=True)
    assert texts(directory.expand(Address("a@example.org"))) == ["a@example.org"]
    town.targets.add("c@example.org", ["bob@example.org"], alias=True)
    assert texts(directory.expand(Address("a@example.org"))) == ["bob@example.org"]


def test_expansion_is_bounded(town: Accounts, directory: AccountsDirectory) -> None:
    for name in ("a", "b"):
        town.targets.add(f"{name}@example.org", [f"{name}{at}@far.example" for at in range(900)], alias=True)
    town.targets.add("all@example.org", ["a@example.org", "b@example.org"], alias=True)
    assert len(directory.expand(Address("all@example.org"))) == MAX_TARGETS
    with pytest.raises(InvalidAccount, match="at most 1000"):
        town.targets.add("a@example.org", [f"z{at}@far.example" for at in range(900)], alias=True)


NAMES = [f"{name}@m.example" for name in "abcdef"]


class PlainReader:
    """A directory in a dict, for the model test."""

    place = "a dict"

    def __init__(self, accounts: dict[str, bool], targets: dict[str, list[str]]) -> None:
        self.accounts, self.targets = accounts, targets


@given(
    boxes=st.dictionaries(st.sampled_from(NAMES), st.booleans()),
    targets=st.dictionaries(
        st.sampled_from(NAMES), st.lists(st.sampled_from([*NAMES, "x@far"]), min_size=1, unique=True)
    ),
    start=st.sampled_from(NAMES),
)
@settings(max_examples=200, deadline=None)
def test_expansion_is_reachability(boxes: dict[str, bool], targets: dict[str, list[str]], start: str) -> None:
    domain = Domain("m.example")
    known = {
        name: Known(
            domain,
            Account(name, keep_copy=boxes[name]) if name in boxes else None,
            tuple(targets.get(name, ())),
            name in targets and name not in boxes,
        )
        for name in NAMES
    }
    directory = AccountsDirectory(PlainReader(boxes, targets), Config())  # type: ignore[arg-type]  # known is replaced
    directory.known = lambda address: known.get(address.key, Known())  # type: ignore[method-assign]
    reached, waiting = {start}, [start]
    while waiting:
        for target in targets.get(waiting.pop(), ()):
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    ends = {each for each in reached if each not in targets or boxes.get(each)}
    found = texts(directory.expand(Address(start)))
    assert sorted(found) == sorted(ends or {start})


def test_what_is_known_costs_no_statement(tmp_path: Path) -> None:
    config = Config(paths=replace(Config().paths, state=tmp_path))
    with Accounts.open(config) as opened, opened.change():
        opened.domains.add(Domain("example.org"))
        for number in range(300):
            opened.mailboxes.add(Account(f"u{number}@example.org"))
    directory = open_directory(config)
    addresses = [Address(f"u{number}@example.org") for number in range(300)]

    def best() -> float:
        rounds = []
        for _ in range(5):
            begun = time.perf_counter()
            for address in addresses:
                assert directory.mailbox(address) is not None
            rounds.append((time.perf_counter() - begun) / len(addresses))
        return min(rounds)

    warm = best()
    directory._kept.clear()
    begun = time.perf_counter()
    for address in addresses:
        directory.mailbox(address)
    cold = (time.perf_counter() - begun) / len(addresses)
    directory.close()
    assert warm < cold / 2  # no statement against one


def test_without_a_database_the_answer_is_temporary(tmp_path: Path) -> None:
    directory = open_directory(Config(paths=replace(Config().paths, state=tmp_path)))
    for ask in (directory.is_local, directory.mailbox, directory.expand):
        with pytest.raises(DirectoryUnavailable, match="no accounts yet"):
            ask(Address("bob@example.org"))


def test_a_file_that_is_no_database_is_temporary_too(tmp_path: Path) -> None:
    (tmp_path / "accounts.sqlite").write_text("this is no database, whatever its name says\n" * 100)
    directory = open_directory(Config(paths=replace(Config().paths, state=tmp_path)))
    with pytest.raises(DirectoryUnavailable, match="is no database"):
        directory.is_local(Address("bob@example.org"))


def test_a_full_disk_asks_to_try_again(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("CREATE TABLE one (text)")
        with pytest.raises(sqlite3.OperationalError) as full:
            connection.execute("INSERT INTO one VALUES (?)", ("x" * 100_000,))
    said = translate(path, full.value)
    assert not isinstance(said, AccountsUnusable)
    assert "make room" in str(said)


@contextmanager
def directory_on(server: PostgresInstance) -> Iterator[AccountsDirectory]:
    """One that knows example.org, has asked once, and remembers no answer."""
    settings_ = DirectorySettings(provider="accounts", url=server.new_database(), timeout=Duration(2))
    config = Config(directory=settings_)
    with Accounts.open(config) as accounts:
        accounts.domains.add(Domain("example.org"))
    directory = open_directory(config)
    directory._fresh = 0.0
    assert directory.is_local(Address("x@example.org")) is True
    yield directory
    directory.close()


def test_a_server_that_goes_away_and_comes_back() -> None:
    with PostgresInstance() as server, directory_on(server) as directory:
        server.stop()
        with pytest.raises(DirectoryUnavailable, match="is the server up"):
            directory.is_local(Address("x@example.org"))
        server.start()
        assert directory.is_local(Address("x@example.org")) is True


def test_a_server_that_stands_still_holds_nobody_for_ever() -> None:
    with PostgresInstance() as server, directory_on(server) as directory:
        postmaster = int((server.base / "data" / "postmaster.pid").read_text().split()[0])
        backends = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        processes = [postmaster, *map(int, backends)]
        answers: list[object] = []

        def ask() -> None:
            try:
                answers.append(directory.is_local(Address("x@example.org")))
            except DirectoryUnavailable as error:
                answers.append(str(error))

        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            asking = threading.Thread(target=ask, daemon=True)
            asking.start()
            asking.join(60)
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        assert len(answers) == 1
        assert "try again" in str(answers[0])
        assert directory.is_local(Address("x@example.org")) is True


def test_a_file_that_takes_the_place_of_another_counts_from_the_next_question_on(tmp_path: Path) -> None:
    config = Config(paths=replace(Config().paths, state=tmp_path / "state"))
    other = Config(paths=replace(Config().paths, state=tmp_path / "other"))
    for where, domain in ((config, "old.example"), (other, "new.example")):
        with Accounts.open(where) as accounts:
            accounts.domains.add(Domain(domain))
    directory = open_directory(config)
    assert directory.is_local(Address("x@new.example")) is False
    (tmp_path / "other" / "accounts.sqlite").replace(tmp_path / "state" / "accounts.sqlite")
    assert directory.is_local(Address("x@new.example")) is True
    with Accounts.open(config) as accounts:
        accounts.domains.add(Domain("newer.example"))
    assert directory.is_local(Address("x@newer.example")) is True
    (tmp_path / "state" / "accounts.sqlite").unlink()
    with pytest.raises(DirectoryUnavailable):
        directory.is_local(Address("x@new.example"))
    directory.close()


def test_a_server_is_asked_at_most_once_a_second(town: Accounts, config: Config) -> None:
    now = [100.0]
    from postroom_accounts.database import open_reader

    directory = AccountsDirectory(open_reader(config), config, lambda: now[0])
    directory._fresh = 1.0
    assert directory.is_local(Address("x@later.example")) is False
    town.domains.add(Domain("later.example"))
    assert directory.is_local(Address("x@later.example")) is False
    now[0] += 1.0
    assert directory.is_local(Address("x@later.example")) is True
    directory.close()


@pytest.mark.parametrize("url", ["sqlite:///relative.db", "mysql://x/y", "nonsense", "postgresql://[::"])
def test_a_url_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=r"\[directory\]"):
        open_directory(Config(directory=DirectorySettings(url=url)))


def test_it_works_after_a_fork(town: Accounts, directory: AccountsDirectory) -> None:
    assert directory.is_local(Address("x@example.org")) is True
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            directory._kept.clear()
            found = directory.mailbox(Address("bob@example.org"))
            os.write(writing, b"yes" if found else b"no")
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 1000) == b"yes"
    os.close(reading), os.close(writing)
    assert directory.mailbox(Address("ann@example.org")) is not None


def test_without_a_delimiter_there_are_no_tags(town: Accounts, config: Config) -> None:
    plain = open_directory(replace(config, host=Host(recipient_delimiter="")))
    assert plain.mailbox(Address("bob+x@example.org")) is None
    plain.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Account("bob@example.org"), "is there already"),
        (Account("x@nowhere.example"), "there is no domain"),
        (Account("x@example.org", quota=-1), "is no size"),
        (Account("x@example.org", maildir="relative"), "no absolute path"),
        (Account("x@example.org", maildir="/a/../etc"), "no absolute path"),
        (Account("../x@example.org"), "a mailbox is a directory"),
        (Account("a/b@example.org"), "a mailbox is a directory"),
        (Account("@example.org"), "is no address"),
        (Account("x@exa mple.org"), "is no domain"),
        (Account("x@example.org", languages=("de;rm",)), "is no language"),
        (Account("x" * 65 + "@example.org"), "at most 64"),
    ],
)
def test_what_cannot_be_a_mailbox_is_refused(town: Accounts, wrong: Account, words: str) -> None:
    before = town.mailboxes.all()
    with pytest.raises((InvalidAccount, AccountExists, NoSuchAccount), match=words):
        town.mailboxes.add(wrong)
    assert town.mailboxes.all() == before


def test_an_address_is_one_thing_only(town: Accounts) -> None:
    with pytest.raises(AccountExists):
        town.targets.add("bob@example.org", ["x@far.example"], alias=True)
    town.targets.add("info@example.org", ["bob@example.org"], alias=True)
    with pytest.raises(AccountExists, match="is an alias"):
        town.mailboxes.add(Account("info@example.org"))
    with pytest.raises(InvalidAccount, match="lead to itself"):
        town.targets.add("info@example.org", ["info@example.org"], alias=True)
    town.targets.remove("info@example.org", alias=True)
    town.mailboxes.add(Account("info@example.org"))


def test_a_domain_that_is_in_use_stays(town: Accounts, directory: AccountsDirectory) -> None:
    town.logins.put("bob@example.org", "{ARGON2ID}$argon2id$x", "")
    with pytest.raises(AccountExists, match="has mailboxes"):
        town.domains.remove("example.org")
    town.domains.remove("example.org", everything=True)
    assert town.mailboxes.all() == []
    assert town.logins.hashes() == {}
    assert directory.is_local(Address("bob@example.org")) is False
