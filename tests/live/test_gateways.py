"""Mail that comes through a gateway of our own: SPF looks at who gave it to the gateway, by that Postfix' Received."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_host import FORGER, MAIL, STRANGER, LiveHost, live_host
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-gateways")


@pytest.fixture(scope="module")
def inner() -> Iterator[LiveHost]:
    """Not one of our networks, this loopback: only a relay."""
    require("master")
    require_root()
    with live_host({"host": {"networks": [], "relays": ["127.0.0.1"]}, "milter": {"workers": 1}}) as host:
        host.add("spf", "before-queue", "--context", "level=3")
        yield host


@pytest.fixture(scope="module")
def gateway(inner: LiveHost) -> Iterator[PostfixInstance]:
    settings = PostfixSettings(
        domains=(),
        transports={"local.test": f"smtp:[127.0.0.1]:{inner.postfix.smtp_port}"},
        host_name="gw.test.example",
        main={"relay_domains": "local.test"},
    )
    with PostfixInstance(settings) as running:
        yield running


def send(gateway: PostfixInstance, sender: str, client: str, mail: bytes = MAIL) -> str:
    """Its queue id at the gateway."""
    with SmtpClient(gateway.smtp_port) as smtp:
        smtp.xclient("mail.friend.example", addr=client, name="mail.friend.example")
        sent = smtp.send(sender, "bob@local.test", mail)
        assert sent.ok, sent.final.text
        return sent.queue_id


def test_the_client_before_the_gateway_counts(inner: LiveHost, gateway: PostfixInstance) -> None:
    send(gateway, "alice@friend.example", STRANGER)
    (mail,) = inner.server.wait_for_mail("bob@local.test")
    assert b"spf=pass smtp.mailfrom=alice@friend.example" in mail
    assert f"client-ip={STRANGER}".encode() in mail


def test_a_forger_does_not_hide_behind_the_gateway(inner: LiveHost, gateway: PostfixInstance) -> None:
    """Nor behind a field that looks like the gateway's."""
    forged = (
        f"Received: from a ([{STRANGER}]) by gw.test.example (Postfix) with ESMTP id X; Mon, 1 Jan 2024 00:00:00 +0000"
    )
    queue_id = send(gateway, "alice@friend.example", FORGER, forged.encode() + b"\n" + MAIL)
    refused = gateway.wait_for_log(rf"{queue_id}: to=<bob@local.test>.*status=(\S+) (.*)")
    assert refused[1] == "bounced"
    assert f"{FORGER} is not allowed" in refused[2]
