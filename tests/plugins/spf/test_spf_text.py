"""Macros and record text, as pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom_spf.macros import MacroError, domain_name, expand
from postroom_spf.record import RecordError, check_rules, normalise, splice

VALUES = {
    "s": "strong-bad@email.example.com",
    "l": "strong-bad",
    "o": "email.example.com",
    "d": "email.example.com",
    "i": "192.0.2.3",
    "v": "in-addr",
    "h": "mx.example.org",
    "c": "192.0.2.3",
    "r": "mx.receiver.example",
    "t": "1700000000",
    "p": "unknown",
}


def filled(text: str, *, explanation: bool = False) -> str:
    return expand(text, VALUES.__getitem__, explanation=explanation)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # RFC 7208 7.4
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ("%%%_%-", "% %20"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%{D2R}", "example.email"),
        ("%{d" + "9" * 50 + "}", "email.example.com"),
        ("%{s.-}", "strong.bad@email.example.com"),
    ],
)
def test_macros_expand_as_the_standard_shows(text: str, expected: str) -> None:
    assert filled(text) == expected


@pytest.mark.parametrize(
    "text", ["%", "%x", "%{", "%{}", "%{z}", "%{d0}", "%{d2", "%{dx}", "%{c}", "%{ d}", "a b", "é"]
)
def test_what_is_no_macro_string_is_named(text: str) -> None:
    with pytest.raises(MacroError):
        filled(text)


def test_explanations_may_have_blanks_and_more_letters() -> None:
    assert filled("%{c} by %{r} at %{t}", explanation=True) == "192.0.2.3 by mx.receiver.example at 1700000000"


def test_names_lose_whole_labels_until_they_fit() -> None:
    assert domain_name(".".join(["abc"] * 100) + ".") == ".".join(["abc"] * 63)


@given(st.text(max_size=60), st.booleans())
def test_expanding_raises_nothing_else(text: str, explanation: bool) -> None:
    try:
        assert isinstance(filled(text, explanation=explanation), str)
    except MacroError:
        pass


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("v=spf1", "v=spf1 mx"),
        ("v=spf1 a", "v=spf1 a mx"),
        ("v=spf1 a -all", "v=spf1 a mx -all"),
        ("v=spf1 a ALL b", "v=spf1 a mx ALL b"),
        ("v=spf1 redirect=x.example", "v=spf1 redirect=x.example"),
        ("v=spf1 redirect=x.example ?all", "v=spf1 redirect=x.example mx ?all"),
    ],
)
def test_rules_go_before_all(record: str, expected: str) -> None:
    assert splice(record, "mx") == expected


def test_a_record_is_normalised() -> None:
    assert normalise("v=spf1  A  Redirect=X.example EXP=y.example moo=1 moo=%{d} ") == (
        "v=spf1 A redirect=X.example exp=y.example"
    )
    for broken in ("v=spf1 moo=%{", "v=spf1 a:" + "x" * 600, "v=spf1 " + "a " * 9000):
        with pytest.raises(RecordError):
            normalise(broken)


@pytest.mark.parametrize(
    "rules",
    [
        "include:spf.example.org a:mail.example.org/28//64 mx ?ip4:192.0.2.0/24 ip6:2001:db8::/32 ptr:x.org",
        "exists:%{ir}.list.example.org +a/24 ~mx//48",
        "",
    ],
)
def test_good_rules_are_kept(rules: str) -> None:
    assert check_rules(rules, alone=False) == rules
    assert check_rules("v=spf1  " + rules.replace(" ", "  "), alone=True) == rules
