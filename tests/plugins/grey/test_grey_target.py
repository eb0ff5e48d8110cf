"""What commands ask for is what both stores find: every combination against the rules in Python."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from itertools import product

import pytest
from plugins.grey.greylisting import Desk
from postroom.lists.patterns import glob
from postroom.testing import FakeServices, envelope
from postroom_grey.backends import open_store
from postroom_grey.client import UNKNOWN
from postroom_grey.decision import State
from postroom_grey.settings import GreySettings
from postroom_grey.store import EVERYTHING, Entry
from postroom_grey.target import Target, parse_target

CLIENTS = ("192.0.2.1", "192.0.3.1", "19.20.2.1", "2001:db8::1", "2001:db8:0:1::1", "2001:db8:5::1", "2001:0:1::1")
SENDERS = ("a@s.example", "A[b]?@s.example", "list-7@sub.s.example", "")
RECIPIENTS = ("x@r.example", "y%@r.example")
WHO = (None, "a@s.example", "list-9@sub.s.example", "*@s.example", "*[b]?@*", "*@*s.ex*ple", "*", "<>", "l*t-*#*@*e")
WHERE = (
    *("192.0.2.77", "192.0.2.0/23", "192.0.0.0/8", "0.0.0.0/0", "192.0.2.128/25", "10.0.0.0/8"),
    *("2001:db8::/32", "2001:db8::99", "2001:db8:0:1::/64", "2001::/16", "::/0", "2001:db8:5::/47", UNKNOWN),
)
FOR = (None, "x@r.example", "*%@r.example", "*@q.example")


@pytest.fixture
def desk(services: FakeServices) -> Desk:
    desk = Desk(services, GreySettings(auto_allow=1))
    for client in CLIENTS:
        for sender in SENDERS:
            desk.receive(envelope(sender, *RECIPIENTS, client=client))
    desk.clock.advance(300)
    for client in CLIENTS[::2]:
        desk.receive(envelope("a@s.example", *RECIPIENTS, client=client))
    return desk


def is_meant(target: Target, entry: Entry) -> bool:
    client, sender, recipient = entry.triple.client, entry.triple.sender, entry.triple.recipient
    return (
        entry.record.state in target.states
        and (target.network is None or target.network.overlaps(ip_network(client)))
        and (not target.unknown_client or client == UNKNOWN)
        and (target.sender is None or any(glob(pattern, sender) for pattern in target.senders))
        and (target.recipient is None or glob(target.recipient, recipient))
    )


def test_a_store_finds_what_is_meant_and_counts_it(desk: Desk, services: FakeServices) -> None:
    store, now = open_store(services.state), round(desk.clock.now() * 1000)
    everything = list(store.entries(now))
    assert len(everything) == len(CLIENTS) * len(SENDERS) * len(RECIPIENTS)
    found_some = 0
    for who, recipient in product((*WHO, *WHERE), FOR):
        for states in (frozenset(State), frozenset({State.WAITING})):
            target = replace(parse_target(who, recipient), states=states)
            meant = sorted(entry.digest for entry in everything if is_meant(target, entry))
            assert sorted(entry.digest for entry in store.entries(now, target)) == meant, target
            assert store.count_entries(now, target) == len(meant), target
            found_some += bool(meant)
    assert found_some > 60


def test_a_store_finds_the_networks_that_are_meant(desk: Desk, services: FakeServices) -> None:
    store, now = open_store(services.state), round(desk.clock.now() * 1000)
    everything = {entry.client for entry in store.networks(now)}
    assert everything == {"192.0.2.0/24", "19.20.2.0/24", "2001:db8:0:1::/64", "2001:0:1::/64"}
    for where in WHERE:
        target = parse_target(where, None)
        found = [entry.client for entry in store.networks(now, target)]
        assert len(found) == len(set(found))
        assert set(found) == {client for client in everything if target.matches_client(client)}, where


def test_what_has_expired_is_not_found(desk: Desk, services: FakeServices) -> None:
    store, later = open_store(services.state), round((desk.clock.now() + 37 * 86400) * 1000)
    assert not list(store.entries(later))
    assert store.count_entries(later, EVERYTHING) == 0


def test_entries_may_be_changed_while_they_are_read(desk: Desk, services: FakeServices) -> None:
    store, now = open_store(services.state), round(desk.clock.now() * 1000)
    many = envelope("m@s.example", *(f"u{number}@r.example" for number in range(2500)), client="198.51.100.1")
    desk.receive(many)
    target = replace(parse_target("m@s.example", None), states=frozenset({State.WAITING}))
    assert store.release(entry.digest for entry in store.entries(now, target)) == 2500
    assert store.count_entries(now, target) == 0
    assert store.forget(entry.digest for entry in store.entries(now, parse_target("m@s.example", None))) == 2500
