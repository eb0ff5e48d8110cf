"""Canonical forms: the standard's example, dkimpy's octets, and time in proportion."""

from __future__ import annotations

import time

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st
from postroom_dk.canonical import (
    BodyCanonicalizer,
    Canonicalization,
    canonical_body,
    canonical_field,
    select,
    without_signature,
)

PIECES = st.sampled_from([b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"b c", b"  ", b"\r\n\r\n", b"\xff", b"\0"])
BODIES = st.lists(PIECES, max_size=24).map(b"".join)


@pytest.mark.parametrize(
    ("form", "theirs"), [(Canonicalization.SIMPLE, Simple), (Canonicalization.RELAXED, Relaxed)], ids=str
)
@given(chunks=st.lists(BODIES, max_size=5))
def test_any_body_in_any_chunks_is_canonical_as_dkimpy_has_it(
    form: Canonicalization, theirs: type[Relaxed], chunks: list[bytes]
) -> None:
    body = b"".join(chunks)
    if body.endswith((b" ", b"\t")):  # without a line end dkimpy takes these blanks for content
        body += b"\r\n"
    assert canonical_body(chunks, form) == theirs.canonicalize_body(body)


@pytest.mark.parametrize(
    ("form", "theirs"), [(Canonicalization.SIMPLE, Simple), (Canonicalization.RELAXED, Relaxed)], ids=str
)
@given(name=st.sampled_from([b"Subject", b"SUBJECT ", b"x\t"]), value=BODIES)
def test_any_field_is_canonical_as_dkimpy_has_it(
    form: Canonicalization, theirs: type[Relaxed], name: bytes, value: bytes
) -> None:
    ((their_name, their_value),) = theirs.canonicalize_headers([(name, value + b"\r\n")])
    assert canonical_field((name, value + b"\r\n"), form) == their_name + b":" + their_value


def test_the_standards_example() -> None:  # RFC 6376 3.4.5
    fields = [(b"A", b" X\r\n"), (b"B ", b" Y\t\r\n\tZ  \r\n")]
    body = b" C \r\nD \t E\r\n\r\n\r\n"
    assert [canonical_field(found, Canonicalization.RELAXED) for found in fields] == [b"a:X\r\n", b"b:Y Z\r\n"]
    assert [canonical_field(found, Canonicalization.SIMPLE) for found in fields] == [
        b"A: X\r\n",
        b"B : Y\t\r\n\tZ  \r\n",
    ]
    assert canonical_body([body], Canonicalization.RELAXED) == b" C\r\nD E\r\n"
    assert canonical_body([body], Canonicalization.SIMPLE) == b" C \r\nD \t E\r\n"


@pytest.mark.parametrize("form", list(Canonicalization))
@pytest.mark.parametrize("body", [b"a \t", b"a\r\n  ", b"a\r\n\r\n\t", b"a", b" ", b""])
def test_a_line_end_that_a_server_adds_changes_nothing(form: Canonicalization, body: bytes) -> None:
    """RFC 6376 3.4.3, 3.4.4: a body without one at its end is taken as if it had it, blanks before it and all."""
    assert canonical_body([body], form) == canonical_body([body + b"\r\n"], form)


@pytest.mark.parametrize("body", [b"a" + b" " * 4_000_000 + b"b\r\n", b"\r\n" * 2_000_000 + b"x", b"\r" * 2_000_000])
def test_blank_and_empty_bodies_cost_time_in_proportion(body: bytes) -> None:
    started = time.process_time()
    canonicalizer = BodyCanonicalizer(Canonicalization.RELAXED, lambda octets: None)
    for start in range(0, len(body), 65536):
        canonicalizer.update(body[start : start + 65536])
    canonicalizer.finish()
    assert time.process_time() - started < 10  # a quadratic form takes minutes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" v=1; b=abc", b" v=1; b="),
        (b" v=1; bh=b=; b=ab\r\n c ; d=x", b" v=1; bh=b=; b=; d=x"),
        (b"b = abc=;", b"b =;"),
        (b" v=1; bb=1", b" v=1; bb=1"),
    ],
)
def test_the_value_of_b_is_taken_out(value: bytes, expected: bytes) -> None:
    assert without_signature(value) == expected


def test_fields_are_selected_from_the_bottom() -> None:
    fields = [(b"From", b"1"), (b"To", b"2"), (b"from ", b"3")]
    assert select(fields, [b"from", b"from", b"from", b"cc", b"to"]) == [2, 0, 1]
