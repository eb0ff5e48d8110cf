"""The resolver against a real nameserver on loopback: shapes, caching, limits, and DNS in trouble."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import ConfigError, DnsSettings, Duration
from postroom.hookspecs import Answer, LookupFailed
from postroom.services.dns import DnsResolver, canonical_name, parse_nameserver
from postroom.testing import ManualClock
from postroom.testing.nameserver import Behaviour, Nameserver, parse_zone

ZONE = """
; the zone of these tests
example.org        A     192.0.2.1
example.org        AAAA  2001:db8::1
example.org        TXT   v=spf1 mx -all
example.org        MX    10 mx.example.org
example.org        NS    ns.example.org
alias.example.org  CNAME example.org
lost.example.org   CNAME nowhere.example.org
1.2.0.192.in-addr.arpa PTR Host.Example.org
null.example.org   MX    0 .
"""


class RealClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    with Nameserver(ZONE) as server:
        yield server


@pytest.fixture
def resolver(nameserver: Nameserver) -> DnsResolver:
    return DnsResolver(nameserver.settings(), RealClock())


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("A", ("192.0.2.1",)),
        ("AAAA", ("2001:db8::1",)),
        ("TXT", (b"v=spf1 mx -all",)),
        ("MX", ((10, "mx.example.org"),)),
        ("NS", ("ns.example.org",)),
    ],
)
def test_records_have_the_documented_shapes(resolver: DnsResolver, kind: str, records: tuple[object, ...]) -> None:
    answer = resolver.lookup("Example.ORG.", kind)
    assert answer.records == records
    assert answer.exists
    assert answer.ttl == 300


def test_ptr_and_cname_records_are_plain_lower_case_names(resolver: DnsResolver) -> None:
    assert resolver.lookup("1.2.0.192.in-addr.arpa", "PTR").records == ("host.example.org",)
    assert resolver.lookup("alias.example.org", "CNAME").records == ("example.org",)


def test_null_mx_is_the_empty_name(resolver: DnsResolver) -> None:
    assert resolver.lookup("null.example.org", "MX").records == ((0, ""),)


def test_cnames_are_followed(resolver: DnsResolver) -> None:
    assert resolver.lookup("alias.example.org", "A").records == ("192.0.2.1",)
    assert resolver.lookup("lost.example.org", "A").records == ()


def test_no_data_and_no_such_name_differ(resolver: DnsResolver) -> None:
    assert resolver.lookup("mx.example.org", "A").exists is False
    assert resolver.lookup("null.example.org", "A") == Answer(exists=True, ttl=60)


def test_the_strings_of_a_txt_record_are_joined(nameserver: Nameserver, resolver: DnsResolver) -> None:
    long = bytes(range(1, 256)) * 5
    nameserver.zone[("long.example.org", "TXT")] = [long]
    assert resolver.lookup("long.example.org", "TXT").records == (long,)


def test_answers_too_long_for_udp_come_over_tcp(nameserver: Nameserver, resolver: DnsResolver) -> None:
    nameserver.zone[("big.example.org", "TXT")] = [b"x" * 4000]
    assert resolver.lookup("big.example.org", "TXT").records == (b"x" * 4000,)
    assert [transport for _, _, transport in nameserver.asked] == ["udp", "tcp"]


def test_a_truncated_answer_is_asked_again_over_tcp(nameserver: Nameserver, resolver: DnsResolver) -> None:
    nameserver.everything = Behaviour.TRUNCATE
    assert resolver.lookup("example.org", "A").records == ("192.0.2.1",)
    assert nameserver.asked[-1] == ("example.org", "A", "tcp")


def test_the_ad_bit_is_told(nameserver: Nameserver, resolver: DnsResolver) -> None:
    assert resolver.lookup("example.org", "A").authenticated is False
    nameserver.authenticated = True
    assert resolver.lookup("example.org", "MX").authenticated is True
    assert resolver.lookup("nowhere.example.org", "A").authenticated is True


@pytest.mark.parametrize("name", ["example.org", "nowhere.example.org", "null.example.org"])
def test_an_answer_is_remembered_for_its_ttl(nameserver: Nameserver, name: str) -> None:
    clock = ManualClock()
    resolver = DnsResolver(nameserver.settings(), clock)
    first = resolver.lookup(name, "A")
    clock.advance(first.ttl - 1)
    second = resolver.lookup(name.upper(), "A")
    assert (second.records, second.exists, second.ttl) == (first.records, first.exists, 1)
    assert len(nameserver.asked) == 1
    clock.advance(2)
    resolver.lookup(name, "A")
    assert len(nameserver.asked) == 2


def test_negative_answers_are_remembered_no_longer_than_the_cap() -> None:
    clock = ManualClock()
    with Nameserver(negative_ttl=86400, ttl=86400) as nameserver:
        assert DnsResolver(nameserver.settings(), clock).lookup("nowhere.example.org", "A").ttl == 900


def test_the_cache_is_bounded(nameserver: Nameserver) -> None:
    resolver = DnsResolver(nameserver.settings(cache=2), RealClock())
    for name in ("a.example.org", "b.example.org", "c.example.org", "a.example.org"):
        resolver.lookup(name, "A")
    assert [name for name, _, _ in nameserver.asked].count("a.example.org") == 2


def test_without_a_cache_every_question_is_asked(nameserver: Nameserver) -> None:
    resolver = DnsResolver(nameserver.settings(cache=0), RealClock())
    resolver.lookup("example.org", "A")
    resolver.lookup("example.org", "A")
    assert len(nameserver.asked) == 2


@pytest.mark.parametrize("behaviour", [Behaviour.SERVFAIL, Behaviour.REFUSED])
def test_a_server_failure_is_a_failed_lookup_and_remembered_for_seconds(
    nameserver: Nameserver, behaviour: Behaviour
) -> None:
    clock = ManualClock()
    resolver = DnsResolver(nameserver.settings(), clock)
    nameserver.everything = behaviour
    for _ in range(2):
        with pytest.raises(LookupFailed):
            resolver.lookup("example.org", "A")
    assert len(nameserver.asked) == 1
    nameserver.everything = Behaviour.ANSWER
    clock.advance(6)
    assert resolver.lookup("example.org", "A").records


def test_a_silent_server_costs_the_time_limit_and_no_more(nameserver: Nameserver) -> None:
    nameserver.everything = Behaviour.SILENCE
    resolver = DnsResolver(nameserver.settings(timeout=10), RealClock())
    begun = time.monotonic()
    with pytest.raises(LookupFailed):
        resolver.lookup("example.org", "A", timeout=0.3)
    assert 0.2 < time.monotonic() - begun < 8
    nameserver.everything = Behaviour.ANSWER
    assert resolver.lookup("example.org", "A").records  # a time-out is not remembered


def test_a_caller_cannot_wait_longer_than_the_setting(nameserver: Nameserver) -> None:
    nameserver.everything = Behaviour.SILENCE
    resolver = DnsResolver(nameserver.settings(timeout=0.2), RealClock())
    begun = time.monotonic()
    with pytest.raises(LookupFailed):
        resolver.lookup("example.org", "A", timeout=30)
    assert time.monotonic() - begun < 20


def test_no_time_left_is_a_failed_lookup_and_asks_nobody(nameserver: Nameserver, resolver: DnsResolver) -> None:
    with pytest.raises(LookupFailed):
        resolver.lookup("example.org", "A", timeout=0)
    assert nameserver.asked == []


def test_a_dead_nameserver_is_a_failed_lookup() -> None:
    with Nameserver() as nameserver:
        settings = nameserver.settings(timeout=0.5)
    with pytest.raises(LookupFailed):
        DnsResolver(settings, RealClock()).lookup("example.org", "A")


def test_the_next_nameserver_is_asked_when_the_first_fails(nameserver: Nameserver) -> None:
    with Nameserver(everything=Behaviour.SERVFAIL) as broken:
        settings = DnsSettings(nameservers=(broken.address, nameserver.address), timeout=Duration(20))
        assert DnsResolver(settings, RealClock()).lookup("example.org", "A").records == ("192.0.2.1",)


def test_many_threads_with_one_question_make_one_query(nameserver: Nameserver) -> None:
    nameserver.everything = Behaviour.SILENCE
    resolver = DnsResolver(nameserver.settings(timeout=30), RealClock())
    together = threading.Barrier(8)

    def ask(_: int) -> Answer:
        together.wait()
        return resolver.lookup("example.org", "A")

    with ThreadPoolExecutor(8) as threads:
        asked = threads.map(ask, range(8))
        deadline = time.monotonic() + 30
        while not nameserver.asked and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(nameserver.asked) == 1  # all eight ask by now, and the answer is still out
        nameserver.everything = Behaviour.ANSWER  # the retry gets it
        assert {answer.records for answer in asked} == {("192.0.2.1",)}
    assert len(nameserver.asked) == 2


def test_who_waits_does_not_inherit_a_hurried_callers_time_out(nameserver: Nameserver) -> None:
    nameserver.everything = Behaviour.SILENCE
    resolver = DnsResolver(nameserver.settings(timeout=8), RealClock())
    with ThreadPoolExecutor(2) as threads:
        hurried = threads.submit(resolver.lookup, "example.org", "A", 0.3)
        deadline = time.monotonic() + 30
        while not nameserver.asked and time.monotonic() < deadline:
            time.sleep(0.01)
        patient = threads.submit(resolver.lookup, "example.org", "A", 8)
        with pytest.raises(LookupFailed):
            hurried.result(5)
        nameserver.everything = Behaviour.ANSWER
        assert patient.result(8).records == ("192.0.2.1",)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", ".example.org", "x" * 64 + ".org", ".".join(["x" * 60] * 5), "\udcff.example.org", "é" * 80],
)
def test_an_absurd_name_does_not_exist_and_is_not_asked(
    nameserver: Nameserver, resolver: DnsResolver, name: str
) -> None:
    assert resolver.lookup(name, "A").exists is False
    assert nameserver.asked == []


@pytest.mark.parametrize("name", ["a b.example.org", "\\.example.org", "[192.0.2.1]", "a\0b.example.org", '"x".org'])
def test_an_odd_name_does_not_exist(resolver: DnsResolver, name: str) -> None:
    assert resolver.lookup(name, "A").exists is False


def test_u_labels_are_asked_as_a_labels(nameserver: Nameserver, resolver: DnsResolver) -> None:
    nameserver.zone[("xn--bcher-kva.example", "A")] = ["192.0.2.9"]
    assert resolver.lookup("Bücher.example", "A").records == ("192.0.2.9",)


@given(st.text(max_size=300))
def test_a_canonical_name_fits_into_a_question(name: str) -> None:
    plain = canonical_name(name)
    if plain is not None:
        assert plain.isascii()
        assert len(plain) <= 253
        assert all(0 < len(label) <= 63 for label in plain.split("."))


def test_an_unknown_kind_is_the_callers_fault(resolver: DnsResolver) -> None:
    with pytest.raises(ValueError, match="TXT"):
        resolver.lookup("example.org", "AXFR")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
    ],
)
def test_nameservers_are_addresses_with_ports(text: str, expected: tuple[str, int]) -> None:
    assert parse_nameserver(text) == expected


@pytest.mark.parametrize(
    "text", ["", "ns.example.org", "ns.example.org:53", "192.0.2.53:0", "192.0.2.53:x", "::1:99999x"]
)
def test_a_wrong_nameserver_is_named_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[dns\]: nameservers: .*write"):
        DnsResolver(DnsSettings(nameservers=(text,)), ManualClock())


def test_a_hit_in_the_cache_costs_a_fraction_of_a_query(nameserver: Nameserver, resolver: DnsResolver) -> None:
    def best(rounds: int, *names: str) -> float:
        found = []
        for _ in range(rounds):
            begun = time.perf_counter()
            for name in names:
                resolver.lookup(name, "A")
            found.append((time.perf_counter() - begun) / len(names))
        return min(found)

    asked = best(1, *(f"n{number}.example.org" for number in range(50)))
    known = best(20, *["n1.example.org"] * 100)
    assert len(nameserver.asked) == 50
    assert known < asked / 3


def test_a_zone_line_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_zone("a.example A 192.0.2.1\nb.example A\n")


def test_a_chain_of_cnames_across_answers_is_followed_and_a_loop_ends() -> None:
    zone = {(f"c{n}.example.org", "CNAME"): [f"c{n + 1}.example.org"] for n in range(14)}
    zone["c14.example.org", "A"] = ["192.0.2.7"]
    zone["loop.example.org", "CNAME"] = ["loop.example.org"]
    with Nameserver(zone) as nameserver:
        resolver = DnsResolver(nameserver.settings(), RealClock())
        assert resolver.lookup("c0.example.org", "A").records == ("192.0.2.7",)
        with pytest.raises(LookupFailed):
            resolver.lookup("loop.example.org", "A")
