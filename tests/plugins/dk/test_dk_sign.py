"""dk_sign: whose mail is signed, with which keys, over what, and what happens to a key that is none."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.dk.dk_mail import DOMAIN, MAIL, SigningHost
from postroom.config import ConfigError, Duration, build
from postroom.mail import Body, Envelope, InsertField, Message, ReplaceBody, TrafficClass, parse_message
from postroom.testing import envelope
from postroom.verdict import Action, Verdict
from postroom_dk.keystore import STATES_FILE, KeyState, KeyStore, KeyUnusable, check_domain, check_selector
from postroom_dk.privatekey import KeyType, PrivateKey, make_key
from postroom_dk.results import Status
from postroom_dk.sign import SenderCheck, SignSettings
from postroom_dk.signing import has_line_over, names_to_sign, with_crlf

AUTHENTICATED = TrafficClass.AUTHENTICATED


def signature_of(verdict: Verdict) -> dict[bytes, bytes]:
    """Tags of the first signature."""
    (value, *_) = [edit.value for edit in verdict.edits if isinstance(edit, InsertField)]
    parts = [part.partition(b"=") for part in re.sub(rb"\s+", b"", value).split(b";")]
    return {name: text for name, _, text in parts}


def test_what_is_signed_verifies_and_stands_on_top(host: SigningHost) -> None:
    verdict = host.sign()
    assert verdict.action is Action.PASS
    (edit,) = verdict.edits
    assert isinstance(edit, InsertField)
    assert (edit.name, edit.position) == (b"DKIM-Signature", 0)
    assert edit.value.startswith(b" v=1; ")
    assert all(line[:1] in (b" ", b"\t") and len(line) < 79 for line in edit.value.split(b"\r\n"))
    assert host.find(host.signed()).author_passed


def test_from_is_signed_once_more_and_length_never(host: SigningHost) -> None:
    tags = signature_of(host.sign())
    assert tags[b"h"].split(b":").count(b"from") == 2
    assert b"l" not in tags
    assert (tags[b"c"], tags[b"t"]) == (b"relaxed/relaxed", b"1700000000")


def test_two_registrations_make_one_signature(host: SigningHost) -> None:
    once = parse_message(MAIL).with_edits(host.sign().edits)
    verdict = host.sign(once)
    assert (verdict.action, verdict.reason) == (Action.SKIP, "signed for sender.example already")


def test_a_signature_that_the_sender_wrote_is_not_taken_for_ours(host: SigningHost) -> None:
    forged = b"DKIM-Signature: v=1; d=sender.example; s=s; b=AAAA\r\n" + MAIL
    assert signature_of(host.sign(forged))[b"s"] == b"s"


def test_every_active_selector_signs(host: SigningHost, edwards: PrivateKey, rsa: PrivateKey) -> None:
    host.add("e", edwards)
    host.add("next", rsa, state=KeyState.PENDING)
    host.add("last", rsa, state=KeyState.RETIRED)
    finding = host.find(host.signed())
    assert {(found.selector, found.status) for found in finding.signatures} == {("s", Status.PASS), ("e", Status.PASS)}


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (envelope("alice@sender.example"), "inbound mail"),
        (envelope("eve@evil.example", traffic=AUTHENTICATED), "not aligned"),
        (envelope("eve@sender.example.evil.example", traffic=AUTHENTICATED), "not aligned"),
    ],
)
def test_outsiders_get_no_signature(host: SigningHost, sent: Envelope, why: str) -> None:
    verdict = host.sign(sent=sent)
    assert verdict.action is Action.SKIP
    assert why in verdict.reason
    assert verdict.edits == ()


@pytest.mark.parametrize(
    ("sender", "check", "signed"),
    [
        ("", SenderCheck.STRICT, True),
        ("bounces@lists.sender.example", SenderCheck.RELAXED, True),
        ("bounces@lists.sender.example", SenderCheck.STRICT, False),
        ("a@elsewhere.example", SenderCheck.RELAXED, False),
        ("a@elsewhere.example", SenderCheck.OFF, True),
    ],
)
def test_the_envelope_senders_domain_has_to_agree(
    host: SigningHost, sender: str, check: SenderCheck, signed: bool
) -> None:
    verdict = host.sign(settings=SignSettings(sender_check=check), sent=envelope(sender, traffic=AUTHENTICATED))
    assert (verdict.action is Action.PASS) is signed


@pytest.mark.parametrize(
    ("author", "signed_by"),
    [
        ("a@sender.example", b"sender.example"),
        ("a@Sender.EXAMPLE", b"sender.example"),
        ("a@sub.sender.example", b"sender.example"),
        ("a@deep.sub.sender.example", b"sender.example"),
        ("a@own.sender.example", b"own.sender.example"),
        ('"eve@evil.example" <a@sender.example>', b"sender.example"),
        ("a@sender.example, b@sender.example", b"sender.example"),
        ("a@sender.example, b@other.example", None),
        ("a@other.example", None),
        ("a@notsender.example", None),
        ("a@../sender.example", None),
        ("a@sender.example/../sender.example", None),
        ("a@example", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_author_chooses_the_key(
    host: SigningHost, edwards: PrivateKey, author: str, signed_by: bytes | None
) -> None:
    host.add("own", edwards, "own.sender.example")
    octets = MAIL.replace(b"Alice <alice@sender.example>", author.encode())
    verdict = host.sign(octets, SignSettings(sender_check=SenderCheck.OFF))
    assert (signature_of(verdict)[b"d"] if verdict.edits else None) == signed_by


def test_an_international_domain_is_signed_by_its_a_labels(tmp_path: Path, rsa: PrivateKey) -> None:
    host = SigningHost(tmp_path, {"s": rsa}, "xn--bcher-kva.example")
    octets = MAIL.replace(b"sender.example", "bücher.example".encode())
    sent = envelope("alice@bücher.example", traffic=AUTHENTICATED)
    assert signature_of(host.sign(octets, sent=sent))[b"d"] == b"xn--bcher-kva.example"
    assert host.find(host.signed(octets, sent=sent)).author_passed


def test_subdomains_can_be_left_to_their_own_keys(host: SigningHost) -> None:
    octets = MAIL.replace(b"alice@sender.example", b"alice@sub.sender.example")
    assert host.sign(octets, SignSettings(subdomains=False)).action is Action.SKIP


def test_settings_choose_what_is_signed(host: SigningHost) -> None:
    settings = SignSettings(fields=("from", "subject"), oversign=("from", "to", "cc"), expire=Duration(86400))
    tags = signature_of(host.sign(settings=settings))
    assert sorted(tags[b"h"].split(b":")) == [b"cc", b"from", b"from", b"subject", b"to", b"to"]
    assert tags[b"x"] == b"1700086400"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"fields": ["subject"], "oversign": []}, "From has to be signed"),
        ({"oversign": ["from", "Received"]}, "received changes on the way"),
        ({"expire": "10s"}, "days on its way"),
        ({"strict_mode": True}, "strict_modes"),
        ({"traffic": ["strangers"]}, "inbound"),
    ],
)
def test_settings_that_cannot_be_right_stop_the_start(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(SignSettings, table, "[handlers.dk_sign]")


def test_names_are_counted() -> None:
    fields = parse_message(b"To: a\r\nFROM: b\r\nto : c\r\n\r\n").fields
    assert names_to_sign(fields, ("from", "to", "cc"), ("from",)) == (b"from", b"from", b"to", b"to")


def test_bare_line_ends_are_made_right_and_then_signed(host: SigningHost) -> None:
    message = parse_message(MAIL)
    broken = Message(message.fields, Body(b"one\ntwo\rthree\r\nfour\r"))
    verdict = host.sign(broken)
    body = next(edit.body for edit in verdict.edits if isinstance(edit, ReplaceBody))
    assert body.read() == b"one\r\ntwo\r\nthree\r\nfour\r\n"
    leaving = broken.with_edits(verdict.edits)
    assert host.one(leaving) == ("pass", "")
    kept = host.sign(broken, SignSettings(bare_newlines=False))
    assert not any(isinstance(edit, ReplaceBody) for edit in kept.edits)


@pytest.mark.parametrize("size", [1, 3, 65535, 65536, 65537])
def test_line_ends_across_chunks_are_not_bare(size: int) -> None:
    assert with_crlf(Body(b"a" * size + b"\r\n" + b"b" * 65536 + b"\r\n")) is None
    converted = with_crlf(Body(b"a" * size + b"\r" + b"b" * 70000 + b"\n"))
    assert converted is not None
    assert converted.read() == b"a" * size + b"\r\n" + b"b" * 70000 + b"\r\n"


def test_eight_bit_mail_is_signed_as_it_is(host: SigningHost) -> None:
    octets = MAIL.replace(b"weather", b"w\xe4tter").replace(b"rains", "schüttet".encode())
    assert host.one(host.signed(octets)) == ("pass", "")


def test_a_line_that_servers_break_is_logged(host: SigningHost) -> None:
    host.sign(MAIL + b"x" * 999 + b"\r\n")
    assert any("998" in event for level, event, _ in host.services.log.lines if level == "warning")
    host.services.log.lines.clear()
    host.sign(MAIL + b"x" * 998 + b"\r\n")
    assert host.services.log.lines == []


@given(lines=st.lists(st.integers(0, 9), max_size=8), end=st.booleans())
def test_a_line_is_too_long_when_its_octets_are_more(lines: list[int], end: bool) -> None:
    octets = b"\r\n".join(b"x" * length for length in lines) + (b"\r\n" if end else b"")
    assert has_line_over(Body(octets), 6) is any(length > 6 for length in lines)
    long = Body(octets + b"\r\n" + b"abcde\r\n" * 20_000)
    assert has_line_over(long, 6) is any(length > 6 for length in lines)


# Keys


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"no key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        os.urandom(100),
        b"x" * 200_000,
    ],
    ids=["empty", "text", "broken", "noise", "huge"],
)
def test_a_key_file_that_is_no_key_is_named_in_the_log(host: SigningHost, octets: bytes) -> None:
    path = host.store.root / DOMAIN / "s.key"
    path.write_bytes(octets)
    with pytest.raises(KeyUnusable, match=re.escape(str(path))):
        host.sign()
    assert [level for level, _, facts in host.services.log.lines if str(path) in facts.get("problem", "")] == ["error"]


def test_another_key_signs_when_one_is_none(host: SigningHost, edwards: PrivateKey) -> None:
    host.add("e", edwards)
    (host.store.root / DOMAIN / "s.key").write_bytes(b"no key")
    assert signature_of(host.sign())[b"s"] == b"e"
    assert host.services.log.lines[0][0] == "error"


@pytest.mark.parametrize(
    ("place", "mode"),
    [("sender.example/s.key", 0o640), ("sender.example/s.key", 0o604), ("sender.example", 0o750), ("", 0o755)],
)
def test_a_key_that_others_may_read_does_not_sign(host: SigningHost, place: str, mode: int) -> None:
    path = host.store.root / place
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=f"{re.escape(str(path))}: mode {mode:04o}"):
        host.sign()
    assert host.sign(settings=SignSettings(strict_modes=False)).action is Action.PASS


def test_a_key_of_another_user_does_not_sign(host: SigningHost) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(host.store.root / DOMAIN / "s.key", 12345, -1)
    with pytest.raises(KeyUnusable, match="belongs to user id 12345"):
        host.sign()


def test_a_key_is_read_again_when_its_file_changes(tmp_path: Path, rsa: PrivateKey, edwards: PrivateKey) -> None:
    store = KeyStore(tmp_path / "dkim")
    selector = store.add(DOMAIN, "s", rsa, KeyState.ACTIVE)
    assert store.load(selector) is store.load(selector)
    selector.path.write_bytes(edwards.to_pem())
    assert store.load(selector).type is KeyType.ED25519
    selector.path.chmod(0o644)
    with pytest.raises(KeyUnusable, match="mode 0644"):
        store.load(selector)


def test_keys_are_written_for_the_server_alone(host: SigningHost) -> None:
    assert (host.store.root.stat().st_mode & 0o777, (host.store.root / DOMAIN).stat().st_mode & 0o777) == (0o700, 0o700)
    for path in (host.store.root / DOMAIN).iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_broken_list_of_states_is_named_and_nothing_is_signed(host: SigningHost) -> None:
    (host.store.root / DOMAIN / STATES_FILE).write_text("{")
    with pytest.raises(KeyUnusable, match=STATES_FILE):
        host.sign()


def test_a_key_that_was_put_there_by_hand_signs(tmp_path: Path, rsa: PrivateKey) -> None:
    directory = tmp_path / "dkim" / DOMAIN
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o700)
    key = directory / "hand.key"
    key.write_bytes(rsa.traditional_pem)  # as opendkim-genkey writes it
    key.chmod(0o600)
    assert signature_of(SigningHost(tmp_path).sign())[b"s"] == b"hand"


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "../x", "a b", "-a", "a..b", "x" * 300, "a\0b"])
def test_nothing_else_than_a_domain_becomes_a_path(text: str) -> None:
    with pytest.raises(ValueError, match="no domain"):
        check_domain(text)
    with pytest.raises(ValueError, match="no selector"):
        check_selector(text)


def test_no_seal_and_no_change_without_a_key(tmp_path: Path) -> None:
    verdict = SigningHost(tmp_path).sign()
    assert (verdict.action, verdict.edits) == (Action.SKIP, ())
    assert "no active key for sender.example" in verdict.reason


def test_make_key_makes_both_kinds() -> None:
    assert make_key(KeyType.ED25519).record().startswith("v=DKIM1; k=ed25519; p=")


def test_the_directory_of_keys_is_a_setting(tmp_path: Path, rsa: PrivateKey) -> None:
    host = SigningHost(tmp_path, {"s": rsa})
    (tmp_path / "dkim").rename(tmp_path / "elsewhere")
    assert host.sign().action is Action.SKIP
    settings = replace(SignSettings(), keys=Path(tmp_path / "elsewhere"))
    assert host.sign(settings=settings).action is Action.PASS
