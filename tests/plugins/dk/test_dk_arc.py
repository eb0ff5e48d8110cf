"""ARC: chains that hold, chains that broke, and dkimpy's opinion of both."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import dkim
import pytest
from plugins.dk.dk_mail import DOMAIN, MAIL, SigningHost
from postroom.hookspecs import LookupFailed
from postroom.mail import AuthenticationResult, parse_message
from postroom.testing import envelope
from postroom_dk.canonical import Canonicalization, HeaderField, canonical_body, header_octets, select
from postroom_dk.keystore import KeyState
from postroom_dk.mailview import header_fields
from postroom_dk.privatekey import PrivateKey
from postroom_dk.results import Status
from postroom_dk.sign import SignSettings

SEALING = SignSettings(arc_domain=DOMAIN)
FORWARDED = envelope("someone@other.example")


def seal(host: SigningHost, octets: bytes = MAIL) -> bytes:
    return host.signed(octets, SEALING, FORWARDED)


def dkimpy_says(host: SigningHost, octets: bytes) -> bytes | None:
    def txt(name: bytes, timeout: float = 5) -> bytes:
        found = host.dns.records[name.decode().rstrip("."), "TXT"]
        assert isinstance(found, tuple)
        return bytes(found[0])

    status: bytes | None = dkim.arc_verify(octets, dnsfunc=txt)[0]
    return status


def test_a_seal_verifies_here_and_with_dkimpy(host: SigningHost) -> None:
    sealed = seal(host)
    names = [found.name for found in parse_message(sealed).fields[:3]]
    assert names == [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"]
    arc = host.find(sealed).arc
    assert (arc.status, arc.instances, arc.oldest_pass, arc.sealers) == (Status.PASS, 1, 0, (DOMAIN,))
    assert dkimpy_says(host, sealed) == dkim.CV_Pass
    assert AuthenticationResult("arc", "pass", (("header.oldest-pass", "0"),)) in host.check(sealed).edits


def test_a_chain_of_several_hosts_verifies(host: SigningHost) -> None:
    mail = MAIL
    for instance in range(1, 5):
        mail = seal(host, mail)
        assert host.find(mail).arc.instances == instance
        assert dkimpy_says(host, mail) == dkim.CV_Pass
    assert host.find(mail).arc.status is Status.PASS


def test_what_we_seal_says_what_we_found(host: SigningHost) -> None:
    sealed = seal(host, host.signed())
    results = parse_message(sealed).get(b"ARC-Authentication-Results")
    assert results is not None
    assert results.startswith("i=1; mx.recipient.example")
    assert "dkim=pass header.d=sender.example" in results


def test_authentication_results_of_others_are_not_sealed(host: SigningHost) -> None:
    """Nor those that claim our name: they may be forged."""
    forged = b"Authentication-Results: mx.recipient.example; dkim=pass header.d=bank.example\r\n\xff: x\r\n"
    results = parse_message(seal(host, forged + MAIL)).get(b"ARC-Authentication-Results")
    assert results is not None
    assert "bank" not in results


def test_a_change_on_the_way_is_seen_and_told(host: SigningHost) -> None:
    """The message signature of the first host fails, its seal holds: oldest-pass names the second."""
    changed = seal(host).replace(b"the\r\n\tweather", b"[list] the\r\n\tweather")
    arc = host.find(changed).arc
    assert (arc.status, arc.reason) == (Status.FAIL, "Most recent ARC-Message-Signature did not validate")
    resealed = seal(host, changed)  # by a host that believes nothing: cv=fail
    arc = host.find(resealed).arc
    assert (arc.status, arc.ended) == (Status.FAIL, True)
    assert dkimpy_says(host, resealed) is None
    assert seal(host, resealed) == resealed  # the end of a chain is not sealed again


BREAKS = [
    (rb"(ARC-Seal: i=1; .*?b=)\w\w\w\w", rb"\1AAAA"),
    (rb"(ARC-Seal: i=)1", rb"\g<1>2"),
    (rb"(ARC-Seal: i=)1", rb"\g<1>99"),
    (rb"(ARC-Seal: i=)1", rb"\g<1>x"),
    (rb"(ARC-Seal: i=1; cv=)none", rb"\1pass"),
    (rb"(ARC-Seal: i=1; cv=)none", rb"\1maybe"),
    (rb"(ARC-Seal: i=1; )", rb"\1h=from; "),
    (rb"(ARC-Message-Signature: i=1; )", rb"\1v=1; "),
    (rb"(ARC-Message-Signature: i=1;.*?h=)from", rb"\1arc-seal:from"),
    (rb"ARC-Authentication-Results: i=1", rb"ARC-Authentication-Results: i=0"),
    (rb"ARC-Authentication-Results: .*?\r\n(?! )", rb""),
    (rb"(ARC-Authentication-Results: i=1; mx.)", rb"\1x"),
    (rb"(ARC-Seal: .*?\r\n)(?! )", rb"\1\1"),
    (rb"It  rains", rb"It shines"),
    (rb"To: bob", rb"To: eve"),
]


@pytest.mark.parametrize(("pattern", "replacement"), BREAKS, ids=lambda value: str(value)[:40])
def test_a_broken_chain_fails(host: SigningHost, pattern: bytes, replacement: bytes) -> None:
    sealed = seal(host)
    broken = re.sub(pattern, replacement, sealed, count=1, flags=re.DOTALL)
    assert broken != sealed
    arc = host.find(broken).arc
    assert arc.status is Status.FAIL
    assert arc.reason


def test_an_older_set_may_not_be_missing(host: SigningHost) -> None:
    sealed = seal(host, seal(host))
    without = re.sub(rb"ARC-[\w-]+: i=1;.*?\r\n(?! )", b"", sealed, flags=re.DOTALL)
    assert host.find(without).arc.reason == "instances are missing"


def test_the_order_of_the_fields_does_not_matter(host: SigningHost) -> None:
    sealed = parse_message(seal(host, seal(host)))
    shuffled = (*reversed(sealed.fields[:6]), *sealed.fields[6:])
    octets = b"".join(found.raw() for found in shuffled) + b"\r\n" + sealed.body.read()
    assert host.find(octets).arc.status is Status.PASS
    assert host.find(seal(host, octets)).arc.instances == 3


def test_an_instance_without_a_blank_before_it_is_found(host: SigningHost) -> None:
    """dkimpy looks for ` i=1;` in the message signature, and gives up with an IndexError when it is not there."""
    sealed = seal(host).replace(b"ARC-Message-Signature: i=1", b"ARC-Message-Signature:i=1")
    assert host.find(sealed).arc.status is Status.PASS
    with pytest.raises(IndexError):
        dkimpy_says(host, sealed)


def test_more_instances_than_the_standard_allows_fail_at_once(host: SigningHost) -> None:
    many = b"".join(
        b"ARC-Seal: i=%d; a=rsa-sha256; cv=pass; d=a.example; s=s; b=AAAA\r\n" % number for number in range(1, 2000)
    )
    assert host.find(many + MAIL).arc.status is Status.FAIL
    assert host.dns.asked == []


def test_trouble_with_dns_is_temporary_and_nothing_is_sealed(host: SigningHost) -> None:
    sealed = seal(host)
    host.publish("s", LookupFailed("no answer"))
    assert host.find(sealed).arc.status is Status.TEMPERROR
    verdict = host.sign(sealed, SEALING, FORWARDED)
    assert "not sealed: arc=temperror" in verdict.reason
    assert verdict.edits == ()


def test_only_forwarded_mail_is_sealed(host: SigningHost) -> None:
    for octets in (MAIL, host.signed()):
        assert b"ARC-Seal" not in host.signed(octets, SEALING)
    assert b"ARC-Seal" not in host.signed(MAIL, SignSettings(), FORWARDED)


def test_a_seal_takes_an_rsa_key(tmp_path: Path, edwards: PrivateKey, rsa: PrivateKey) -> None:
    host = SigningHost(tmp_path, {"e": edwards})
    with pytest.raises(Exception, match="no active rsa key"):
        host.sign(MAIL, SEALING, FORWARDED)
    host.add("pending", rsa, state=KeyState.PENDING)
    with pytest.raises(Exception, match="no active rsa key"):
        host.sign(MAIL, SEALING, FORWARDED)


def test_mail_of_our_own_lists_is_signed_and_sealed(host: SigningHost) -> None:
    """It came in with a chain and leaves with our own From."""
    came = seal(host)
    sent = envelope("list@sender.example", client=None)
    leaving = host.signed(came, SEALING, sent)
    finding = host.find(leaving)
    assert finding.author_passed
    assert (finding.arc.status, finding.arc.instances) == (Status.PASS, 2)


def test_a_status_that_the_standard_does_not_know_is_named(host: SigningHost) -> None:
    unknown = seal(host, seal(host)).replace(b"ARC-Seal: i=2; cv=pass", b"ARC-Seal: i=2; cv=maybe")
    assert host.find(unknown).arc.reason == "instance 2: cv= is neither none, pass nor fail"


@pytest.mark.parametrize(
    ("sent", "told", "reason"),
    [
        ("to::subject: :from", "to::subject: :from", ""),
        ("", "", "the newest message signature does not cover From"),
        ("to", "to", "the newest message signature does not cover From"),
    ],
)
def test_names_that_are_blank_sign_nothing(
    host: SigningHost, rsa: PrivateKey, sent: str, told: str, reason: str
) -> None:
    """As other verifiers have it, and with what is not covered told beside the result."""
    sealed = craft_set(rsa, sent)
    assert f"h={told};".encode() in sealed
    arc = host.find(sealed).arc
    assert (arc.status, arc.reason) == (Status.PASS, reason)
    assert host.find(sealed.replace(b"It  rains", b"It shines")).arc.status is Status.FAIL


def craft_set(key: PrivateKey, names: str) -> bytes:
    """MAIL with an ARC set whose message signature signs what `names` says."""
    message = parse_message(MAIL)
    fields = header_fields(message.fields)
    body = hashlib.sha256(canonical_body(message.body.chunks(), Canonicalization.RELAXED)).digest()
    digest = base64.b64encode(body).decode()
    results = (b"ARC-Authentication-Results", b" i=1; mx.other.example; none\r\n")
    listed = [name.strip().encode() for name in names.split(":")]
    text = f" i=1; a=rsa-sha256; c=relaxed/relaxed; d={DOMAIN}; s=s; h={names}; bh={digest}; b="
    signed = [fields[at] for at in select(fields, listed)]
    message_signature = completed(key, b"ARC-Message-Signature", text, signed)
    text = f" i=1; a=rsa-sha256; cv=none; d={DOMAIN}; s=s; b="
    seal_field = completed(key, b"ARC-Seal", text, [results, message_signature])
    return b"".join(name + b":" + value for name, value in (seal_field, message_signature, results)) + MAIL


def completed(key: PrivateKey, name: bytes, text: str, signed: list[HeaderField]) -> HeaderField:
    octets = header_octets(signed, (name, text.encode() + b"\r\n"), Canonicalization.RELAXED)
    return name, text.encode() + base64.b64encode(key.sign(hashlib.sha256(octets).digest())) + b"\r\n"
