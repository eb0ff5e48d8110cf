"""Infected mail through a real Postfix, our server, and a real clamd: refused, kept, marked, or asked to wait."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from live_host import LiveHost, live_host
from plugins.antivirus.scanners import FOUND_NAME, clean, infected_deep_inside
from postroom.testing.clamd import EICAR, ClamdInstance
from postroom.testing.processes import wait_until
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
        live_host({"handlers": {"clamav": {"timeout": "20s", "servers": [f"unix:{scanner.socket}"]}}}) as host,
    ):
        yield host, scanner


def held_now(host: LiveHost, but: Sequence[Any] = ()) -> list[Any]:
    return [each for each in json.loads(host.server.succeed("quarantine", "list", "--json")) if each not in but]


def test_infected_mail_meets_what_is_set(shared_host: tuple[LiveHost, ClamdInstance]) -> None:
    host, scanner = shared_host
    host.clear()
    host.add("clamav", "before-queue", "--type", "recipient", "--address", "bob@local.test")
    assert host.send(mail=CLEAN).ok
    assert len(host.server.wait_for_mail("bob@local.test")) == 1

    refused = host.send(mail=INFECTED)
    assert not refused.ok
    assert refused.final.text == "550 5.7.1 Message refused: it contains malicious content"

    bob = ("handlers", "set", "clamav", "--address", "bob@local.test", "--context")
    before = held_now(host)
    host.server.succeed(*bob, "infected=quarantine")
    assert host.send(mail=INFECTED).ok
    (held,) = held_now(host, before)
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
    scanner.start()
    wait_until(lambda: host.send(mail=CLEAN).ok, "the scanner serves again")


def wrapped(fields: bytes, body: bytes) -> bytes:
    return b"From: a@friend.example\nTo: bob@local.test\nSubject: s\nMIME-Version: 1.0\n" + fields + b"\n" + body


def uuencoded(octets: bytes) -> bytes:
    lines = (binascii.b2a_uu(octets[at : at + 45]) for at in range(0, len(octets), 45))
    return b"".join([b"begin 644 run.com\n", *lines, b"`\nend\n"])


QUOTED = b"".join(b"=%02X" % octet + (b"=\n" if at % 20 == 19 else b"") for at, octet in enumerate(EICAR)) + b"\n"
BINARY = b"Content-Type: application/octet-stream\nContent-Transfer-Encoding: "
HIDDEN = {
    "bare": wrapped(b"", EICAR + b"\n"),
    "base64": wrapped(BINARY + b"base64\n", base64.encodebytes(EICAR)),
    "quoted-printable": wrapped(BINARY + b"quoted-printable\n", QUOTED),
    "uuencoded": wrapped(b"Content-Type: text/plain\n", b"see:\n\n" + uuencoded(EICAR)),
    "no header": b"\n" + EICAR + b"\n",
    "NUL": wrapped(b"", b"\0\0" + EICAR + b"\0\n"),
    "broken MIME": wrapped(b'Content-Type: multipart/mixed; boundary="x\n', b"--x\n\n" + EICAR + b"\n"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_the_engine_finds_is_refused_however_it_comes(
    shared_host: tuple[LiveHost, ClamdInstance], name: str
) -> None:
    host, _ = shared_host
    host.clear()
    host.add("clamav", "before-queue")
    refused = host.send(mail=HIDDEN[name])
    assert refused.final.text == "550 5.7.1 Message refused: it contains malicious content"


def test_a_mail_for_a_thousand_is_scanned_once_and_what_was_held_arrives(
    shared_host: tuple[LiveHost, ClamdInstance],
) -> None:
    host, scanner = shared_host
    host.clear()
    host.add("clamav", "before-queue", "--context", "infected=quarantine")
    before = held_now(host)
    scans = scanner.log.read_text().count("FOUND")
    assert host.send(recipients=[f"u{number}@local.test" for number in range(1000)], mail=INFECTED).ok
    wait_until(lambda: scanner.log.read_text().count("FOUND") > scans, "clamd logs what it found")
    assert host.send(mail=INFECTED).ok
    wait_until(lambda: scanner.log.read_text().count("FOUND") > scans + 1, "clamd logs what it found")
    assert scanner.log.read_text().count("FOUND") == scans + 2
    many, one = sorted(held_now(host, before), key=lambda held: -len(held["recipients"]))
    assert (len(many["recipients"]), one["recipients"]) == (1000, ["bob@local.test"])
    assert host.server.mailbox("bob@local.test") == []
    host.server.succeed("quarantine", "release", one["id"])
    host.server.wait_for_mail("bob@local.test")


def test_a_scanner_that_hangs_gets_what_on_error_says_and_serves_again(
    shared_host: tuple[LiveHost, ClamdInstance],
) -> None:
    host, scanner = shared_host
    host.clear()
    host.add("clamav", "before-queue")
    with scanner.hung():
        for on_error, code in (("skip", 250), ("reject", 550), ("defer", 451)):
            host.server.succeed("handlers", "set", "clamav", "--on-error", on_error)
            answer = host.send(mail=INFECTED).final
            assert answer.code == code
            assert str(scanner.socket) not in answer.text
    failures = [line for line in host.server.log_lines() if line.event == "scanner fails"]
    assert failures[-1].facts["server"] == f"unix:{scanner.socket}"
    assert failures[-1].facts["problem"] == "does not answer in time"
    wait_until(lambda: host.send(mail=INFECTED).final.code == 550, "it finds again")
