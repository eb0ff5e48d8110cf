"""Mails keep their octets; edits give the mail that they say."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.mail import (
    AddField,
    Address,
    Body,
    BodyCollector,
    Field,
    InsertField,
    Message,
    RemoveField,
    ReplaceBody,
    ReplaceField,
    address_from_wire,
    header_value,
    parse_message,
    to_a_label,
)

RAW = b"Received: from a\r\n\tby b\r\nSubject: one\r\nX-Tag:no blank\r\nsubject: two \xff\r\n\r\nbody\r\n\x00end\r\n"


def test_a_parsed_mail_gives_its_octets_back() -> None:
    assert b"".join(parse_message(RAW).chunks()) == RAW


@given(st.lists(st.tuples(st.from_regex(rb"[A-Za-z-]{1,9}", fullmatch=True), st.binary(max_size=30))), st.binary())
def test_any_mail_with_crlf_gives_its_octets_back(fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    clean = [(name, value.replace(b"\r", b"").replace(b"\n", b"")) for name, value in fields]
    body = body.replace(b"\r", b"").replace(b"\n", b"\r\n")
    raw = b"".join(b"%b:%b\r\n" % field for field in clean) + b"\r\n" + body
    assert b"".join(parse_message(raw).chunks()) == raw


@given(st.binary(max_size=400))
def test_nothing_is_ever_refused(octets: bytes) -> None:
    parse_message(octets)


def test_lf_line_ends_become_crlf() -> None:
    message = parse_message(b"A: 1\n folded\n\nline\nline\n")
    assert message.fields[0].value == b" 1\r\n folded"
    assert message.body.read() == b"line\r\nline\r\n"


def test_a_first_line_that_is_no_field_is_body() -> None:
    message = parse_message(b"no field here\r\nSubject: x\r\n\r\n")
    assert message.fields == ()
    assert message.body.read() == b"no field here\r\nSubject: x\r\n\r\n"


def test_text_of_a_field_is_unfolded_and_keeps_raw_octets() -> None:
    assert Field(b"A", b" one\r\n\ttwo \xe9 ").text == "one\ttwo \udce9"


def test_edits_address_the_nth_field_of_a_name() -> None:
    message = parse_message(RAW).with_edits(
        [
            RemoveField(b"SUBJECT", 1),
            ReplaceField(b"Subject", b" changed"),
            AddField(b"Z", b" last"),
            InsertField(b"A", b" first"),
            ReplaceField(b"New", b" added when absent"),
            ReplaceBody(Body(b"new")),
        ]
    )
    assert [(field.name, field.value, field.origin) for field in message.fields] == [
        (b"A", b" first", -1),
        (b"Received", b" from a\r\n\tby b", 0),
        (b"X-Tag", b"no blank", 2),
        (b"subject", b" changed", 3),
        (b"Z", b" last", -1),
        (b"New", b" added when absent", -1),
    ]
    assert message.body.read() == b"new"


def test_removing_without_a_number_removes_all_of_that_name() -> None:
    assert [field.name for field in parse_message(RAW).with_edits([RemoveField(b"subject")]).fields] == [
        b"Received",
        b"X-Tag",
    ]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'<"bob"@x.example>', "bob@x.example"),
        (b'"b.o-b+t"@x.example', "b.o-b+t@x.example"),
        (b'<"bo\\b"@x.example>', "bob@x.example"),
        (b"<bo\\b@x.example>", "bob@x.example"),
        (b"<@relay.example,@other.example:bob@x.example>", "bob@x.example"),
        (b'<@relay.example:"bob"@x.example>', "bob@x.example"),
        (b"<@relay.example:>", "@relay.example:"),
        (b'<"bob jones"@x.example>', '"bob jones"@x.example'),
        (b'<"a@b"@x.example>', '"a@b"@x.example'),
        (b'<"."@x.example>', '"."@x.example'),
        (b'<"a..b"@x.example>', '"a..b"@x.example'),
        (b'<""@x.example>', '""@x.example'),
        (b'<"@x.example>', '"@x.example'),
        (b'<"a\\"b"@x.example>', '"a\\"b"@x.example'),
        (b"<>", ""),
        (b'<"\xff"@x.example>', "\udcff@x.example"),
    ],
)
def test_one_mailbox_is_one_address_however_it_is_quoted(raw: bytes, text: str) -> None:
    assert address_from_wire(raw).text == text


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("bob+tag@x", "bob@x"),
        ('"odd user+tag"@x', '"odd user"@x'),
        ('"bob+odd tag"@x', "bob@x"),
        ('"+tag x"@x', '"+tag x"@x'),
        ("+tag@x", "+tag@x"),
    ],
)
def test_a_tag_ends_inside_its_quotes(text: str, bare: str) -> None:
    assert Address(text).without_tag("+") == bare


def test_a_body_that_finds_no_space_is_an_error_once_and_makes_no_noise_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("w+b"))  # noqa: SIM115
    collector = BodyCollector(memory_limit=10)
    collector.append(b"x" * 100)  # fits into the file's buffer
    with pytest.raises(OSError, match="No space"):
        collector.finish()
    with pytest.raises(OSError, match="No space"):
        collector.append(b"x" * 1_000_000)
    del collector
    gc.collect()  # what it raised would be a warning now, which is an error


def test_a_large_body_is_spooled_and_read_by_several_threads_at_once() -> None:
    collector = BodyCollector(memory_limit=1000)
    pieces = [bytes([number]) * 700 for number in range(20)]
    for piece in pieces:
        collector.append(piece)
    body = collector.finish()
    assert body._octets == b""  # none of it is kept in memory
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(b"".join(body.chunks(333)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"".join(pieces)] * 4
    assert body.size == 14000


@pytest.mark.parametrize(
    ("text", "local_part", "domain", "key", "without_tag"),
    [
        ("Bob+Tag@Example.ORG.", "Bob+Tag", "example.org", "bob+tag@example.org", "bob@example.org"),
        ("a@b@c", "a@b", "c", "a@b@c", "a@b@c"),
        ("", "", "", "", ""),
        ("postmaster", "postmaster", "", "postmaster", "postmaster"),
        ("+x@d", "+x", "d", "+x@d", "+x@d"),
        (
            "jörg@bücher.example",
            "jörg",
            "xn--bcher-kva.example",
            "jörg@xn--bcher-kva.example",
            "jörg@xn--bcher-kva.example",
        ),
    ],
)
def test_addresses_compare_without_case_and_in_a_labels(
    text: str, local_part: str, domain: str, key: str, without_tag: str
) -> None:
    address = Address(text)
    assert (address.local_part, address.domain, address.key) == (local_part, domain, key)
    assert address.without_tag("+") == without_tag


@given(st.text(max_size=40))
def test_no_domain_is_too_odd_to_compare(text: str) -> None:
    assert isinstance(to_a_label(text), str)


def test_addresses_come_with_and_without_brackets_and_raw_octets() -> None:
    assert address_from_wire(b"<a@b>").text == "a@b"
    assert address_from_wire(b"a@b").text == "a@b"
    assert not address_from_wire(b"<>")
    assert address_from_wire(b"<\xff@b>").text.encode("utf-8", "surrogateescape") == b"\xff@b"


def test_a_header_value_cannot_start_a_field_of_its_own() -> None:
    assert header_value("x\r\nBcc: all\0") == b" x  Bcc: all "


def test_size_is_what_goes_over_the_wire() -> None:
    message = Message((Field(b"A", b" 1"),), Body(b"xy"))
    assert message.size() == len(b"A: 1\r\n\r\nxy")
