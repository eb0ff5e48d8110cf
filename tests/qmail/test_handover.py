"""The hand-over's frames and requests, apart from sockets."""

from __future__ import annotations

import dataclasses
import itertools
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import Config, HandoverSettings, LmtpSettings, MilterSettings, SocketAddress
from postroom.diagnosis import check_sockets
from postroom.fronts.handover.client import frame
from postroom.fronts.handover.protocol import HandoverProtocol, Limits, Request
from postroom.fronts.handover.wire import MAX_FRAME, Decoder, Kind, WireError, encode
from postroom.hookspecs import FindingLevel
from postroom.mail import parse_message
from qmail.house import House

LIMITS = Limits(message=1 << 16, recipients=5)
HELLO = encode(Kind.HELLO, b"1\0queue")


def read(octets: bytes, limits: Limits = LIMITS) -> Request | None:
    protocol = HandoverProtocol(limits)
    protocol.receive(octets)
    return protocol.request()


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=8))
def test_a_mail_is_the_same_however_it_is_cut(mail: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(mail)) for cut in cuts), len(mail)]
    pieces = [mail[start:end] for start, end in itertools.pairwise(places)]
    request = read(HELLO + b"".join(encode(Kind.MESSAGE, piece) for piece in pieces) + encode(Kind.END))
    assert request is not None
    whole = parse_message(mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert [found.raw() for found in request.message.fields] == [found.raw() for found in whole.fields]
    assert request.message.body.read() == whole.body.read()


@given(st.binary(max_size=200), st.integers(1, 20))
def test_octets_may_come_in_pieces_of_any_size(payload: bytes, size: int) -> None:
    octets = encode(Kind.FACT, payload) + encode(Kind.END)
    decoder, found = Decoder(), []
    for at in range(0, len(octets), size):
        decoder.feed(octets[at : at + size])
        while (each := decoder.next()) is not None:
            found.append((each.kind, each.payload))
    assert found == [(Kind.FACT, payload), (Kind.END, b"")]


@given(st.binary(max_size=100))
def test_both_sides_frame_alike(payload: bytes) -> None:
    assert frame(b"S", payload) == encode(Kind.SENDER, payload)


@pytest.mark.parametrize(
    "octets",
    [
        encode(Kind.END),
        encode(Kind.SENDER, b"a"),
        HELLO + HELLO,
        encode(Kind.HELLO, b"2\0queue"),
        encode(Kind.HELLO, b"1\0nobody"),
        HELLO + encode(Kind.VERDICT),
        HELLO + encode(Kind.SENDER, b"a" * 2001),
        HELLO + encode(Kind.RECIPIENT, b"a\0b"),
        HELLO + encode(Kind.FACT, b"a=" + b"b" * 5000),
        HELLO + b"".join(encode(Kind.FACT, b"%d=" % number) for number in range(65)),
        b"?\0\0\0\0",
        b"S" + (MAX_FRAME + 1).to_bytes(4, "big"),
    ],
)
def test_what_makes_no_sense(octets: bytes) -> None:
    with pytest.raises(WireError):
        read(octets)


def test_over_a_limit_the_rest_is_still_taken() -> None:
    many = b"".join(encode(Kind.RECIPIENT, b"r%d" % number) for number in range(9))
    request = read(HELLO + many + encode(Kind.MESSAGE, b"x" * 70_000) + encode(Kind.END))
    assert request is not None
    assert request.refusal is not None
    assert request.refusal[1].detail == "3.4"
    assert len(request.recipients) == 5


@given(st.binary(max_size=60))
def test_octets_of_any_sort_make_a_request_or_an_error(octets: bytes) -> None:
    try:
        read(HELLO + octets)
    except WireError:
        pass


def test_a_client_that_makes_no_sense_is_hung_up_on(house: House) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(house.socket)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b""


def test_a_client_that_does_not_read_holds_up_nobody(house: House) -> None:
    """Its answer is larger than what the kernel and the loop hold for it."""
    house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(house.socket)
        client.sendall(HELLO + encode(Kind.SENDER, b"a@b") + encode(Kind.RECIPIENT, b"c@d"))
        client.sendall(encode(Kind.MESSAGE, b"Subject: large\n\n"))
        for _ in range(100):
            client.sendall(encode(Kind.MESSAGE, b"X" * 60_000))
        client.sendall(encode(Kind.END))
        assert house.queue(b"Fa@b\0Tc@d\0\0").status == 0
        received = 0
        client.settimeout(20)
        while octets := client.recv(1 << 16):
            received += len(octets)
        assert received > 6_000_000


def test_the_doctor_asks_in_the_same_protocol(house: House) -> None:
    config = Config(
        milter=MilterSettings(listen=()),
        handover=HandoverSettings(listen=(SocketAddress("unix", path=house.socket),)),
        lmtp=LmtpSettings(listen=(SocketAddress("unix", path="/nowhere"),)),
    )
    assert [found.level for found in check_sockets(config) if found.subject == "handover"] == [FindingLevel.OK]
    Path(house.socket).chmod(0o600)
    assert [found.level for found in check_sockets(config) if found.subject == "handover"] == [FindingLevel.WARNING]
    gone = dataclasses.replace(config, handover=HandoverSettings(listen=(SocketAddress("unix", path="/nowhere"),)))
    assert [found.level for found in check_sockets(gone) if found.subject == "handover"] == [FindingLevel.ERROR]
