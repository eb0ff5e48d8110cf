"""Infected mail through a real Postfix, our server, and a real clamd: refused, kept, marked, or asked to wait."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from live_host import LiveHost, live_host
from plugins.antivirus.scanners import FOUND_NAME, clean, infected_deep_inside
from postroom.testing.clamd import ClamdInstance
from postroom.testing.sink import field_values
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-antivirus")

INFECTED, CLEAN = (b"".join(mail().chunks()).replace(b"\r\n", b"\n") for mail in (infected_deep_inside, clean))


@pytest.fixture(scope="module")
def shared_host() -> Iterator[tuple[LiveHost, ClamdInstance]]:
    """With a clamd of its own, which a test may kill."""
    require("master", "clamd")
    require_root()
    with (
        ClamdInstance() as scanner,
        live_host({"handlers": {"clamav": {"servers": [f"unix:{scanner.socket}"]}}}) as host,
    ):
        yield host, scanner


def test_infected_mail_meets_what_is_set(shared_host: tuple[LiveHost, ClamdInstance]) -> None:
    host, scanner = shared_host
    host.add("clamav", "before-queue", "--type", "recipient", "--address", "bob@local.test")
    assert host.send(mail=CLEAN).ok
    assert len(host.server.wait_for_mail("bob@local.test")) == 1

    refused = host.send(mail=INFECTED)
    assert not refused.ok
    assert refused.final.text == "550 5.7.1 Message refused: it contains malicious content"

    bob = ("handlers", "set", "clamav", "--address", "bob@local.test", "--context")
    host.server.succeed(*bob, "infected=quarantine")
    assert host.send(mail=INFECTED).ok
    (held,) = json.loads(host.server.succeed("quarantine", "list", "--json"))
    assert (held["handler"], held["recipients"]) == ("clamav", ["bob@local.test"])
    assert FOUND_NAME in host.server.succeed("quarantine", "show", held["id"])

    host.server.succeed(*bob, "infected=mark, subject_tag=[VIRUS]")
    assert host.send(mail=b"X-Virus-Status: clean\n" + INFECTED).ok
    mails = host.server.wait_for_mail("bob@local.test", 2)
    (marked,) = [mail for mail in mails if b"X-Virus-Status" in mail]
    assert field_values(marked, "X-Virus-Status") == [f'infected; name="{FOUND_NAME}"; by=clamav']
    assert field_values(marked, "Subject") == ["[VIRUS] outer"]

    scanner.kill()
    waiting = host.send(mail=CLEAN)
    assert waiting.final.code == 451
    assert str(scanner.socket) not in waiting.final.text
