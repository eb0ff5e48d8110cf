"""The milter protocol's octets: whole, in pieces, malformed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.fronts.milter.answers import Answer, Verb, clean_line, encode_answer
from postroom.fronts.milter.wire import (
    MAX_PACKET,
    MAX_STRINGS,
    POSTFIX_ACTIONS,
    POSTFIX_PROTOCOL,
    Actions,
    Command,
    Decoder,
    MacroStage,
    MalformedPacket,
    Negotiation,
    PacketTooLong,
    Protocol,
    Response,
    encode_connect,
    encode_indexed,
    encode_macros,
    encode_strings,
    packet,
    parse_connect,
    parse_header,
    parse_indexed,
    parse_macros,
    parse_negotiation,
    parse_string,
    split_strings,
)

packets = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=20)


def drain(decoder: Decoder) -> list[tuple[int, bytes]]:
    found = []
    while (each := decoder.next()) is not None:
        found.append(each)
    return found


@given(packets, st.lists(st.integers(0, 4000), max_size=30), st.booleans())
def test_packets_survive_any_cut(sent: list[tuple[int, bytes]], cuts: list[int], eager: bool) -> None:
    octets = b"".join(packet(command, payload) for command, payload in sent)
    edges = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    decoder, got = Decoder(), []
    for start, end in pairwise(edges):
        decoder.feed(octets[start:end])
        if eager:
            got += drain(decoder)
        elif (one := decoder.next()) is not None:  # packets stay behind, as while work goes on
            got.append(one)
    got += drain(decoder)
    assert got == sent
    assert decoder.buffered == 0


def test_a_packet_that_is_there_is_not_held_back_by_a_longer_one_before_it() -> None:
    octets = packet(Command.BODY, bytes(1000)) + packet(Command.ABORT) + packet(Command.QUIT)
    decoder = Decoder()
    decoder.feed(octets[:10])
    assert decoder.next() is None
    decoder.feed(octets[10:-1])
    assert decoder.next() == (Command.BODY, bytes(1000))
    decoder.feed(octets[-1:])  # while the packet before it waits
    assert drain(decoder) == [(Command.ABORT, b""), (Command.QUIT, b"")]


@pytest.mark.parametrize("length", [0, MAX_PACKET + 1, 0xFFFFFFFF])
def test_length_out_of_bounds_is_refused_before_it_is_received(length: int) -> None:
    decoder = Decoder()
    decoder.feed(length.to_bytes(4, "big"))
    with pytest.raises(PacketTooLong):
        decoder.next()


def test_the_largest_packet_passes() -> None:
    decoder = Decoder()
    decoder.feed(packet(Command.BODY, bytes(MAX_PACKET - 1)))
    found = decoder.next()
    assert found is not None
    assert len(found[1]) == MAX_PACKET - 1


def decoded(octets: bytes) -> tuple[int, bytes]:
    decoder = Decoder()
    decoder.feed(octets)
    found = decoder.next()
    assert found is not None
    assert decoder.next() is None
    return found


def test_negotiation_with_macro_lists() -> None:
    offer = Negotiation(
        6, Actions.ADD_HEADERS, Protocol.NO_BODY | Protocol.LEADING_SPACE, {MacroStage.MAIL: b"i", MacroStage.RCPT: b""}
    )
    assert parse_negotiation(decoded(offer.encode())[1]) == offer


def test_unknown_bits_of_an_offer_are_left_out() -> None:
    found = parse_negotiation(b"\0\0\0\6" + b"\xff" * 8)
    assert (found.actions, found.protocol) == (POSTFIX_ACTIONS, POSTFIX_PROTOCOL)


@pytest.mark.parametrize(
    ("family", "port", "address"), [(b"4", 25, b"192.0.2.1"), (b"6", 9, b"IPv6:2001:db8::1"), (b"U", 0, b"")]
)
def test_connect(family: bytes, port: int, address: bytes) -> None:
    assert parse_connect(decoded(encode_connect(b"a.example", family, port, address))[1]) == (
        b"a.example",
        family,
        port,
        address,
    )


def test_strings_macros_and_headers() -> None:
    assert split_strings(decoded(encode_strings(Command.MAIL, (b"<a@b>", b"SIZE=1")))[1]) == [b"<a@b>", b"SIZE=1"]
    assert parse_macros(decoded(encode_macros(Command.MAIL, {b"i": b"1", b"{x}": b""}))[1]) == (
        Command.MAIL,
        {b"i": b"1", b"{x}": b""},
    )
    assert parse_macros(b"C") == (Command.CONNECT, {})
    assert parse_header(b"Subject\0 a\0b\0") == (b"Subject", b" a\0b")  # a NUL inside the value stays
    assert parse_indexed(decoded(encode_indexed(Response.INSERT_HEADER, 7, b"A", b"b"))[1]) == (7, b"A", b"b")


@pytest.mark.parametrize(
    ("parse", "payload"),
    [
        (split_strings, b"<a@b>"),
        (split_strings, b""),
        (split_strings, b"x\0" * (MAX_STRINGS + 1)),
        (parse_string, b"helo"),
        (parse_header, b"Subject"),
        (parse_header, b"Subject\0value"),
        (parse_macros, b""),
        (parse_macros, b"Mi\0"),
        (parse_macros, b"Mi"),
        (parse_connect, b"name"),
        (parse_connect, b"name\0"),
        (parse_connect, b"name\0X\0\x191.2.3.4\0"),
        (parse_connect, b"name\0004\0\x19192.0.2.1"),
        (parse_connect, b"name\0004"),
        (parse_negotiation, b"\0\0\0\6"),
        (parse_negotiation, b"\0" * 12 + b"\0\0\0\1x"),
        (parse_negotiation, b"\0" * 12 + b"\0\0\0\x63x\0"),
    ],
)
def test_malformed_packets_have_a_name(parse, payload: bytes) -> None:  # type: ignore[no-untyped-def]  # any parser
    with pytest.raises(MalformedPacket):
        parse(payload)


@given(st.binary(max_size=80))
def test_parsers_raise_nothing_else(payload: bytes) -> None:
    for parse in (split_strings, parse_string, parse_header, parse_macros, parse_connect, parse_negotiation):
        try:
            parse(payload)
        except MalformedPacket:
            pass


def test_a_reply_stays_one_reply() -> None:
    answer = Answer(Verb.REFUSE, "550", "5.7.1", ("a\r\n250 ok\0", "100%"))
    assert encode_answer(answer)[4:] == b"y550-5.7.1 a  250 ok \r\n550 5.7.1 100%%\0"
    assert len(clean_line("x" * 5000)) < 512
