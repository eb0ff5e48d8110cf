"""The first client outside, read from Received as our own gateways write it; forged fields never count."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.spf.spf_desk import Desk, authentication, received_spf
from postroom.config import parse_config
from postroom.testing import envelope
from postroom.verdict import Action
from postroom_spf.received import Hop, Origin, find_stranger, read_received
from postroom_spf.result import SpfResult
from postroom_spf.settings import Level

STRANGER = "198.51.100.7"
GATEWAY, INNER = "203.0.113.10", "203.0.113.11"
DATE = "; Mon, 1 Jan 2024 00:00:00 +0000"

FORMS = {
    "Postfix": f"from h.example (mail.x.example [{STRANGER}]) by gw.example (Postfix) with ESMTP id 4T for <a@b.cc>",
    "Postfix with TLS": f"from h.example (unknown [{STRANGER}]) (using TLSv1.3 with cipher X (256/256 bits))"
    " (Client did not present a certificate) by gw.example (Postfix) with ESMTPS id 4T",
    "Postfix, literal HELO": f"from [10.0.0.1] (mail.x.example [{STRANGER}]) by gw.example (Postfix) with SMTP id 4",
    "Sendmail": f"from h.example (mail.x.example [{STRANGER}]) by gw.example (8.17.1/8.17.1) with ESMTP id 3x",
    "Sendmail without a name": f"from h.example ([{STRANGER}]) by gw.example (8.17.1/8.17.1) with ESMTP id 3x",
    "Sendmail in doubt": f"from h.example (mail.x.example [{STRANGER}] (may be forged)) by gw.example with ESMTP id 3x",
    "Sendmail with ident": f"from h.example (IDENT:root@mail.x.example [{STRANGER}]) by gw.example with ESMTP id 3x",
    "Exim, name known": f"from mail.x.example ([{STRANGER}] helo=h.example) by gw.example with esmtps (Exim 4) id 1a",
    "Exim, name not known": f"from [{STRANGER}] (helo=h.example) by gw.example with esmtp (Exim 4.96) id 1a",
    "Exim with a port": f"from [{STRANGER}] (port=4711 helo=h.example) by gw.example with esmtp (Exim 4.96) id 1a",
    "Exim, port at the name": f"from mail.x.example ([{STRANGER}]:4711 helo=h.example) by gw.example with esmtp id 1a",
    "qmail": f"from mail.x.example (HELO h.example) ({STRANGER}) by gw.example with SMTP",
    "qmail with ident": f"from unknown (HELO h.example) (root@{STRANGER}) by gw.example with ESMTPS",
    "qmail, HELO as name": f"from h.example ({STRANGER}) by gw.example with SMTP",
    "Exchange": f"from h.example ({STRANGER}) by gw.example (10.0.0.2) with Microsoft SMTP Server id 15.1",
    "Dovecot": f"from h.example ([{STRANGER}]) by gw.example with LMTP id abc (envelope-from <x@y.example>)",
    "odd case": f"FROM h.example (mail.x.example [{STRANGER}]) BY gw.example WITH ESMTP",
}


def is_ours(client: IPv4Address | IPv6Address) -> bool:
    return client in ip_network("203.0.113.0/24") or client in ip_network("2001:db8:1::/48")


def postfix(client: str, helo: str = "h.example") -> str:
    return f"from {helo} (name.example [{client}]) by gw.example (Postfix) with ESMTP id 4T{DATE}"


@pytest.mark.parametrize("form", FORMS)
def test_each_mail_servers_form_is_read(form: str) -> None:
    helo = "[10.0.0.1]" if "literal" in form else "h.example"
    assert read_received(FORMS[form] + DATE) == Hop(ip_address(STRANGER), helo)


def test_exim_without_helo_gives_the_name_or_literal() -> None:
    assert read_received(f"from [{STRANGER}] by gw.example with smtp{DATE}") == Hop(
        ip_address(STRANGER), f"[{STRANGER}]"
    )
    assert read_received(f"from m.example ([{STRANGER}]) by gw.example with esmtp") == Hop(
        ip_address(STRANGER), "m.example"
    )


@pytest.mark.parametrize("address", ["IPv6:2001:db8::7", "2001:db8::7", "IPv6:::ffff:198.51.100.7"])
def test_ipv6_is_read_in_both_spellings(address: str) -> None:
    expected = ip_address(STRANGER if "ffff" in address else "2001:db8::7")
    assert read_received(postfix(address)) == Hop(expected, "h.example")


@pytest.mark.parametrize(
    "field",
    [
        "by gw.example (Postfix, from userid 1000) id 4T; Mon",
        "(qmail 123 invoked by uid 89); 1 Jan 2024 00:00:00 -0000",
        "(qmail 123 invoked for bounce); 1 Jan 2024 00:00:00 -0000",
        "(from root@localhost) by gw.example (8.17.1/8.17.1/Submit) id 3x; Mon",
        "from root by gw.example with local (Exim 4.96) id 1a; Mon",
        f"from laptop (home.example [{STRANGER}]) (Authenticated sender: a) by gw.example with ESMTPSA id 4T; Mon",
        f"from laptop (home.example [{STRANGER}]) by gw.example (Postfix) with UTF8SMTPSA id 4T; Mon",
        f"from [{STRANGER}] (helo=laptop) by gw.example with esmtpsa (Exim 4.96) id 1a; Mon",
    ],
)
def test_mail_that_began_at_a_gateway_of_ours(field: str) -> None:
    assert find_stranger([postfix(INNER), field, postfix(STRANGER)], is_ours) is Origin.OWN


@pytest.mark.parametrize(
    "field",
    [
        "",
        ";",
        "from",
        "from (",
        "by gw.example with SMTP",
        "from h.example by gw.example with SMTP",
        "from h.example (no address here) by gw.example with SMTP",
        "from h.example (x [999.1.1.1]) by gw.example with SMTP",
        f"from h.example (x [{STRANGER}]) with SMTP",
        f"from h.example (x [{STRANGER}] by gw.example with SMTP",
        f"from h.example x [{STRANGER}] by gw.example with SMTP",
        f"from h.example (x [{STRANGER}]) by z.example (y [203.0.113.10]) by gw.example with SMTP",
        f"from h.example (a b c [{STRANGER}]) by gw.example with SMTP",
        "x" * 100000,
    ],
)
def test_what_nobody_we_know_writes_is_not_read(field: str) -> None:
    assert read_received(field) is Origin.UNREADABLE
    assert find_stranger([field, postfix(STRANGER)], is_ours) is Origin.UNREADABLE


def test_a_helo_that_looks_like_the_end_of_the_field_is_not_believed() -> None:
    """A gateway that copies HELO as it comes would write this for HELO `x (y [203.0.113.11]) by z`."""
    forged = f"from x (y [{INNER}]) by z (real.example [{STRANGER}]) by gw.example with SMTP{DATE}"
    assert find_stranger([forged, postfix("192.0.2.66")], is_ours) is Origin.UNREADABLE


def test_a_helo_that_is_a_word_of_the_field_is_still_a_helo() -> None:
    assert read_received(postfix(STRANGER, helo="by")) == Hop(ip_address(STRANGER), "by")
    assert read_received(postfix(STRANGER, helo="from")) == Hop(ip_address(STRANGER), "from")


def test_the_first_client_outside_counts_and_nothing_below_it() -> None:
    chain = [
        postfix(INNER),
        postfix(GATEWAY),
        postfix(STRANGER, "true.example"),
        postfix("192.0.2.66", "forged.example"),
    ]
    assert find_stranger(chain, is_ours) == Hop(ip_address(STRANGER), "true.example")


def test_a_gateways_own_content_filter_is_no_stranger() -> None:
    chain = [
        f"from localhost (localhost [127.0.0.1]) by gw.example (Postfix) with ESMTP id 4T{DATE}",
        f"from gw.example ([127.0.0.1]) by localhost (gw.example [127.0.0.1]) (amavisd-new) with ESMTP{DATE}",
        postfix(STRANGER),
    ]
    assert find_stranger(chain, is_ours) == Hop(ip_address(STRANGER), "h.example")


def test_qmails_note_of_the_network_is_passed_over() -> None:
    chain = [
        f"(qmail 7 invoked from network){DATE}",
        f"from unknown (HELO h) ({STRANGER}) by gw.example with SMTP{DATE}",
    ]
    assert find_stranger(chain, is_ours) == Hop(ip_address(STRANGER), "h")


def test_a_chain_that_never_leaves_is_our_own_and_an_endless_one_is_not_read() -> None:
    assert find_stranger([postfix(INNER), postfix(GATEWAY)], is_ours) is Origin.OWN
    assert find_stranger([postfix(INNER)] * 1000, is_ours) is Origin.UNREADABLE
    assert find_stranger([], is_ours) is Origin.UNREADABLE


@given(st.lists(st.text(max_size=200), max_size=5))
def test_no_text_raises(fields: list[str]) -> None:
    assert isinstance(find_stranger(fields, is_ours), Hop | Origin)


PIECES = st.sampled_from(
    [
        "from",
        "by",
        "with",
        "ESMTPA",
        "(",
        ")",
        "[",
        "]",
        "\\",
        ";",
        "HELO x",
        "helo=x",
        STRANGER,
        f"[{INNER}]",
        "h.example",
        "@",
    ]
)


@given(st.lists(PIECES, max_size=20))
def test_no_arrangement_of_a_fields_parts_raises(pieces: list[str]) -> None:
    assert isinstance(find_stranger([" ".join(pieces), "".join(pieces)], is_ours), Hop | Origin)


@pytest.fixture
def gateway_desk(desk: Desk) -> Desk:
    desk.services.config = parse_config(f'[host]\nrelays = ["{GATEWAY}/32"]\n', "test")
    desk.policy(f"v=spf1 ip4:{STRANGER} -all")
    return desk


def test_the_client_before_our_gateway_is_checked(gateway_desk: Desk) -> None:
    verdict = gateway_desk.receive(
        envelope(client=GATEWAY), header=f"Received: {postfix(STRANGER)}\n", level=Level.REJECT_FAIL
    )
    assert verdict.action is Action.PASS
    assert verdict.finding.result is SpfResult.PASS
    assert f"client-ip={STRANGER};" in received_spf(verdict)
    assert "before our own gateways" in received_spf(verdict)
    folded = (
        f"Received: from h.example (name.example\n [192.0.2.66])\n\tby gw.example (Postfix) with ESMTP id 4T{DATE}\n"
    )
    assert (
        gateway_desk.receive(envelope(client=GATEWAY), header=folded, level=Level.REJECT_FAIL).action is Action.REJECT
    )


def test_received_of_a_stranger_counts_for_nothing(gateway_desk: Desk) -> None:
    verdict = gateway_desk.receive(
        envelope(client="192.0.2.66"), header=f"Received: {postfix(STRANGER)}\n", level=Level.REJECT_FAIL
    )
    assert verdict.action is Action.REJECT


def test_a_gateway_may_be_named_for_spf_alone(gateway_desk: Desk) -> None:
    header = f"Received: {postfix(GATEWAY)}\nReceived: {postfix(STRANGER)}\n"
    networks = (ip_network(f"{INNER}/32"),)
    verdict = gateway_desk.receive(envelope(client=INNER), header=header, trusted_relays=networks)
    assert verdict.finding.result is SpfResult.PASS


def test_helo_of_the_stranger_is_the_one_that_counts(gateway_desk: Desk) -> None:
    gateway_desk.policy(f"v=spf1 ip4:{STRANGER} -all", "true.example")
    header = f"Received: {postfix(STRANGER, 'true.example')}\n"
    verdict = gateway_desk.receive(envelope("", client=GATEWAY, helo="gw.example"), header=header)
    assert verdict.finding.result is SpfResult.PASS
    assert authentication(verdict)[0].properties == (("smtp.helo", "true.example"),)


@pytest.mark.parametrize("header", ["", "Received: by gw.example with SMTP\n", f"Received: {postfix(GATEWAY)}\n"])
def test_without_a_known_client_nothing_is_judged(gateway_desk: Desk, header: str) -> None:
    verdict = gateway_desk.receive(envelope(client=GATEWAY), header=header, level=Level.REQUIRE_PASS)
    assert verdict.action is Action.PASS
    assert received_spf(verdict).startswith("none (")
    assert verdict.finding is None
    assert gateway_desk.resolver.asked == []
    warned = [event for level, event, _ in gateway_desk.services.log.lines if level == "warning"]
    assert warned == ([] if GATEWAY in header else ["unreadable Received"])
