"""The same mails signed by one and verified by the other: opendkim, rspamd, dkimpy, and us."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import dkim
import pytest
from plugins.dk.dk_mail import DOMAIN, MAIL, SigningHost, craft, rsa_key
from postroom.config import SocketAddress
from postroom.fronts.milter.client import Mail, MilterClient
from postroom.fronts.milter.wire import Response
from postroom.mail import parse_message
from postroom.testing import envelope
from postroom.testing.nameserver import Nameserver
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, temporary_directory
from postroom.testing.rspamd import RspamdInstance
from postroom_dk.privatekey import PrivateKey
from postroom_dk.sign import SignSettings
from requirements import require

MAILS = {
    "plain": MAIL,
    "empty body": MAIL.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    "blank lines": MAIL + b" \r\n\t\r\n\r\n",
    "eight bit": MAIL.replace(b"rains", "schüttet".encode()),
    "no last line end": MAIL + b"end",
    "folds": MAIL.replace(b"the\r\n\tweather", b"\r\n the\r\n\t\r\n weather  "),
    "two of a kind": b"Resent-To: dan@recipient.example\r\nResent-To: eve@recipient.example\r\n" + MAIL,
    "two To": b"To: carol@recipient.example\r\n" + MAIL,
}


@pytest.fixture(params=sorted(MAILS))
def octets(request: pytest.FixtureRequest) -> bytes:
    return MAILS[request.param]


def txt(host: SigningHost) -> Callable[..., bytes | None]:
    def lookup(name: bytes, timeout: float = 5) -> bytes | None:
        found = host.dns.records.get((name.decode().rstrip("."), "TXT"))
        return found[0] if isinstance(found, tuple) else None

    return lookup


def test_dkimpy_verifies_ours(host: SigningHost, octets: bytes) -> None:
    assert dkim.verify(host.signed(octets), dnsfunc=txt(host))


def test_dkimpy_sees_our_broken_ones(host: SigningHost, octets: bytes) -> None:
    assert not dkim.verify(host.signed(octets).replace(b"Alice", b"Alina"), dnsfunc=txt(host))


@pytest.mark.parametrize("form", [b"simple/simple", b"simple/relaxed", b"relaxed/simple", b"relaxed/relaxed"])
def test_we_verify_dkimpys(host: SigningHost, rsa: PrivateKey, octets: bytes, form: bytes) -> None:
    signature = dkim.sign(octets, b"s", DOMAIN.encode(), rsa.traditional_pem, canonicalize=tuple(form.split(b"/")))
    host.services.clock.advance(1e9)
    assert host.one(signature + octets) == ("pass", "")
    assert host.one(signature + octets.replace(b"Alice", b"Alina"))[0] == "fail"


class OpenDkim:
    """A private opendkim: signs what comes from loopback, verifies files."""

    def __init__(self, base: Path, key: PrivateKey) -> None:
        self.base, self.address = base, SocketAddress("inet", LOOPBACK, free_port())
        (base / "key").write_bytes(key.traditional_pem)
        (base / "key").chmod(0o600)
        (base / "dns").write_text(f"s._domainkey.{DOMAIN} {key.record()}\n")
        (base / "verify.conf").write_text(f"TestDNSData {base}/dns\n")

    def write_signing(self, form: str) -> list[str]:
        (self.base / "sign.conf").write_text(
            f"Socket inet:{self.address.port}@{LOOPBACK}\nDomain {DOMAIN}\nSelector s\nKeyFile {self.base}/key\n"
            f"Mode s\nCanonicalization {form}\nRequireSafeKeys no\nBackground no\nOversignHeaders From\nUMask 007\n"
            f"PidFile {self.base}/pid\nInternalHosts {LOOPBACK}\nSignatureAlgorithm rsa-sha256\n"
        )
        return ["opendkim", "-f", "-x", str(self.base / "sign.conf")]

    def verifies(self, octets: bytes) -> bool:
        path = self.base / "mail.eml"
        path.write_bytes(octets if octets.endswith(b"\r\n") else octets + b"\r\n")  # as every mail server ends it
        ran = subprocess.run(
            ["opendkim", "-x", str(self.base / "verify.conf"), "-t", str(path), "-v"], capture_output=True, check=True
        )
        assert b"verification" in ran.stdout, ran
        return b"succeeded" in ran.stdout

    def sign(self, octets: bytes) -> bytes:
        message = parse_message(octets)
        with MilterClient.open(self.address) as client:
            client.negotiate()
            client.connect(b"localhost", LOOPBACK.encode())
            client.helo(b"localhost")
            fields = [(found.name, found.value) for found in message.fields]
            answer = client.deliver(Mail(b"alice@sender.example", fields=fields, body=message.body.read()))
        (payload,) = (found for response, found in answer.modifications if response is Response.INSERT_HEADER)
        name, value, _ = payload[4:].split(b"\0")
        return name + b":" + value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n" + octets


@pytest.fixture(scope="module")
def opendkim_key() -> PrivateKey:
    return rsa_key()


@pytest.fixture(scope="module")
def opendkim(opendkim_key: PrivateKey) -> Iterator[OpenDkim]:
    require("opendkim")
    with temporary_directory("opendkim") as base:
        yield OpenDkim(base, opendkim_key)


@pytest.fixture(scope="module", params=["simple/simple", "relaxed/relaxed"])
def signing_opendkim(opendkim_key: PrivateKey, request: pytest.FixtureRequest) -> Iterator[OpenDkim]:
    require("opendkim")
    with temporary_directory("opendkim") as base:
        running = OpenDkim(base, opendkim_key)
        child = Child(running.write_signing(request.param), base / "opendkim.log")
        try:
            child.wait_ready(running.address)
            yield running
        finally:
            child.stop()


def test_opendkim_verifies_ours(tmp_path: Path, opendkim: OpenDkim, opendkim_key: PrivateKey, octets: bytes) -> None:
    host = SigningHost(tmp_path, {"s": opendkim_key})
    signed = host.signed(octets)
    assert opendkim.verifies(signed)
    assert not opendkim.verifies(signed.replace(b"Alice", b"Alina"))


def test_we_verify_opendkims(
    tmp_path: Path, signing_opendkim: OpenDkim, opendkim_key: PrivateKey, octets: bytes
) -> None:
    host = SigningHost(tmp_path, {"s": opendkim_key})
    host.services.clock.advance(1e9)
    if not octets.endswith(b"\r\n"):
        octets += b"\r\n"  # as every mail server ends a mail
    signed = signing_opendkim.sign(octets)
    assert b"a=rsa-sha256" in signed
    assert host.one(signed) == ("pass", "")
    assert host.one(signed.replace(b"Alice", b"Alina"))[0] == "fail"


class Rspamd:
    """A private rspamd that verifies DKIM and ARC with the keys of a nameserver of its own."""

    def __init__(self, running: RspamdInstance) -> None:
        self._running = running

    def symbols(self, octets: bytes) -> dict[str, list[str]]:
        """The symbols that it finds, with what it says about each."""
        url = f"http://{LOOPBACK}:{self._running.port}/checkv2"
        with urllib.request.urlopen(urllib.request.Request(url, octets), timeout=60) as answer:
            found = json.load(answer)["symbols"]
        return {name: facts.get("options", []) for name, facts in found.items()}


@pytest.fixture(scope="module")
def rspamd(opendkim_key: PrivateKey, edwards: PrivateKey) -> Iterator[Rspamd]:
    require("rspamd")
    records = {
        (f"{name}._domainkey.{DOMAIN}", "TXT"): (key.record().encode(),)
        for name, key in (("s", opendkim_key), ("e", edwards))
    }
    verifying = "enabled = true; check_local = true; check_authed = true;"
    with Nameserver(records) as nameserver:
        servers = f'nameserver = ["{LOOPBACK}:{nameserver.port}"];'
        dns = f"dns {{ {servers} timeout = 10s; retransmits = 3; }} task_timeout = 50s;"
        files = {"options.inc": dns, "dkim.conf": verifying, "arc.conf": verifying}
        with RspamdInstance(files=files) as running:
            yield Rspamd(running)


@pytest.mark.parametrize("name", sorted({*MAILS} - {"two To"}))
def test_rspamd_verifies_our_signatures_of_both_kinds(
    tmp_path: Path, rspamd: Rspamd, opendkim_key: PrivateKey, edwards: PrivateKey, name: str
) -> None:
    octets = MAILS[name]
    if not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    for selector, key in (("s", opendkim_key), ("e", edwards)):
        signed = SigningHost(tmp_path / selector, {selector: key}).signed(octets)
        assert f"s={selector};".encode() in signed
        assert f"{DOMAIN}:s={selector}" in rspamd.symbols(signed)["R_DKIM_ALLOW"]
        assert "R_DKIM_REJECT" in rspamd.symbols(signed.replace(b"Alice", b"Alina"))


@pytest.mark.parametrize("names", ["from:to", "from:to:to", "from:to:to:to"])
def test_rspamd_refuses_two_fields_where_one_may_be(rspamd: Rspamd, opendkim_key: PrivateKey, names: str) -> None:
    """Whatever is signed of them: our order, from the bottom up (RFC 6376 5.4.2), is also rspamd's.

    "two of a kind" above verifies with it, and so does everything at opendkim and dkimpy. But where a signed field that
    RFC 5322 3.6 allows once is there twice, rspamd breaks the signature on purpose, and says so in its log: "intended
    to be unique by email standards".
    """
    signed = craft(opendkim_key, MAILS["two To"], h=names)
    assert dkim.verify(signed, dnsfunc=lambda *_, **__: opendkim_key.record().encode())
    assert "R_DKIM_REJECT" in rspamd.symbols(signed)


def test_rspamd_verifies_our_seal(tmp_path: Path, rspamd: Rspamd, opendkim_key: PrivateKey) -> None:
    host = SigningHost(tmp_path, {"s": opendkim_key})
    settings, sent = SignSettings(arc_domain=DOMAIN), envelope("someone@other.example")
    sealed = MAIL
    for _ in range(3):
        sealed = host.signed(sealed, settings, sent)
        assert "ARC_ALLOW" in rspamd.symbols(sealed)
    assert "ARC_ALLOW" not in rspamd.symbols(sealed.replace(b"It  rains", b"It shines"))
