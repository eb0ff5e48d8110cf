"""The Authentication-Results field: what we write, what we read, and what claims our name."""

from __future__ import annotations

import authres
import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.authentication_results import NAME, claims, find_ours, format_value, parse_value, without_forged
from postroom.mail import AuthenticationResult, Field

OURS = "mx.example.org"


def test_format_with_folds() -> None:
    value = format_value(
        OURS,
        [
            AuthenticationResult("spf", "pass", (("smtp.mailfrom", "a@b.example"), ("smtp.helo", "h"))),
            AuthenticationResult("dkim", "fail", (("header.b", "ab/c=="),), 'bad "signature"'),
        ],
    )
    assert value == (
        b" mx.example.org;\r\n\tspf=pass smtp.mailfrom=a@b.example smtp.helo=h;\r\n\t"
        b'dkim=fail reason="bad \\"signature\\"" header.b="ab/c=="'
    )


def test_no_results_at_all() -> None:
    assert format_value(OURS, []) == b" mx.example.org;\r\n\tnone"
    assert parse_value(b" mx.example.org; none") is not None


texts = st.text(max_size=40)
results = st.builds(
    AuthenticationResult,
    st.sampled_from(["spf", "dkim", "dmarc"]),
    st.sampled_from(["pass", "fail", "none"]),
    st.lists(st.tuples(st.sampled_from(["smtp.mailfrom", "header.i", "policy.iprev"]), texts), max_size=3).map(tuple),
    texts,
)


@given(st.lists(results, min_size=1, max_size=3))
def test_nothing_in_a_result_can_break_out(found: list[AuthenticationResult]) -> None:
    value = format_value(OURS, found)
    lines = value.split(b"\r\n")
    assert all(line[:1] in (b" ", b"\t") for line in lines)
    assert not any(octet < 32 and octet != 9 for line in lines for octet in line)
    parsed = parse_value(value)
    assert parsed is not None
    assert parsed.authserv_id == OURS
    assert [(each.method, each.result) for each in parsed.results] == [(each.method, each.result) for each in found]
    assert [len(each.properties) for each in parsed.results] == [len(each.properties) for each in found]


def test_the_reference_parser_reads_what_we_write() -> None:
    value = format_value(
        OURS,
        [
            AuthenticationResult("spf", "softfail", (("smtp.mailfrom", "a b@x.example"),), "not listed; maybe"),
            AuthenticationResult("dkim", "pass", (("header.d", "x.example"), ("header.b", "a/b=="))),
        ],
    )
    header = authres.AuthenticationResultsHeader.parse(f"Authentication-Results:{value.decode()}")
    assert header.authserv_id == OURS
    assert [(each.method, each.result) for each in header.results] == [("spf", "softfail"), ("dkim", "pass")]
    assert header.results[1].properties[0].value == "x.example"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" mx.example.org; spf=pass", True),
        (b" MX.Example.ORG; spf=pass", True),
        (b" (comment) mx.example.org (nested (one)) 1; spf=pass", True),
        (b'\r\n\t"mx.example.org" ; spf=pass', True),
        (b" mx.example.org", True),
        (b" mx.example.org.; spf=pass", True),
        (b" (unclosed mx.example.org; spf=pass", True),  # unreadable, but it names us
        (b" other.example; spf=pass (mx.example.org)", False),
        (b" mx.example.org.evil.example; spf=pass", False),
        (b" mx.example.org-evil.example; spf=pass", False),
        (b" mx.example.organic; spf=pass", False),
        (b" mx.example.org/1; spf=pass", True),  # malformed, but a reader that is not strict takes it for ours
        (b" mx.example(x).org; spf=pass", True),
        (b" mx . example . org 1; spf=pass", True),
        (b" mx.example\r\n .org; spf=pass", True),
        (b" =mx.example.org; spf=pass", True),
        (b" \xff\xfe; spf=pass", False),
        (b"", False),
        (b" ; spf=pass", False),
    ],
)
def test_who_claims_our_name(value: bytes, expected: bool) -> None:
    assert claims(value, OURS) is expected


def test_only_forged_fields_go() -> None:
    came = (
        Field(b"authentication-results", b" mx.example.org; spf=pass", 0),
        Field(b"Authentication-Results ", b" mx.example.org; spf=pass", 1),
        Field(NAME, b" other.example; spf=pass", 2),
        Field(b"Subject", b" mx.example.org", 3),
    )
    assert without_forged(came, OURS) == came[2:]


def test_ours_are_read_back() -> None:
    fields = (
        Field(NAME, b' mx.example.org; spf=pass (ok) smtp.mailfrom=a@b;\r\n dkim/1=fail reason="no \\"key\\""'),
        Field(NAME, b" other.example; spf=fail"),
    )
    assert find_ours(fields, OURS) == (
        AuthenticationResult("spf", "pass", (("smtp.mailfrom", "a@b"),)),
        AuthenticationResult("dkim", "fail", (), 'no "key"'),
    )


@pytest.mark.parametrize("value", [b"", b" ; spf=pass", b" spf=pass", b" a.example; spf", b" a.example; =pass", b" (x"])
def test_malformed_values(value: bytes) -> None:
    assert parse_value(value) is None


@given(st.binary(max_size=100))
def test_any_octets_are_read_without_an_exception(value: bytes) -> None:
    parse_value(value)
    claims(value, OURS)
