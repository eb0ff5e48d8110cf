"""Installed beside another milter that runs: the order holds, and whoever is second sees what the first has made."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import Child, temporary_directory, wait_until
from postroom.testing.server import PostroomServer
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

DOMAIN = "sender.example"
MAIL = f"From: alice@{DOMAIN}\r\nTo: bob@local.test\r\nSubject: hello\r\n\r\nHello!\r\n".encode()

HANDLER = """#!/bin/sh
cat > {seen}
sed 's/^Subject: hello/Subject: changed/;s/^Hello!/Changed!/' {seen}
echo PASS >&2
"""


@dataclass
class Host:
    """A Postfix with opendkim as its milter, and postroom beside it, not yet installed."""

    base: Path
    postfix: PostfixInstance
    server: PostroomServer
    opendkim: str
    record: bytes

    @property
    def seen(self) -> bytes:
        """What our handler was given last."""
        path = self.base / "seen"
        return path.read_bytes() if path.exists() else b""

    def command(self, verb: str, *arguments: str) -> None:
        self.server.succeed("postfix", verb, "--postfix-config", str(self.postfix.etc), "--reload", *arguments)

    def setting(self, name: str) -> str:
        command = ["postconf", "-c", str(self.postfix.etc), "-h", name]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def send(self) -> bytes:
        """The mail as it comes into the mailbox."""
        before = len(self.server.mailbox("bob@local.test"))
        with SmtpClient(self.postfix.smtp_port) as smtp:
            smtp.ehlo("client.example")
            sent = smtp.send(f"alice@{DOMAIN}", ["bob@local.test"], MAIL)
        assert sent.ok, sent
        return self.server.wait_for_mail("bob@local.test", before + 1)[-1]

    def send_when(self, condition: str) -> bytes:
        """As `send`, once Postfix' processes have read the new main.cf."""
        mails = [self.send()]

        def arrived() -> bool:
            if not re.search(condition.encode(), mails[-1]):
                mails.append(self.send())
            return bool(re.search(condition.encode(), mails[-1]))

        wait_until(arrived, condition)
        return mails[-1]

    def verifies(self, mail: bytes) -> bool:
        at = mail.index(b"DKIM-Signature")
        octets = mail[at:].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return bool(dkim.verify(octets, dnsfunc=lambda *_, **__: self.record))


@pytest.fixture
def host() -> Iterator[Host]:
    require("master", "opendkim")
    require_root()
    with ExitStack() as stack:
        base = stack.enter_context(temporary_directory("beside"))
        base.chmod(0o777)
        key = rsa.generate_private_key(65537, 2048)
        pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
        (base / "key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, no_password))
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signer = SocketAddress("inet", LOOPBACK, free_port())
        (base / "sign.conf").write_text(
            f"Socket inet:{signer.port}@{LOOPBACK}\nDomain {DOMAIN}\nSelector s\nKeyFile {base}/key\nMode s\n"
            f"Canonicalization relaxed/relaxed\nRequireSafeKeys no\nBackground no\nPidFile {base}/pid\n"
            f"InternalHosts {LOOPBACK}\nUMask 007\n"
        )
        child = Child(["opendkim", "-f", "-x", str(base / "sign.conf")], base / "opendkim.log")
        stack.callback(child.stop)
        child.wait_ready(signer)
        server = stack.enter_context(PostroomServer())
        (base / "change").write_text(HANDLER.format(seen=base / "seen"))
        (base / "change").chmod(0o755)
        server.succeed(
            "handlers", "add", "change", "--stage", "before-queue", "--type", "global", "--exec", str(base / "change"),
            "--enabled",
        )  # fmt: skip
        opendkim = f"inet:{LOOPBACK}:{signer.port}"
        plain = PostfixSettings(milters=(opendkim,), local="error:5.1.1 nothing is installed")
        postfix = stack.enter_context(PostfixInstance(plain))
        record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
        yield Host(base, postfix, server, opendkim, record)


def test_before_a_signer_it_signs_what_we_have_made(host: Host) -> None:
    before = {path.name: path.read_bytes() for path in host.postfix.etc.iterdir()}
    host.command("install")
    assert host.setting("smtpd_milters") == f"{host.server.milter}, {host.opendkim}"
    mail = host.send_when("Subject: changed")
    assert b"DKIM-Signature" in mail
    assert b"Changed!" in mail
    assert b"DKIM-Signature" not in host.seen
    assert host.verifies(mail)
    host.command("uninstall")
    assert {path.name: path.read_bytes() for path in host.postfix.etc.iterdir()} == before


def test_after_a_signer_we_see_its_signature(host: Host) -> None:
    host.command("install", "--position", "last")
    assert host.setting("smtpd_milters") == f"{host.opendkim}, {host.server.milter}"
    mail = host.send_when("Subject: changed")
    assert b"DKIM-Signature" in host.seen
    assert b"DKIM-Signature" in mail
    assert not host.verifies(mail)  # as it must be: the handler changed what was signed
    assert host.verifies(host.seen)  # and what it was given was whole
