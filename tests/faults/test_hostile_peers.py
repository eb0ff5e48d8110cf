"""Peers that speak nonsense, half the protocol, or far too much: no worker dies, and nothing of ours reaches them."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Iterator

import pytest
from postroom.config import SocketAddress
from postroom.fronts.milter.client import Mail, MilterClient
from postroom.fronts.milter.wire import (
    POSTFIX_ACTIONS,
    POSTFIX_PROTOCOL,
    Command,
    Negotiation,
    Response,
    encode_connect,
    encode_strings,
    packet,
)
from postroom.testing.ports import LOOPBACK
from postroom.testing.server import PostroomServer

PEERS = 150
GREETING = 60.0  # seconds of waiting for what has to come
PATIENCE = 0.02  # seconds of waiting for more: what has not come by then is not looked at
OFFER = Negotiation(6, POSTFIX_ACTIONS, POSTFIX_PROTOCOL).encode()
TELLS = re.compile(rb"Traceback|\.py\b|/tmp/|Error\b")
STRINGS = (
    *(
        b"",
        b"<a@b>",
        b"<>",
        b"i",
        b"{client_addr}",
        b"{auth_authen}",
        b"4",
        b"6",
        b"IPv6:::1",
        b"\xff\xfe",
        b"x" * 2000,
    ),
    *(
        b"SIZE=99999999999999999999999",
        b"SIZE=-1",
        b"\r\nX: y",
        b"Authentication-Results",
        b" mx.test.example; spf=pass",
    ),
)
LENGTHS = (0, (1 << 20) + 2, 0x7FFFFFFF, 0xFFFFFFFF)
LMTP_LINES = (
    *(b"LHLO x", b"MAIL FROM:<a@b.example>", b"RCPT TO:<bob@local.test>", b"DATA", b".", b"RSET", b"NOOP", b"QUIT"),
    *(b"XFORWARD ADDR=1.2.3.4 NAME=x", b"XFORWARD ADDR=+41", b"XFORWARD PORT=999999", b"XPOSTROOM ROOT=/etc"),
    *(b'MAIL FROM:<"a b"@c> SIZE=99999999999999999999', b"MAIL FROM:<@a,@b:c@d>", b"MAIL FROM:<<a@b>", b"RCPT TO:<>"),
    *(
        b"RCPT TO:<../../etc@local.test>",
        b"RCPT TO:<..@local.test>",
        b"RCPT TO:<bob@local.test\0>",
        b'RCPT TO:<"x\ry"@c>',
    ),
    *(b"BDAT 5 LAST\r\nhello", b"Subject: x", b"", b"\xff\xfe" * 30, b"x" * 5000),
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostroomServer]:
    def prepare(server: PostroomServer) -> None:
        for handler, stage in (("dk_check", "before-queue"), ("grey", "before-data")):
            server.succeed("handlers", "add", handler, "--stage", stage, "--type", "global", "--enabled")

    with PostroomServer({"milter": {"workers": 1}}, prepare) as running:
        running.wait_for_log(lambda line: line.event == "serving")
        yield running


def nonsense(chance: random.Random) -> bytes:
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.randrange(1, 200))
        case 1:
            return chance.choice(LENGTHS).to_bytes(4, "big") + chance.randbytes(20)
        case 2:
            return packet(chance.randrange(256), chance.randbytes(chance.randrange(80)))
        case 3:
            address = chance.choice((b"1.2.3.4", b"none", b"\xff", b""))
            return encode_connect(
                chance.choice((b"x", b"\xff", b"")), chance.choice((b"4", b"6", b"L", b"Z")), 1, address
            )
        case _:
            strings = b"\0".join(chance.choices(STRINGS, k=chance.randrange(6)))
            return packet(chance.choice(list(Command)), strings + chance.choice((b"\0", b"")))


def milter_talk(chance: random.Random) -> bytes:
    opening = OFFER if chance.random() < 0.8 else b""
    if chance.random() < 0.6:
        opening += encode_connect(b"x", b"4", 1, b"1.2.3.4") + encode_strings(Command.HELO, (b"x",))
        opening += encode_strings(Command.MAIL, (b"<a@b>",)) + encode_strings(Command.RCPT, (b"<c@d>",))
    return opening + b"".join(nonsense(chance) for _ in range(chance.randrange(1, 20)))


def lmtp_talk(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.randbytes(3000)
    opening = LMTP_LINES[:3] if chance.random() < 0.5 else ()
    line_end = chance.choice((b"\r\n", b"\r\n", b"\n", b"\r"))
    return line_end.join([*opening, *chance.choices(LMTP_LINES, k=chance.randrange(1, 30)), b""])


def said_to(peer: socket.socket, talk: bytes, *, greets: bool = False) -> bytes:
    heard = b""
    with peer:
        peer.settimeout(GREETING)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it said before is still to be heard
                peer.sendall(talk)
            if greets:
                heard += peer.recv(1 << 16)
            peer.settimeout(PATIENCE)
            while octets := peer.recv(1 << 16):
                heard += octets
        except OSError:
            pass  # sent away, or there is no more to hear
    return heard


@pytest.mark.parametrize("seed", [1, 2])
def test_no_milter_peer_harms_the_worker(server: PostroomServer, seed: int) -> None:
    chance, workers = random.Random(seed), server.workers()
    for _ in range(PEERS):
        heard = said_to(socket.create_connection((LOOPBACK, server.milter_port)), milter_talk(chance))
        assert not TELLS.search(heard)
    address = SocketAddress("inet", LOOPBACK, server.milter_port)
    with MilterClient.open(address) as client:
        client.negotiate()
        client.connect()
        client.helo()
        assert client.deliver(Mail()).response is Response.REPLY_CODE  # greylisted, as it should be
    check_unharmed(server, workers)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_lmtp_peer_harms_the_worker(server: PostroomServer, seed: int) -> None:
    chance, workers = random.Random(seed), server.workers()
    for _ in range(PEERS):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(f"{server.base}/run/lmtp.sock")
        heard = said_to(peer, lmtp_talk(chance), greets=True)
        assert heard.startswith(b"220 ")
        assert not TELLS.search(heard)
    check_unharmed(server, workers)


def check_unharmed(server: PostroomServer, workers: list[int]) -> None:
    assert server.workers() == workers
    assert server.output() == ""
    faults = ("milter session failed", "milter work failed", "session failed", "worker died", "engine failed")
    assert not [line for line in server.log_lines() if line.event in faults]
    assert not [path for path in server.base.glob("**/*") if path.name == "etc"]
