"""SCRAM-SHA-256 and PLAIN over TLS: Postfix asks Dovecot, which has the hashes that `postroom restore` wrote."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from postroom.testing.ports import LOOPBACK
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import find_program, wait_until
from postroom.testing.server import PostroomServer
from requirements import require, require_root

from .conftest import LoginServer

PASSWORD = "correct, horse = battery"  # of a test
TAKEN, GO_ON, REFUSED = 235, 334, 535  # RFC 4954 6


class Refused(Exception):
    """The server does not want this one in."""


@dataclass
class Scram:
    """The client's side of one exchange (RFC 5802 3, RFC 7677), without channel binding."""

    user: str
    password: str
    nonce: str

    @property
    def first(self) -> str:
        return f"n={self.user.replace('=', '=3D').replace(',', '=2C')},r={self.nonce}"

    def final(self, server_first: str) -> tuple[str, str]:
        """What to answer, and what the server then proves that it knows the password's hash with."""
        facts = dict(part.split("=", 1) for part in server_first.split(","))
        assert facts["r"].startswith(self.nonce)
        assert int(facts["i"]) >= 4096  # RFC 7677 4
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), base64.b64decode(facts["s"]), int(facts["i"]))
        without_proof = f"c={text_64(b'n,,')},r={facts['r']}"
        said = ",".join((self.first, server_first, without_proof))
        client_key = keyed(salted, "Client Key")
        signature = keyed(hashlib.sha256(client_key).digest(), said)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        return f"{without_proof},p={text_64(proof)}", f"v={text_64(keyed(keyed(salted, 'Server Key'), said))}"


def keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def text_64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def word_of(user: str, password: str) -> str:
    """RFC 4616 2."""
    return text_64(f"\0{user}\0{password}".encode())


