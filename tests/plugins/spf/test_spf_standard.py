"""Where pyspf and RFC 7208 part and the published suite is silent, and what an adversary may publish."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugins.spf.spf_desk import CLIENT, Desk, Zone
from postroom.hookspecs import LookupFailed
from postroom.testing import envelope
from postroom_spf.result import Identity, SpfResult

SIX = "2001:db8::5"
POINTER = "5.113.0.203.in-addr.arpa"


@pytest.mark.parametrize("record", ["v=spf1 REDIRECT=_spf.sender.example", "V=SPF1 Redirect=_spf.sender.example"])
def test_modifier_names_have_no_case(desk: Desk, record: str) -> None:
    desk.zone(
        {
            ("sender.example", "TXT"): (record.encode(),),
            ("_spf.sender.example", "TXT"): (b"v=spf1 ip4:203.0.113.5 -all",),
        }
    )
    assert desk.check().result is SpfResult.PASS


def test_unknown_modifiers_are_ignored_however_often(desk: Desk) -> None:
    desk.policy("v=spf1 moo=a moo=b MOO=%{d} ip4:203.0.113.5 -all")
    assert desk.check().result is SpfResult.PASS


@pytest.mark.parametrize(
    "term", ["moo=%{q}", "moo=%", "moo=a\tb", "redirect=a.example redirect=b.example", "exp=", "a=b c"]
)
def test_broken_modifiers_are_permanent_errors(desk: Desk, term: str) -> None:
    desk.policy(f"v=spf1 ip4:203.0.113.5 {term} -all")
    assert desk.check().result is SpfResult.PERMERROR


def test_a_redirect_counts_only_when_it_is_followed(desk: Desk) -> None:
    ten = " ".join(f"exists:x{n}.example" for n in range(9))
    desk.zone(
        {
            ("sender.example", "TXT"): (f"v=spf1 {ten} a redirect=_spf.sender.example".encode(),),
            ("sender.example", "A"): (CLIENT,),
        }
    )
    assert desk.check(void_lookups=10).result is SpfResult.PASS


def test_a_redirect_that_is_followed_counts(desk: Desk) -> None:
    zone: dict[tuple[str, str], tuple[bytes | str, ...]] = {
        (f"r{n}.example", "TXT"): (f"v=spf1 redirect=r{n + 1}.example".encode(),) for n in range(12)
    }
    zone["r10.example", "TXT"] = (b"v=spf1 ip4:203.0.113.5 -all",)
    desk.zone(zone)
    assert desk.check(envelope("a@r0.example")).result is SpfResult.PASS  # ten
    zone["r10.example", "TXT"] = (b"v=spf1 redirect=r11.example",)
    zone["r11.example", "TXT"] = (b"v=spf1 ip4:203.0.113.5 -all",)
    desk.zone(zone)
    assert desk.check(envelope("a@r0.example")).result is SpfResult.PERMERROR  # eleven


def test_a_circle_of_redirects_or_includes_ends(desk: Desk) -> None:
    for record in ("v=spf1 redirect=other.example", "v=spf1 include:other.example -all"):
        desk.zone(
            {
                ("sender.example", "TXT"): (record.encode(),),
                ("other.example", "TXT"): (record.replace("other", "sender").encode(),),
            }
        )
        assert desk.check().result is SpfResult.PERMERROR


def test_the_hosts_of_one_mx_without_addresses_are_one_void_lookup(desk: Desk) -> None:
    hosts = tuple((10, f"mx{n}.sender.example") for n in range(4))
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 mx ip6:2001:db8::/32 -all",),
            ("sender.example", "MX"): hosts,
            **{(name, "A"): ("192.0.2.1",) for _, name in hosts},
        }
    )
    assert desk.check(envelope(client=SIX)).result is SpfResult.PASS


def test_three_terms_without_records_are_too_many_by_default(desk: Desk) -> None:
    desk.policy("v=spf1 a:x.example a:y.example a:z.example ip4:203.0.113.5 -all")
    assert desk.check().result is SpfResult.PERMERROR
    assert desk.check(void_lookups=3).result is SpfResult.PASS


def test_dns_trouble_with_the_clients_own_name_is_no_match(desk: Desk) -> None:
    desk.zone({("sender.example", "TXT"): (b"v=spf1 ptr -all",), (POINTER, "PTR"): LookupFailed("no answer")})
    assert desk.check().result is SpfResult.FAIL


def test_dns_trouble_with_one_of_the_clients_names_skips_that_name(desk: Desk) -> None:
    zone: Zone = {
        ("sender.example", "TXT"): (b"v=spf1 ptr -all",),
        (POINTER, "PTR"): ("broken.example", "Mail.Sender.Example"),
        ("broken.example", "A"): LookupFailed("no answer"),
        ("mail.sender.example", "A"): (CLIENT,),
    }
    desk.zone(zone)
    assert desk.check().result is SpfResult.PASS


def test_only_ten_names_of_a_client_are_looked_at(desk: Desk) -> None:
    names = tuple(f"n{n}.sender.example" for n in range(500))
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 ptr -all",),
            (POINTER, "PTR"): names,
            ("n11.sender.example", "A"): (CLIENT,),
        }
    )
    assert desk.check().result is SpfResult.FAIL
    assert len(desk.resolver.asked) == 12


def test_a_macro_name_that_is_too_long_loses_labels_until_it_fits(desk: Desk) -> None:
    local = ".".join(["abcdefghi"] * 30)
    desk.policy("v=spf1 exists:%{l}.%{d} -all")
    desk.check(envelope(f"{local}@sender.example"))
    (asked,) = {name for name, kind in desk.resolver.asked if kind == "A"}
    assert len(asked) <= 253
    assert asked.endswith(".abcdefghi.sender.example")


def test_the_explanation_is_fetched_only_for_fail(desk: Desk) -> None:
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 ip4:203.0.113.5 exp=why.sender.example -all",),
            ("why.sender.example", "TXT"): (b"%{c} is not ours",),
        }
    )
    assert desk.check().result is SpfResult.PASS
    assert ("why.sender.example", "TXT") not in desk.resolver.asked
    assert desk.check(envelope(client="198.51.100.7")).explanation == "198.51.100.7 is not ours"


def test_a_long_explanation_keeps_its_beginning(desk: Desk) -> None:
    words = "See our page. " + "It is long. " * 30
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 -all exp=why.sender.example",),
            ("why.sender.example", "TXT"): (words.encode(),),
        }
    )
    explanation = desk.check().explanation
    assert explanation.startswith("See our page.")
    assert len(explanation) == 300


def test_the_sender_cannot_put_macros_into_the_record(desk: Desk) -> None:
    desk.policy("v=spf1 exists:%{l}.x.example -all")
    assert desk.check(envelope("%{i}@sender.example")).result is SpfResult.FAIL
    assert ("%{i}.x.example", "A") in desk.resolver.asked


@pytest.mark.parametrize(
    "sender",
    [
        "user@[192.0.2.1]",
        "user@[IPv6:2001:db8::1]",
        "user@192.0.2.1",
        "user@localhost",
        "user@",
        "user",
        "user@a b.example",
        'user@"x".example',
        "user@.example",
        "user@a..example",
        "user@" + "x" * 64 + ".example",
        "user@" + ".".join(["x" * 60] * 5),
        "user@%{d}.example",
        "user@\udcff.example",
        "user@ex\u00adample\u202e.example",
    ],
)
def test_a_domain_that_dns_cannot_know_is_none_without_a_question(desk: Desk, sender: str) -> None:
    assert desk.check(envelope(sender)).result is SpfResult.NONE
    assert desk.resolver.asked == []


def test_u_labels_are_checked_as_a_labels(desk: Desk) -> None:
    desk.policy("v=spf1 -all", "xn--bcher-kva.example")
    finding = desk.check(envelope("a@Bücher.example"))
    assert (finding.result, finding.domain) == (SpfResult.FAIL, "xn--bcher-kva.example")


@pytest.mark.parametrize("local", ["jürgen", "\udcff\udcfe", "a\0b", "a b", "a\r\nb"])
def test_a_local_part_that_dns_cannot_hold_matches_nothing(desk: Desk, local: str) -> None:
    desk.policy("v=spf1 exists:%{L}.%{l}.x.example ip4:203.0.113.5 -all")
    assert desk.check(envelope(f"{local}@sender.example")).result is SpfResult.PASS


def test_addresses_in_their_ipv6_mapping_are_ipv4(desk: Desk) -> None:
    desk.policy("v=spf1 ip4:203.0.113.5 -all")
    assert desk.check(envelope(client="::ffff:203.0.113.5")).result is SpfResult.PASS


def test_an_empty_local_part_is_postmaster(desk: Desk) -> None:
    desk.policy("v=spf1 exists:%{l}.x.example -all")
    desk.check(envelope("@sender.example"))
    assert ("postmaster.x.example", "A") in desk.resolver.asked


def test_the_null_sender_is_postmaster_of_helo(desk: Desk) -> None:
    desk.policy("v=spf1 exists:%{s}.x.example -all", "client.example")
    finding = desk.check(envelope(""))
    assert (finding.result, finding.identity, finding.domain) == (SpfResult.FAIL, Identity.HELO, "client.example")
    assert ("postmaster@client.example.x.example", "A") in desk.resolver.asked


MONSTERS = {
    "a long label": "v=spf1 a:" + "a" * 60000 + "!",
    "many dots and a broken macro": "v=spf1 a:" + "." * 60000 + "%",
    "a macro of many dots": "v=spf1 a:%{d" + "." * 60000 + "}.example",
    "a huge number": "v=spf1 a:%{d" + "9" * 60000 + "}.example",
    "a huge prefix": "v=spf1 a/" + "9" * 60000,
    "many networks": "v=spf1 " + "ip4:192.0.2.1 " * 4500 + "-all",
    "many unknown modifiers": "v=spf1 " + "a=b " * 15000 + "-all",
    "many blanks": "v=spf1 " + " " * 60000 + "-all",
}


@pytest.mark.parametrize("name", MONSTERS)
def test_a_monstrous_record_costs_little_and_breaks_nothing(desk: Desk, name: str) -> None:
    desk.policy(MONSTERS[name])
    begun = time.perf_counter()
    assert desk.check().result in (SpfResult.PERMERROR, SpfResult.FAIL)
    assert time.perf_counter() - begun < 10


def test_the_largest_record_allowed_is_quick_enough(desk: Desk) -> None:
    for term in ("a:" + "a" * 500 + "!", "ip4:192.0.2.1", "%" * 500):
        desk.policy("v=spf1 " + " ".join([term] * (16000 // (len(term) + 1))))
        begun = time.perf_counter()
        desk.check()
        assert time.perf_counter() - begun < 20


TERMS = st.one_of(
    st.sampled_from(
        ["all", "-all", "a", "mx", "ptr", "a/24", "mx//64", "include:b.example", "redirect=b.example", "exp=b.example"]
    ),
    st.text(alphabet="aipnclude4:6/%{}.-~?+=xdrlsoh0123456789 \t\0é", max_size=30),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(terms=st.lists(TERMS, max_size=6), sender=st.text(max_size=30), helo=st.text(max_size=20))
def test_no_record_and_no_name_raises(tmp_path: Path, terms: list[str], sender: str, helo: str) -> None:
    desk = Desk(tmp_path)
    record = ("v=spf1 " + " ".join(terms)).encode()
    desk.zone(
        {
            ("sender.example", "TXT"): (record,),
            ("b.example", "TXT"): (record,),
            ("sender.example", "A"): ("192.0.2.1",),
            ("sender.example", "MX"): ((10, "sender.example"),),
            (POINTER, "PTR"): ("sender.example",),
        }
    )
    for mail in (envelope(f"{sender}@sender.example", helo=helo), envelope(sender, helo="sender.example")):
        assert isinstance(desk.check(mail).result, SpfResult)
