"""Through a real Postfix: what leaves verifies at the next hop, what comes back is checked."""

from __future__ import annotations

import re
from collections.abc import Iterator

import dkim
import pytest
from live_host import LiveHost, live_host
from postroom.testing.nameserver import Nameserver
from postroom.testing.sink import field_values
from requirements import require, require_root

OURS = "local.test"
PLAIN = b"From: bob@local.test\nTo: dora@elsewhere.example\nSubject: hello\nDate: Tue, 14 Nov 2023 22:13:20 +0000\n"
MAILS = {
    "plain": PLAIN + b"\nHello!\n",
    "empty": PLAIN + b"\n",
    "nothing but From": b"From: bob@local.test\n\nHello!\n",
    "eight bit": PLAIN + b"Subject-Note: gr\xc3\xbc\xc3\x9fe\n\n\xfcber 8 bit\n",
    "dots and blanks": PLAIN + b"\n.\n..\n  two  blanks \t\n\n\n\n",
    "folds": PLAIN.replace(b"hello", b"a\n folded\n\tsubject  of  ours") + b"\nHello!\n",
    "bare CR": PLAIN + b"\none\rtwo\n",
    "a full line": PLAIN + b"\n" + b"x" * 998 + b"\n",
}


@pytest.fixture(scope="module", params=["native", "libmilter"])
def signing_host(request: pytest.FixtureRequest) -> Iterator[tuple[LiveHost, Nameserver]]:
    require("master")
    require_root()
    with (
        Nameserver() as nameserver,
        live_host({"milter": {"engine": request.param}, "dns": {"nameservers": [nameserver.address]}}) as host,
    ):
        for words in (("--type", "rsa"), ("--type", "ed25519", "--selector", "e")):
            line = host.server.succeed("dk", "keygen", OURS, *words)
            name, text = line.split(".", 1)[0], "".join(re.findall(r'"([^"]*)"', line))
            nameserver.zone[f"{name}._domainkey.{OURS}", "TXT"] = [text.encode()]
        host.server.succeed("handlers", "add", "dk_sign", "--type", "sender-domain", "--address", OURS, "--enabled")
        host.add("dk_check", "before-local")
        yield host, nameserver


@pytest.mark.parametrize("mail", MAILS.values(), ids=MAILS.keys())
def test_what_leaves_verifies_there_and_back_here(signing_host: tuple[LiveHost, Nameserver], mail: bytes) -> None:
    host, nameserver = signing_host
    host.sink.received.clear()
    for path in (host.base / "mail").glob("*/*/Maildir/new/*"):
        path.unlink()
    assert host.send("bob@local.test", ["dora@elsewhere.example"], mail, client="").ok
    (received,) = host.sink.wait(1)
    assert len(received.field("DKIM-Signature")) == 2

    def txt(name: bytes, timeout: float = 5) -> bytes:
        (record,) = nameserver.zone[name.decode().rstrip("."), "TXT"]
        return bytes(record)

    rsa = next(at for at, text in enumerate(received.field("DKIM-Signature")) if "rsa-sha256" in text)
    assert dkim.DKIM(received.mail).verify(idx=rsa, dnsfunc=txt)

    back = received.mail.replace(b"\r\n", b"\n")
    assert host.send("dora@elsewhere.example", "bob@local.test", back).ok
    (delivered,) = host.server.wait_for_mail("bob@local.test")
    (results,) = field_values(delivered, "Authentication-Results")
    assert results.count("dkim=pass") == 2, results


def test_a_mail_that_was_changed_on_the_way_fails(
    signing_host: tuple[LiveHost, Nameserver],
) -> None:
    host, _ = signing_host
    for path in (host.base / "mail").glob("*/*/Maildir/new/*"):
        path.unlink()
    host.sink.received.clear()
    assert host.send("bob@local.test", ["dora@elsewhere.example"], MAILS["plain"], client="").ok
    (received,) = host.sink.wait(1)
    changed = received.mail.replace(b"\r\n", b"\n").replace(b"Hello!", b"Hullo!")
    assert host.send("dora@elsewhere.example", "bob@local.test", changed).ok
    (delivered,) = host.server.wait_for_mail("bob@local.test")
    (results,) = field_values(delivered, "Authentication-Results")
    assert results.count("dkim=fail") == 2, results
    assert len(field_values(delivered, "DKIM-Signature")) == 2
