"""Any mail that is signed verifies; no signed octet can be changed unseen; nothing that arrives raises."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from plugins.dk.dk_mail import SigningHost
from postroom.mail import AuthenticationResult, Body, Field, Message
from postroom_dk.canonical import Canonicalization, canonical_body, canonical_field
from postroom_dk.privatekey import PrivateKey
from postroom_dk.results import Status

TEXT = st.lists(
    st.sampled_from([b"a", b"B", b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t", b";", b":", b"=", b"\xe4", b"=20", b"b="]),
    max_size=12,
).map(b"".join)
NAMES = st.sampled_from([b"Subject", b"to", b"Cc", b"X-Other", b"Date", b"DKIM-Signature", b"Received", b"List-Id"])
FIELDS = st.lists(st.tuples(NAMES, TEXT), max_size=8)
BODIES = st.lists(
    st.sampled_from([b"a", b" ", b"\t", b"\r\n", b"text", b"\r\n\r\n", b"  \r\n", b"\xff"]), max_size=20
).map(b"".join)


@pytest.fixture(scope="module")
def shared(edwards: PrivateKey) -> Iterator[SigningHost]:
    """One host for all examples: its DNS and its keys do not change."""
    with tempfile.TemporaryDirectory() as directory:
        yield SigningHost(Path(directory), {"s": edwards})


def mail(fields: list[tuple[bytes, bytes]], body: bytes) -> Message:
    author = (b"From", b" Alice <alice@sender.example>")
    return Message(tuple(Field(name, value, at) for at, (name, value) in enumerate([*fields, author])), Body(body))


def signed(shared: SigningHost, message: Message) -> Message:
    left = message.with_edits(shared.sign(message).edits)
    return Message(tuple(Field(found.name, found.value, at) for at, found in enumerate(left.fields)), left.body)


@given(fields=FIELDS, body=BODIES)
@settings(max_examples=150, deadline=None)
def test_what_we_sign_verifies(shared: SigningHost, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    finding = shared.find(signed(shared, mail(fields, body)))
    assert finding.signatures[0].status is Status.PASS


@given(fields=FIELDS, body=BODIES, data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_no_signed_octet_can_be_changed(
    shared: SigningHost, fields: list[tuple[bytes, bytes]], body: bytes, data: st.DataObject
) -> None:
    whole = signed(shared, mail(fields, body))
    (result, *_) = shared.find(whole).signatures
    position = data.draw(st.integers(0, len(whole.fields)))
    new = bytes([data.draw(st.integers(33, 126))])
    if position == len(whole.fields):
        octets = whole.body.read()
        changed, relaxed = _flipped(octets, new, data), Canonicalization.RELAXED
        assume(canonical_body([changed], relaxed) != canonical_body([octets], relaxed))
        forged = Message(whole.fields, Body(changed))
    else:
        found = whole.fields[position]
        assume(position and found.name.lower().decode() in result.signed_fields)
        value = _flipped(found.value, new, data)
        before, after = ((found.name, octets + b"\r\n") for octets in (found.value, value))
        relaxed = Canonicalization.RELAXED
        assume(canonical_field(before, relaxed) != canonical_field(after, relaxed))
        fields_after = (*whole.fields[:position], Field(found.name, value, position), *whole.fields[position + 1 :])
        forged = Message(fields_after, whole.body)
    assert shared.find(forged).signatures[0].status in (Status.FAIL, Status.POLICY)


def _flipped(octets: bytes, new: bytes, data: st.DataObject) -> bytes:
    assume(octets)
    at = data.draw(st.integers(0, len(octets) - 1))
    assume(octets[at : at + 1] not in (b"\r", b"\n"))
    return octets[:at] + new + octets[at + 1 :]


@given(
    value=st.lists(
        st.sampled_from(
            [
                *(b"v=1;", b"a=rsa-sha256;", b"d=sender.example;", b"s=s;", b"h=from;", b"bh=AAAA;", b"b=AAAA"),
                *(b"i=@x;", b"l=1;", b"x=1;", b"t=;", b"c=/;", b"q=", b"cv=none;", b"i=1;"),
                *(b";", b"=", b" ", b"\r\n ", b"\xff", b"\0"),
            ]
        ),
        max_size=14,
    ).map(b"".join),
    name=st.sampled_from([b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"]),
)
@settings(max_examples=300, deadline=None)
def test_nothing_that_arrives_is_a_failure_of_ours(shared: SigningHost, name: bytes, value: bytes) -> None:
    message = mail([(name, value)], b"hello\r\n")
    verdict = shared.check(message)
    for edit in verdict.edits:
        assert isinstance(edit, AuthenticationResult)
        assert edit.result != "pass"
        assert all(text.isprintable() for _, text in edit.properties)
        assert edit.reason.isprintable()


@given(record=st.binary(max_size=60) | st.binary(max_size=60).map(lambda octets: b"v=DKIM1; k=ed25519; p=" + octets))
@settings(max_examples=200, deadline=None)
def test_no_key_record_is_a_failure_of_ours(shared: SigningHost, record: bytes) -> None:
    whole = signed(shared, mail([], b"hello\r\n"))
    original = shared.dns.records.copy()
    try:
        shared.publish("s", record)
        assert shared.find(whole).signatures[0].status in (Status.PERMERROR, Status.FAIL)
    finally:
        shared.dns.records = original