def test_the_client_does_what_the_rfc_shows() -> None:
    scram = Scram("user", "pencil", "rOprNGfwEbeRWgbNEkqO")  # RFC 7677 3
    answer = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final, proof = scram.final(answer)
    assert final.endswith(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert proof == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@dataclass
class Host:
    server: PostroomServer
    postfix: PostfixInstance
    dovecot: LoginServer
    trust: ssl.SSLContext

    def refresh(self) -> None:
        """What the directory says now, where Dovecot reads it: at most once a second."""
        self.server.succeed("restore", "--postfix-config", str(self.postfix.etc))
        written = (self.postfix.etc / "postroom" / "passwd").read_bytes()
        assert PASSWORD.encode() not in written

    def session(self, *, tls: bool = True) -> smtplib.SMTP:
        smtp = smtplib.SMTP(LOOPBACK, self.postfix.smtp_port, "client.example", timeout=30)
        smtp.ehlo()
        if tls:
            smtp.starttls(context=self.trust)
            smtp.ehlo()
        return smtp

    def scram(self, user: str, password: str, *, tls: bool = True) -> None:
        """Refused unless both sides have proved that they know the password."""
        with self.session(tls=tls) as smtp:
            exchange = Scram(user, password, secrets.token_urlsafe(18))
            code, server_first = smtp.docmd("AUTH", f"SCRAM-SHA-256 {text_64(f'n,,{exchange.first}'.encode())}")
            if code != GO_ON:
                raise Refused(code, server_first)
            final, proof = exchange.final(base64.b64decode(server_first).decode())
            code, server_final = smtp.docmd(text_64(final.encode()))
            if code != GO_ON:
                raise Refused(code, server_final)
            assert base64.b64decode(server_final).decode() == proof
            assert smtp.docmd("")[0] == TAKEN
            assert smtp.docmd("MAIL", "FROM:<bob@local.test>")[0] == 250
            assert smtp.docmd("RCPT", "TO:<far@elsewhere.example>")[0] == 250  # relays for those who logged in

    def lets_in(self, user: str, password: str) -> bool:
        try:
            self.plain(user, password)
        except Refused:
            return False
        return True

    def set_password(self, user: str, password: str) -> None:
        done = self.server.cli("accounts", "password", user, "--stdin", input=f"{password}\n")
        assert done.returncode == 0, done.stderr

    def plain(self, user: str, password: str) -> None:
        with self.session() as smtp:
            code, said = smtp.docmd("AUTH", f"PLAIN {word_of(user, password)}")
            if code != TAKEN:
                raise Refused(code, said)


def fill(server: PostroomServer) -> None:
    server.succeed("accounts", "domain", "add", "local.test")
    for user in ("bob", "ann", "eve"):
        server.succeed("accounts", "mailbox", "add", f"{user}@local.test")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    require("master", "dovecot", "openssl")
    require_root()
    with ExitStack() as stack:
        server = stack.enter_context(PostroomServer({"directory": {"provider": "accounts"}}, prepare=fill))
        settings = PostfixSettings(main={"virtual_mailbox_domains": "", "virtual_mailbox_maps": ""})
        postfix = stack.enter_context(PostfixInstance(settings))
        dovecot = stack.enter_context(LoginServer(postfix))
        made = Host(server, postfix, dovecot, certify(postfix))
        for user in ("bob", "ann", "eve"):
            made.set_password(f"{user}@local.test", PASSWORD)
        made.refresh()
        instance = ("--postfix-config", str(postfix.etc), "--maps", str(postfix.etc / "postroom"))
        server.succeed("postfix", "install", *instance, "--sasl", f"inet:{LOOPBACK}:{dovecot.auth_port}", "--reload")
        wait_until(lambda: offers(made), "logins are offered")
        yield made


def certify(postfix: PostfixInstance) -> ssl.SSLContext:
    """Gives Postfix a certificate of its own making; what a client needs to believe it."""
    key, certificate = postfix.etc / "key.pem", postfix.etc / "certificate.pem"
    subprocess.run(
        [
            find_program("openssl") or "", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=mail.test", "-addext", f"subjectAltName=IP:{LOOPBACK}",
            "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    chosen = ("smtpd_tls_security_level=may", f"smtpd_tls_chain_files={key}, {certificate}")
    subprocess.run([find_program("postconf") or "", "-c", postfix.etc, "-e", *chosen], check=True, timeout=60)
    return ssl.create_default_context(cafile=str(certificate))


def offers(host: Host) -> bool:
    try:
        with host.session() as smtp:
            return smtp.has_extn("auth")
    except (OSError, smtplib.SMTPException):
        return False


@pytest.mark.parametrize("tls", [True, False])
def test_scram_proves_both_sides(host: Host, tls: bool) -> None:
    host.scram("bob@local.test", PASSWORD, tls=tls)


@pytest.mark.parametrize("user", ["bob@local.test", "nobody@local.test"])
def test_scram_with_a_wrong_password_is_refused(host: Host, user: str) -> None:
    with pytest.raises(Refused, match=str(REFUSED)):
        host.scram(user, f"{PASSWORD}!")


def test_plain_is_offered_and_taken_over_tls_only(host: Host) -> None:
    host.plain("bob@local.test", PASSWORD)
    with pytest.raises(Refused, match=str(REFUSED)):
        host.plain("bob@local.test", "wrong")
    with host.session(tls=False) as smtp:
        assert smtp.esmtp_features["auth"].split() == ["SCRAM-SHA-256"]
        assert smtp.docmd("AUTH", f"PLAIN {word_of('bob@local.test', PASSWORD)}")[0] != TAKEN


@pytest.mark.parametrize(
    ("user", "off", "on"),
    [
        (
            "ann@local.test",
            ("mailbox", "set", "ann@local.test", "--disabled"),
            ("mailbox", "set", "ann@local.test", "--enabled"),
        ),
        ("eve@local.test", ("password", "eve@local.test", "--disable"), ("password", "eve@local.test", "--enable")),
    ],
    ids=["mailbox", "login"],
)
def test_who_is_disabled_is_refused_until_enabled_again(
    host: Host, user: str, off: tuple[str, ...], on: tuple[str, ...]
) -> None:
    host.scram(user, PASSWORD)
    host.server.succeed("accounts", *off)
    host.refresh()
    wait_until(lambda: not host.lets_in(user, PASSWORD), "Dovecot has read who is disabled")
    for log_in in (host.scram, host.plain):
        with pytest.raises(Refused, match=str(REFUSED)):
            log_in(user, PASSWORD)
    host.scram("bob@local.test", PASSWORD)
    host.server.succeed("accounts", *on)
    host.refresh()
    wait_until(lambda: host.lets_in(user, PASSWORD), "Dovecot has read who is enabled")
    host.scram(user, PASSWORD)
    host.plain(user, PASSWORD)


def test_of_passwords_set_within_a_second_the_last_one_opens(host: Host) -> None:
    for password in ("the first one", "the second one", "the third one"):
        host.set_password("ann@local.test", password)
        host.refresh()
        host.lets_in("ann@local.test", password)  # Dovecot has looked, perhaps before the next one of the same second
    wait_until(lambda: host.lets_in("ann@local.test", "the third one"), "the last password is taken")
    assert not host.lets_in("ann@local.test", "the second one")
    host.set_password("ann@local.test", PASSWORD)
    host.refresh()
    wait_until(lambda: host.lets_in("ann@local.test", PASSWORD), "the old password is back")
