"""Through a real Postfix and `postroom serve`, into real Maildirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_host import LiveHost, live_host
from postroom.testing.ports import free_port
from postroom.testing.processes import wait_until
from postroom.testing.sink import field_values
from postroom.testing.spamd import GTUBE, SpamdInstance
from requirements import require, require_root

SPAM = b"X-Spam-Flag: NO\nFrom: a@friend.example\nTo: bob@local.test\nSubject: offer\n\n" + GTUBE.encode() + b"\n"


@pytest.fixture(scope="module")
def host(spamd: SpamdInstance) -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"handlers": {"spam": {"servers": [str(spamd.address)]}}}) as running:
        yield running


def arrived(folder: Path) -> bytes:
    wait_until(lambda: len(list(folder.glob("new/*"))) == 1, f"a mail in {folder}", 30)
    (path,) = folder.glob("new/*")
    octets = path.read_bytes()
    path.unlink()
    return octets


def test_each_mailbox_has_its_spam_where_it_wants_it(host: LiveHost) -> None:
    host.clear()
    for user, context in (("bob", "action=junk"), ("eve", "tag=[SPAM]"), ("dan", "action=quarantine")):
        words = ("--type", "recipient", "--address", f"{user}@local.test", "--context", context)
        host.add("spam", "before-local", *words)
    host.add("spam", "before-local", "--context", "action=discard, tag=[GLOBAL]")  # their own go first
    mail = host.base / "mail/local.test"
    assert host.send(recipients=["bob@local.test", "eve@local.test", "dan@local.test"], mail=SPAM).ok
    junk, inbox = arrived(mail / "bob/Maildir/.Junk"), arrived(mail / "eve/Maildir")
    assert field_values(junk, "X-Spam-Flag") == ["YES"]
    assert field_values(junk, "Subject") == ["*****SPAM***** offer"]
    assert field_values(inbox, "Subject") == ["[SPAM] offer"]
    wait_until(lambda: "dan@local.test" in host.server.succeed("quarantine", "list"), "dan's is held")
    assert host.server.mailbox("dan@local.test") == []


def test_a_filter_that_is_gone_is_in_the_log_and_loses_nothing(host: LiveHost) -> None:
    host.clear()
    gone = f"inet:127.0.0.1:{free_port()}"
    host.add("spam", "before-local", "--context", f"servers={gone}")
    sent = host.send(mail=SPAM)
    assert sent.ok
    inbox = arrived(host.base / "mail/local.test/bob/Maildir")
    assert field_values(inbox, "X-Spam-Status") == []

    def told() -> bool:
        lines = [line for line in host.server.log_lines() if line.facts.get("handler") == "spam"]
        return any(gone in str(line.facts.get("reason", "")) for line in lines)

    wait_until(told, "the log names the server")
    host.server.succeed("handlers", "set", "spam", "--on-error", "defer")
    deferred = host.send(mail=SPAM)
    host.wait_status(deferred.queue_id, "deferred")
