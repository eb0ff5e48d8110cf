"""dk_check: each signature's result, what dkimpy would have let pass, and what never becomes a burden."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa as openssl_rsa
from plugins.dk.dk_mail import DOMAIN, MAIL, SigningHost, craft, name_of
from postroom.hookspecs import LookupFailed
from postroom.mail import AuthenticationResult, Field, parse_message
from postroom.verdict import Action
from postroom_dk.canonical import Canonicalization, canonical_body
from postroom_dk.check import CheckSettings
from postroom_dk.privatekey import KeyType, PrivateKey, make_key
from postroom_dk.results import Status, aligned
from postroom_dk.verify import LengthPolicy

SIGNED_BY_RFC = b"\r\n".join(  # RFC 8463 A.3
    [
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;",
        b" d=football.example.com; i=@football.example.com;",
        b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :",
        b" subject : date : message-id : from : subject : date;",
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;",
        b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus",
        b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==",
        b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;",
        b" d=football.example.com; i=@football.example.com;",
        b" q=dns/txt; s=test; t=1528637909; h=from : to : subject :",
        b" date : message-id : from : subject : date;",
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;",
        b" b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3",
        b" DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz",
        b" dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=",
        b"From: Joe SixPack <joe@football.example.com>",
        b"To: Suzie Q <suzie@shopping.example.net>",
        b"Subject: Is dinner ready?",
        b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)",
        b"Message-ID: <20030712040037.46341.5F8J@football.example.com>",
        b"",
        b"Hi.",
        b"",
        b"We lost the game.  Are you hungry yet?",
        b"",
        b"Joe.",
        b"",
    ]
)
RFC_KEYS = {
    "brisbane": b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "test": b"v=DKIM1; k=rsa; p="
    b"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi"
    b"Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTI"
    b"KT+l/K4w3QIDAQAB",
}


def test_the_mail_of_rfc_8463_verifies_with_both_keys(tmp_path: Path) -> None:
    host = SigningHost(tmp_path)
    for selector, record in RFC_KEYS.items():
        host.publish(selector, record, "football.example.com")
    finding = host.find(SIGNED_BY_RFC)
    assert [(found.status, found.selector, found.key_bits) for found in finding.signatures] == [
        (Status.PASS, "brisbane", 256),
        (Status.PASS, "test", 1024),
    ]
    assert finding.author_passed
    assert finding.passed_domains == ("football.example.com",)


def test_each_signature_gets_a_result_with_its_properties(
    host: SigningHost, rsa: PrivateKey, edwards: PrivateKey
) -> None:
    host.add("e", edwards)
    verdict = host.check(host.signed())
    assert verdict.action is Action.PASS
    first, second = (edit for edit in verdict.edits if isinstance(edit, AuthenticationResult))
    assert (first.method, first.result, first.reason) == ("dkim", "pass", "")
    assert {name for name, _ in first.properties} == {"header.d", "header.i", "header.s", "header.a", "header.b"}
    assert {dict(one.properties)["header.a"] for one in (first, second)} == {"rsa-sha256", "ed25519-sha256"}
    assert dict(first.properties)["header.b"] != dict(second.properties)["header.b"]
    assert len(dict(first.properties)["header.b"]) == 8  # RFC 6008 4


def test_two_signatures_that_begin_alike_are_told_apart(host: SigningHost, rsa: PrivateKey) -> None:
    """RFC 6008 4: header.b is as long as it must be."""
    line, _, rest = craft(rsa).partition(b"\r\n")
    head, _, signature = line.rpartition(b"b=")
    other = head + b"b=" + signature[:12] + (b"A" if signature[12:13] != b"A" else b"B") + signature[13:]
    verdict = host.check(b"\r\n".join([line, other, rest]))
    prefixes = [dict(edit.properties)["header.b"] for edit in verdict.edits if isinstance(edit, AuthenticationResult)]
    assert [len(prefix) for prefix in prefixes] == [13, 13]
    assert prefixes[0] != prefixes[1]


def test_a_mail_without_signature_says_so(host: SigningHost) -> None:
    assert host.check(MAIL).edits == (AuthenticationResult("dkim", "none"),)


REFUSED = [
    # what the signature says, what comes of it, and why
    ({"h": "to:subject"}, "permerror", "From is not signed"),
    ({"h": ""}, "permerror", "h= is empty"),
    ({"h": "from:b c"}, "neutral", "h= is no list of field names"),
    ({"h": "from:" + ":".join(["x"] * 1200)}, "policy", "more than 1024 names in h="),
    ({"h": "from:" + ":".join(["x" * 100] * 200)}, "policy", "field longer than 16384 octets"),
    ({"a": "rsa-sha1"}, "fail", "rsa-sha1 is no longer valid"),
    ({"a": "rsa-md5"}, "neutral", "unknown algorithm"),
    ({"a": "ed25519-sha256"}, "permerror", "a= wants an ed25519 key, the key is rsa"),
    ({"v": "2"}, "neutral", "unknown version"),
    ({"v": None}, "permerror", "v= is missing"),
    ({"bh": None}, "permerror", "bh= is missing"),
    ({"s": None}, "permerror", "s= is missing"),
    ({"bh": "***"}, "neutral", "bh= is no base64"),
    ({"bh": "AAAA"}, "fail", "the body was changed"),
    ({"d": "a b"}, "neutral", "d= is no domain"),
    ({"d": "../etc"}, "neutral", "d= is no domain"),
    ({"i": "@other.example"}, "permerror", "i= is not within d="),
    ({"i": "@evilsender.example"}, "permerror", "i= is not within d="),
    ({"i": "nothing"}, "neutral", "i= is no address"),
    ({"l": "9999"}, "permerror", "the body is shorter than l="),
    ({"l": "5"}, "policy", "l= leaves the end of the body open"),
    ({"l": "x"}, "neutral", "l= is no number"),
    ({"l": "-1"}, "neutral", "l= is no number"),
    ({"q": "http"}, "neutral", "no known q= method"),
    ({"t": "1600000000", "x": "1600000001"}, "fail", "expired"),
    ({"t": "1700000000", "x": "1600000001"}, "neutral", "x= is before t="),
    ({"t": "1800000000"}, "neutral", "t= is in the future"),
    ({"x": "soon"}, "neutral", "x= is no number"),
]


@pytest.mark.parametrize(("tags", "result", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_a_signature_says_of_itself_is_checked(
    host: SigningHost, rsa: PrivateKey, tags: dict[str, Any], result: str | bool, reason: str
) -> None:
    only = (b"from", b"to") if "h" in tags else None
    assert host.one(craft(rsa, only=only, **tags)) == (result, reason)


@pytest.mark.parametrize(
    "tags", [{"c": c} for c in ("simple/simple", "simple/relaxed", "relaxed/simple", "relaxed", "simple")]
)
def test_every_canonical_form_verifies(host: SigningHost, rsa: PrivateKey, tags: dict[str, Any]) -> None:
    assert host.one(craft(rsa, **tags)) == ("pass", "")


@pytest.mark.parametrize(
    ("value", "result", "reason"),
    [
        (b" nothing at all", "neutral", "no valid list of tags"),
        (b" v=1; v=1; a=x", "neutral", "no valid list of tags"),
        (b" v=1; !=2; a=x", "neutral", "no valid list of tags"),
        (b" =;=;=;", "neutral", "no valid list of tags"),
        (b" \xff\xfe=\x00", "neutral", "no valid list of tags"),
        (b"", "neutral", None),
    ],
)
def test_what_is_no_signature_is_neutral(host: SigningHost, value: bytes, result: str | bool, reason: str) -> None:
    found = host.one(b"DKIM-Signature:" + value + b"\r\n" + MAIL)
    assert reason is None or found == (result, reason)


KEY_RECORDS = [
    ("v=DKIM1; p=", "permerror", "the key is revoked"),
    ("v=DKIM2; {key}", "permerror", "the key record has an unknown version"),
    ("v=DKIM1; k=rsa", "permerror", "the key record has no key"),
    ("v=DKIM1; k=dsa; {key}", "permerror", "the key is of an unknown type"),
    ("v=DKIM1; h=sha1; {key}", "permerror", "the key is not for sha256"),
    ("v=DKIM1; h=sha1:sha256; {key}", "pass", ""),
    ("v=DKIM1; s=other; {key}", "permerror", "the key is not for mail"),
    ("v=DKIM1; s=other:email; {key}", "pass", ""),
    ("v=DKIM1; t=s; {key}", "pass", ""),
    ("v=DKIM1; n=note; x=unknown; {key}", "pass", ""),
    ("{key}", "pass", ""),
    ("v=DKIM1; p=****", "permerror", "the key is no base64"),
    ("v=DKIM1; p=AAAA", "permerror", "the key cannot be read"),
    ("v=DKIM1; k=ed25519; p=AAAA", "permerror", "the key cannot be read"),
    ("no key record", "permerror", "the key record cannot be read"),
]


@pytest.mark.parametrize(("record", "result", "reason"), KEY_RECORDS)
def test_what_a_key_record_says_is_checked(
    host: SigningHost, rsa: PrivateKey, record: str, result: str | bool, reason: str
) -> None:
    key = rsa.record().rpartition("; ")[2]
    host.publish("s", record.format(key=key).encode())
    assert host.one(craft(rsa)) == (result, reason)


def test_a_strict_key_is_not_for_subdomains(host: SigningHost, rsa: PrivateKey) -> None:
    host.publish("s", rsa.record().replace("k=rsa", "k=rsa; t=y:s").encode())
    (found,) = host.find(craft(rsa, i="a@sub.sender.example")).signatures
    assert (found.status, found.reason) == (Status.PERMERROR, "the key is not for subdomains")
    assert found.testing


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_keys_at_one_name_the_one_that_fits_counts(host: SigningHost, rsa: PrivateKey, turned: bool) -> None:
    edwards = make_key(KeyType.ED25519)
    keys = [edwards.record().encode(), rsa.record().encode()]
    unfit = [b"v=DKIM1; p=", b"v=spf1 -all", rsa.record().replace("k=rsa", "k=rsa; h=sha1").encode()]
    host.dns.records[name_of("s")] = tuple(unfit + (keys[::-1] if turned else keys))
    for key in (rsa, edwards):
        assert host.one(craft(key)) == ("pass", "")
        assert host.one(craft(key).replace(b"Alice", b"Alina"))[0] == "fail"
    host.dns.records[name_of("s")] = tuple(keys[:1])
    assert host.one(craft(rsa)) == ("permerror", "a= wants an rsa key, the key is ed25519")


@pytest.mark.parametrize(("there", "instead"), [(b"\x05\x00\x03", b"\x05\x08\x03"), (b"\x03\x82", b"\x03\x84")])
def test_a_key_of_wrong_lengths_is_a_result_and_no_crash(
    host: SigningHost, rsa: PrivateKey, there: bytes, instead: bytes
) -> None:
    octets = base64.b64decode(rsa.record().rpartition("p=")[2])
    assert there in octets
    host.publish("s", b"v=DKIM1; p=" + base64.b64encode(octets.replace(there, instead, 1)))
    assert host.one(craft(rsa)) == ("permerror", "the key cannot be read")


@pytest.mark.parametrize("bits", [512, 768])
def test_a_short_key_fails(host: SigningHost, rsa: PrivateKey, bits: int) -> None:
    modulus = ((1 << (bits - 1)) + 111).to_bytes(bits // 8 + 1, "big")
    parts = b"\x02" + bytes([len(modulus)]) + modulus + b"\x02\x03\x01\x00\x01"
    octets = b"\x30\x81" + bytes([len(parts)]) + parts  # RFC 8017 A.1.1, what OpenSSL refuses to make
    host.publish("s", b"v=DKIM1; p=" + base64.b64encode(octets))
    assert host.one(craft(rsa)) == ("fail", f"rsa key of {bits} bits: too short")


def test_a_key_of_1024_bits_passes(tmp_path: Path) -> None:
    key = PrivateKey(openssl_rsa.generate_private_key(public_exponent=65537, key_size=1024))
    host = SigningHost(tmp_path, {"s": key})
    assert host.one(craft(key)) == ("pass", "")


def test_trouble_with_dns_is_temporary_and_no_key_is_not(host: SigningHost, rsa: PrivateKey) -> None:
    host.publish("s", LookupFailed("no answer"))
    assert host.one(craft(rsa)) == ("temperror", "no answer from DNS for the key")
    host.dns.records.clear()
    assert host.one(craft(rsa)) == ("permerror", "no key")


def test_no_time_left_is_temporary(host: SigningHost, rsa: PrivateKey) -> None:
    host.services.seconds_left = 0.5
    assert host.one(craft(rsa)) == ("temperror", "no time left")
    assert host.dns.asked == []


def test_a_key_is_asked_for_once_a_mail(host: SigningHost, rsa: PrivateKey) -> None:
    once = craft(rsa)
    host.find(once.partition(b"\r\n")[0] + b"\r\n" + once)
    assert len(host.dns.asked) == 1


def test_no_from_is_not_a_valid_mail(host: SigningHost, rsa: PrivateKey) -> None:
    no_from = MAIL.partition(b"\r\n")[2]
    assert host.one(craft(rsa, no_from)) == ("permerror", "the mail has no From")


def test_a_second_from_breaks_the_signature(host: SigningHost, rsa: PrivateKey) -> None:
    signature, _, mail = craft(rsa).partition(b"\r\n")
    for forged in (
        b"From: eve@evil.example\r\n" + mail,
        mail.replace(b"\r\n\r\n", b"\r\nFrom: e@evil.example\r\n\r\n", 1),
    ):
        status, _ = host.one(signature + b"\r\n" + forged)
        assert status == "fail"
        assert host.find(signature + b"\r\n" + forged).author_domain == ""


def test_two_signed_from_fields_are_not_accepted(host: SigningHost, rsa: PrivateKey) -> None:
    mail = b"From: eve@evil.example\r\n" + MAIL
    assert host.one(craft(rsa, mail, h="from:from:to")) == ("policy", "the mail has more than one From")


@pytest.mark.parametrize(
    ("policy", "result"),
    [(LengthPolicy.POLICY, "policy"), (LengthPolicy.NEUTRAL, "neutral"), (LengthPolicy.ACCEPT, "pass")],
)
def test_an_open_end_is_what_the_setting_says(
    host: SigningHost, rsa: PrivateKey, policy: LengthPolicy, result: str | bool
) -> None:
    mail = craft(rsa, l="5") + b"appended"
    assert host.one(mail, CheckSettings(body_length=policy))[0] == result


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
def test_a_length_that_covers_all_there_is_leaves_nothing_open(host: SigningHost, rsa: PrivateKey, form: str) -> None:
    size = len(canonical_body([MAIL.partition(b"\r\n\r\n")[2]], Canonicalization(form.partition("/")[2].encode())))
    whole = craft(rsa, c=form, l=str(size))
    assert host.one(whole) == ("pass", "")
    assert host.one(whole + b"\r\n\r\n") == ("pass", "")  # what no form counts
    assert host.one(whole + b"x") == ("policy", "l= leaves the end of the body open")
    assert host.one(craft(rsa, c=form, l=str(size - 1))) == ("policy", "l= leaves the end of the body open")


def test_what_was_added_after_signing_is_noted(host: SigningHost, rsa: PrivateKey) -> None:
    signature, _, mail = craft(rsa).partition(b"\r\n")
    (found,) = host.find(signature + b"\r\nSubject: read this\r\nReply-To: eve@evil.example\r\n" + mail).signatures
    assert found.status is Status.PASS
    assert set(found.notes) >= {"subject was added after signing", "reply-to is not signed"}


@pytest.mark.parametrize(
    "added",
    [
        b"Return-Path: <alice@sender.example>\r\n",
        b"Delivered-To: bob@recipient.example\r\nReceived: from x by mx.recipient.example; today\r\n",
        b"Authentication-Results: mx.recipient.example; spf=pass\r\n",
    ],
)
@pytest.mark.parametrize("names", ["from", "from:received:return-path:delivered-to:authentication-results"])
def test_what_our_own_host_adds_does_not_spoil_a_signature(
    host: SigningHost, rsa: PrivateKey, added: bytes, names: str
) -> None:
    assert host.one(added + craft(rsa, h=names)) == ("pass", "")


def test_what_another_host_adds_to_signed_fields_does(host: SigningHost, rsa: PrivateKey) -> None:
    added = b"Received: from x by elsewhere.example; today\r\n"
    assert host.one(added + craft(rsa, h="from:received"))[0] == "fail"


def test_what_a_handler_of_ours_added_does_not_spoil_a_signature(host: SigningHost, rsa: PrivateKey) -> None:
    message = parse_message(craft(rsa, h="from:x-spam-flag"))
    edited = replace(message, fields=(*message.fields, Field(b"X-Spam-Flag", b" NO")))
    assert host.one(edited) == ("pass", "")


def test_more_signatures_than_the_limit_share_one_result(host: SigningHost, rsa: PrivateKey) -> None:
    signature = craft(rsa).partition(b"\r\n")[0] + b"\r\n"
    finding = host.find(signature * 1000 + MAIL, CheckSettings(max_signatures=3))
    assert [found.status.value for found in finding.signatures] == ["pass"] * 3 + ["policy"]
    assert finding.signatures[-1].reason == "997 more signatures than are looked at"


@pytest.mark.parametrize(
    "mail",
    [
        MAIL + b"a" + b" " * 300_000 + b"b\r\n",
        MAIL.replace(b"weather", b"w" + b" \t" * 200_000 + b"w"),
        b"X-Many: 1\r\n" * 20_000 + MAIL,
    ],
    ids=["body", "subject", "fields"],
)
def test_absurd_mails_cost_little(host: SigningHost, rsa: PrivateKey, mail: Any) -> None:
    signed = craft(rsa, mail, h="from:subject:" + ":".join(["x-many"] * 200))
    started = time.process_time()
    assert host.one(signed)[0] == "pass"
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "value", [b"b=" + b" " * 16_000 + b"x", b"h=" + b" " * 16_000 + b"!", b";" * 16_000, b"a=" * 8000]
)
def test_absurd_signatures_cost_little(host: SigningHost, value: bytes) -> None:
    started = time.process_time()
    host.find((b"DKIM-Signature: v=1; " + value + b"\r\n") * 8 + MAIL)
    assert time.process_time() - started < 10


def test_policy_is_off_by_default(host: SigningHost, rsa: PrivateKey) -> None:
    assert host.check(craft(rsa, bh="AAAA")).action is Action.PASS


@pytest.mark.parametrize(
    ("settings", "mail", "action"),
    [
        (CheckSettings(reject=("sender.example",)), "broken", Action.REJECT),
        (CheckSettings(reject=("SENDER.example",)), "broken", Action.REJECT),
        (CheckSettings(reject=("other.example", "example")), "broken", Action.REJECT),
        (CheckSettings(reject=("nder.example",)), "broken", Action.PASS),
        (CheckSettings(reject=("sender.example",)), "unsigned", Action.PASS),
        (CheckSettings(require=("sender.example",)), "unsigned", Action.REJECT),
        (CheckSettings(require=("sender.example",)), "good", Action.PASS),
        (CheckSettings(reject=("sender.example",)), "foreign", Action.PASS),
        (CheckSettings(require=("sender.example",)), "foreign", Action.REJECT),
    ],
)
def test_chosen_domains_are_refused_when_their_signature_fails(
    host: SigningHost, rsa: PrivateKey, settings: CheckSettings, mail: Any, action: Action
) -> None:
    host.publish("s", rsa.record().encode(), "other.example")
    mails = {
        "broken": craft(rsa, bh="AAAA"),
        "unsigned": MAIL,
        "good": craft(rsa),
        "foreign": craft(rsa, d="other.example"),
    }
    verdict = host.check(mails[mail], settings)
    assert verdict.action is action
    assert verdict.finding is not None
    if action is Action.REJECT:
        assert verdict.reply is not None
        assert verdict.reply.line(verdict.action).startswith("550 5.7.20 ")


def test_a_refusal_waits_for_dns_and_spares_a_domain_that_tests(host: SigningHost, rsa: PrivateKey) -> None:
    settings = CheckSettings(reject=(DOMAIN,))
    host.publish("s", LookupFailed("no answer"))
    assert host.check(craft(rsa), settings).action is Action.DEFER
    host.publish("s", rsa.record().replace("k=rsa", "k=rsa; t=y").encode())
    assert host.check(craft(rsa, bh="AAAA"), settings).action is Action.PASS


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        ("a.example", "a.example", True),
        ("b.a.example", "a.example", True),
        ("a.example", "b.a.example", True),
        ("example", "a.example", False),
        ("ba.example", "a.example", False),
        ("", "a.example", False),
        ("b.a.example", "c.a.example", False),
    ],
)
def test_alignment(one: str, other: str, result: str | bool) -> None:
    assert aligned(one, other) is result


AUTHORS = [
    # From, and the domains whose policy applies
    (b"Bank <ceo@bank.example>", ("bank.example",)),
    (b"ceo @ bank . example", ("bank.example",)),
    (b"<@relay.example:ceo@bank.example>", ("bank.example",)),
    (b"Team: a@one.example, b@two.example;", ("one.example", "two.example")),
    (b"Nobody:;", ()),
    (b'"ceo@bank.example" <x@other.example>', ("other.example",)),
    (b'"a\\" <x@y.example>" <ceo@bank.example>', ("bank.example",)),
    (b"(x@y.example (z)) ceo@(c)bank.example", ("bank.example",)),
    ("ceo@bänk.example".encode(), ("xn--bnk-qla.example",)),
    (b"ceo@[192.0.2.1]", ("[192.0.2.1]",)),
    # what is no address list, but shown to people as one
    (b"N" * 20_000 + b" <ceo@bank.example>", ("bank.example",)),
    (b"(" * 20_000 + b" ceo@bank.example", ("bank.example",)),
    (b"(" * 5000 + b")" * 5000 + b" ceo@bank.example", ("bank.example",)),
    (b"a:" * 20_000 + b" ceo@bank.example", ("bank.example",)),
    (b'"Bank <ceo@bank.example>', ("bank.example",)),
    (b"ceo@bank.example\0", ("bank.example",)),
    (b'\\"ceo@bank.example', ("bank.example",)),
    (b"<x@other.example> ceo@bank.example", ("other.example", "bank.example")),
]


@pytest.mark.parametrize(("value", "domains"), AUTHORS, ids=lambda value: str(value)[:30])
def test_no_odd_from_keeps_a_policy_from_being_applied(
    host: SigningHost, value: bytes, domains: tuple[str, ...]
) -> None:
    mail = MAIL.replace(b"Alice <alice@sender.example>", value)
    assert host.find(mail).author_domains == domains
    refused = host.check(mail, CheckSettings(require=("bank.example",))).action is Action.REJECT
    assert refused is ("bank.example" in domains)


@pytest.mark.parametrize(
    "value",
    [
        b"(" * 50_000,
        b"()" * 50_000,
        b"a@b," * 20_000,
        b"@[" * 50_000,
        "@a\u00a0".encode() + b"\xc2\xa0" * 50_000,
        b'"\\',
    ],
    ids=["open", "comments", "addresses", "literals", "blanks", "quote"],
)
def test_an_absurd_from_costs_little(host: SigningHost, value: bytes) -> None:
    started = time.process_time()
    host.find(MAIL.replace(b"Alice <alice@sender.example>", value))
    assert time.process_time() - started < 10


@pytest.mark.parametrize("local", ["", "joe+list=x", "joe=20doe", '"joe doe"', '"a@b"', "jürgen"])
def test_any_local_part_may_stand_in_the_identity(host: SigningHost, rsa: PrivateKey, local: str) -> None:
    """RFC 6376 3.5 i=: a Local-part of RFC 5321, quoted strings too; it need not exist."""
    verdict = host.check(craft(rsa, i=f"{local}@sub.{DOMAIN}"))
    (result,) = (edit for edit in verdict.edits if isinstance(edit, AuthenticationResult))
    assert (result.result, dict(result.properties)["header.i"]) == ("pass", f"{local}@sub.{DOMAIN}")


@pytest.mark.parametrize("identity", ["joe@sub=2Esender.example", "joe=40sender.example", "=40sub.sender=2eexample"])
def test_the_identity_may_be_written_in_quoted_printable(host: SigningHost, rsa: PrivateKey, identity: str) -> None:
    """RFC 6376 2.11, 3.5 i=: what counts is what it says when decoded."""
    assert host.one(craft(rsa, i=identity)) == ("pass", "")


@pytest.mark.parametrize("identity", ["joe=40other.example", "joe@sender.example=40other.example"])
def test_quoted_printable_hides_no_foreign_domain(host: SigningHost, rsa: PrivateKey, identity: str) -> None:
    assert host.one(craft(rsa, i=identity)) == ("permerror", "i= is not within d=")
