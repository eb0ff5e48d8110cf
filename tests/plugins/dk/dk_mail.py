"""Keys, DNS and signed mails for the tests of dk."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from postroom.config import Config, Host, Paths
from postroom.mail import Envelope, Message, TrafficClass, parse_message
from postroom.testing import FakeServices, StaticResolver, envelope
from postroom.verdict import Verdict
from postroom_dk.canonical import Canonicalization, canonical_body, header_octets, select
from postroom_dk.check import CheckSettings, DkCheck
from postroom_dk.keystore import KeyState, KeyStore
from postroom_dk.mailview import header_fields
from postroom_dk.privatekey import KeyType, PrivateKey, make_key
from postroom_dk.results import DkimFinding
from postroom_dk.sign import DkSign, SignSettings

DOMAIN = "sender.example"
MAIL = (
    b"From: Alice <alice@sender.example>\r\n"
    b"To: bob@recipient.example\r\n"
    b"Subject: the\r\n\tweather  today\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"Message-ID: <1@sender.example>\r\n"
    b"\r\n"
    b"It  rains.\t\r\n\r\nStill.  \r\n\r\n\r\n"
)


def name_of(selector: str, domain: str = DOMAIN) -> tuple[str, str]:
    return (f"{selector}._domainkey.{domain}", "TXT")


class SigningHost:
    """A host with keys under `tmp_path` whose records are in its DNS."""

    def __init__(self, root: Path, keys: dict[str, PrivateKey] | None = None, domain: str = DOMAIN) -> None:
        self.store = KeyStore(root / "dkim")
        self.dns = StaticResolver()
        self.services = FakeServices(
            root,
            dns=self.dns,
            config=Config(paths=Paths(state=root), host=Host(name="mx.recipient.example")),
        )
        for selector, key in (keys or {}).items():
            self.add(selector, key, domain)

    def add(self, selector: str, key: PrivateKey, domain: str = DOMAIN, state: KeyState = KeyState.ACTIVE) -> None:
        self.store.add(domain, selector, key, state)
        self.publish(selector, key.record().encode(), domain)

    def publish(self, selector: str, record: bytes | Exception, domain: str = DOMAIN) -> None:
        self.dns.records[name_of(selector, domain)] = record if isinstance(record, Exception) else (record,)

    def sign(
        self, octets: bytes | Message = MAIL, settings: SignSettings | None = None, sent: Envelope | None = None
    ) -> Verdict:
        message = octets if isinstance(octets, Message) else parse_message(octets)
        sent = sent or envelope("alice@sender.example", traffic=TrafficClass.AUTHENTICATED)
        return DkSign().before_remote(sent, message, settings or SignSettings(), self.services)

    def signed(self, octets: bytes = MAIL, settings: SignSettings | None = None, sent: Envelope | None = None) -> bytes:
        message = parse_message(octets)
        return b"".join(message.with_edits(self.sign(message, settings, sent).edits).chunks())

    def check(self, octets: bytes | Message, settings: CheckSettings | None = None) -> Verdict:
        message = octets if isinstance(octets, Message) else parse_message(octets)
        return DkCheck().before_local(message, settings or CheckSettings(), self.services)

    def find(self, octets: bytes | Message, settings: CheckSettings | None = None) -> DkimFinding:
        finding = self.check(octets, settings).finding
        assert isinstance(finding, DkimFinding)
        return finding

    def one(self, octets: bytes | Message, settings: CheckSettings | None = None) -> tuple[str, str]:
        """Result and reason of the only signature."""
        (found,) = self.find(octets, settings).signatures
        return (found.status.value, found.reason)


def rsa_key() -> PrivateKey:
    return make_key(KeyType.RSA, 2048)


def craft(key: PrivateKey, octets: bytes = MAIL, *, only: tuple[bytes, ...] | None = None, **tags: str | None) -> bytes:
    """A mail with a signature whose tags are as given (None: left out), correctly computed over them.

    `only`: the names that are hashed, where h= shall say something else.
    """
    message = parse_message(octets)
    form = tags.get("c") or "relaxed/relaxed"
    header_form, _, body_form = form.partition("/")
    length = tags.get("l")
    body = canonical_body(message.body.chunks(), Canonicalization((body_form or "simple").encode()))
    body = body[: int(length)] if length and length.isdigit() else body
    values: dict[str, str | None] = {
        "v": "1",
        "a": key.algorithm.value.decode(),
        "c": form,
        "d": DOMAIN,
        "s": "s",
        "h": "from:to:subject",
        "bh": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        **tags,
    }
    unsigned = " " + "; ".join(f"{name}={value}" for name, value in values.items() if value is not None) + "; b="
    fields = header_fields(message.fields)
    names = only if only is not None else tuple((values["h"] or "").encode().split(b":"))
    froms = sum(name.lower() == b"from" for name, _ in fields)
    signed = [fields[at] for at in select(fields, [*names, *[b"from"] * froms])]
    octets_signed = header_octets(
        signed, (b"DKIM-Signature", unsigned.encode() + b"\r\n"), Canonicalization(header_form.encode())
    )
    signature = base64.b64encode(key.sign(hashlib.sha256(octets_signed).digest()))
    return b"DKIM-Signature:" + unsigned.encode() + signature + b"\r\n" + octets
