"""Patterns and the forms in which senders and clients are compared."""

from __future__ import annotations

import re
import time
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.lists.patterns import InvalidPattern, Kind, Pattern, PatternList, client_address, glob, parse_pattern
from postroom.mail import Address
from postroom.testing import session
from postroom_grey.client import UNKNOWN, identity
from postroom_grey.sender import normalised
from postroom_grey.settings import GreySettings
from postroom_grey.store import shown


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Alice@Example.ORG", Pattern(Kind.SENDER, "alice@example.org")),
        ("*@bücher.example", Pattern(Kind.SENDER, "*@xn--bcher-kva.example")),
        ("*@*.bücher.example", Pattern(Kind.SENDER, "*@*.xn--bcher-kva.example")),
        ("<>", Pattern(Kind.SENDER, "<>")),
        ("192.0.2.1", Pattern(Kind.CLIENT, "192.0.2.1/32")),
        ("192.0.2.1/24", Pattern(Kind.CLIENT, "192.0.2.0/24")),
        ("2001:db8::1/32", Pattern(Kind.CLIENT, "2001:db8::/32")),
        ("*.Pool.Example.", Pattern(Kind.NAME, "*.pool.example")),
    ],
)
def test_the_form_tells_what_a_pattern_is_about(text: str, pattern: Pattern) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize("text", ["", "*", "a b@c", "a@", "1.2.3", "300.1.1.1", "x" * 321, "na me", "a@b,c@d", "x;y"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidPattern):
        parse_pattern(text)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_a_star_stands_for_any_run(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert glob(pattern, text) is expected


def test_many_stars_cost_no_more_than_few() -> None:
    begun = time.perf_counter()
    assert not glob("*a" * 100 + "b", "a" * 100_000)
    assert time.perf_counter() - begun < 10  # tried one after the other, they would cost hours


@given(st.lists(st.text("ab*", min_size=1, max_size=5), max_size=6), st.text("ab", max_size=6))
def test_the_index_finds_what_one_by_one_finds(patterns: list[str], text: str) -> None:
    listed = PatternList.of(Pattern(Kind.NAME, pattern) for pattern in patterns)
    expected = bool(text) and any(glob(pattern, text) for pattern in patterns)
    assert (listed.match_name(text) is not None) is expected


def test_networks_match_by_longest_or_shortest_prefix_alike() -> None:
    listed = PatternList.of(map(parse_pattern, ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]))
    for inside in ("192.0.2.200", "198.51.100.7", "2001:db8:1::1"):
        assert listed.match_client(ip_address(inside)) is not None
    for outside in ("192.0.3.1", "198.51.100.8", "2001:db9::1", "::192.0.2.1"):
        assert listed.match_client(ip_address(outside)) is None
    assert listed.match_client(None) is None


def test_thousands_of_patterns_are_asked_quickly() -> None:
    listed = PatternList.of(
        parse_pattern(text)
        for number in range(5000)
        for text in (
            f"*@d{number}.example",
            f"u{number}@x.example",
            f"*a{number}*@y.example",
            f"10.{number % 250}.0.0/16",
        )
    )
    sender, client = Address("somebody@elsewhere.example"), ip_address("192.0.2.1")
    listed.match_sender(sender)
    rounds = []
    for _ in range(20):
        begun = time.process_time()
        assert listed.match_sender(sender) is None
        assert listed.match_client(client) is None
        rounds.append(time.process_time() - begun)
    assert min(rounds) < 0.1  # the quickest: what a busy machine adds is no cost of ours


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bounce-123-bob=example.net@list.example", "bounce-99987-bob=example.net@list.example"),
        ("owner+bob=example.net@list.example", "owner+x@list.example"),
        ("SRS0=HHH1=TT=example.org=alice@fwd.example", "SRS0=abcd=XY=example.org=alice@fwd.example"),
        (
            "SRS1=HH=f.example==H1=T1=example.org=alice@g.example",
            "srs1=JJ=f.example==H2=T2=example.org=alice@g.example",
        ),
        ("prvs=1234abcdef=alice@example.org", "alice@example.org"),
        ("btv1==0123abc==alice@example.org", "alice@example.org"),
        (
            "0102018f3c2a7b1c-abcdefab-1111-2222-aaaa-bbbbccccdddd-000000@amazonses.example",
            "0102018f3c2aaaaa-9999abcd-0000-3333-dddd-0123456789ab-000000@amazonses.example",
        ),
        ("Alice@Example.ORG", "alice@example.org"),
    ],
)
def test_senders_that_differ_in_a_tag_are_one(one: str, other: str) -> None:
    assert normalised(Address(one), strip_tags=True) == normalised(Address(other), strip_tags=True)


def test_without_stripping_only_the_case_does_not_count() -> None:
    assert normalised(Address("Bounce-1@List.example"), strip_tags=False) == "bounce-1@list.example"
    assert normalised(Address("bounce-2@list.example"), strip_tags=False) == "bounce-2@list.example"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alice@example.org", "bob@example.org"),
        ("alice@example.org", "alice@example.net"),
        ("SRS0=a=b=example.org=alice@f.example", "SRS0=a=b=example.org=bob@f.example"),
        ("", "alice@example.org"),
    ],
)
def test_different_senders_stay_different(one: str, other: str) -> None:
    assert normalised(Address(one), strip_tags=True) != normalised(Address(other), strip_tags=True)


@given(st.text(max_size=100))
def test_any_sender_has_a_form(text: str) -> None:
    assert normalised(Address(text), strip_tags=True) or text


@pytest.mark.parametrize(
    ("client", "prefixes", "expected"),
    [
        ("203.0.113.9", (24, 64), "203.0.113.0/24"),
        ("203.0.113.9", (32, 64), "203.0.113.9/32"),
        ("2001:db8:1:2:3::4", (24, 64), "2001:db8:1:2::/64"),
        ("2001:db8::4", (24, 128), "2001:db8::4/128"),
        ("::ffff:203.0.113.9", (24, 64), "203.0.113.0/24"),
        (None, (24, 64), UNKNOWN),
    ],
)
def test_a_client_is_known_by_its_network(client: str | None, prefixes: tuple[int, int], expected: str) -> None:
    settings = GreySettings(ipv4_prefix=prefixes[0], ipv6_prefix=prefixes[1])
    assert identity(client_address(session(client)), settings) == expected


def test_what_peers_send_is_kept_printable_and_short() -> None:
    assert shown("a\x1b[2J\udcff@b") == "a\\x1b[2J\\xff@b"
    assert len(shown("x" * 10_000)) == 320
