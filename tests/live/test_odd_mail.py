"""Mails that no sane program writes: each is handled, or refused by a named limit; never lost, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_host import MAIL, LiveHost
from postroom.testing.sink import field_values

pytestmark = pytest.mark.xdist_group("live-odd")

SAME = 'cat > "$OUT/mail"; cat "$OUT/mail"; echo PASS >&2'


@pytest.fixture
def odd_host(host: LiveHost) -> Iterator[LiveHost]:
    """Handlers that look at everything, at both stages that see local mail."""
    host.add("spf", "before-queue")
    host.add_program("queue", "before-queue", SAME)
    host.add_program("local", "before-local", SAME)
    yield host
    assert host.server.output() == ""  # a traceback would stand here
    assert not [line for line in host.server.log_lines() if "Traceback" in str(line.facts)]


def delivered(host: LiveHost, mail: bytes) -> bytes:
    sent = host.send(mail=mail)
    assert sent.ok, sent.final.text
    return host.server.wait_for_mail("bob@local.test")[0]


def test_raw_8_bit_in_header_and_body_comes_through(odd_host: LiveHost) -> None:
    got = delivered(odd_host, b"Subject: caf\xe9 \xff\nX-Odd: \xc3\x28\n\nb\xe9\xfe\n")
    assert b"Subject: caf\xe9 \xff\n" in got
    assert b"X-Odd: \xc3\x28\n" in got
    assert got.endswith(b"\n\nb\xe9\xfe\n")


def test_nul_bytes_come_through(odd_host: LiveHost) -> None:
    got = delivered(odd_host, b"Subject: nul\n\nbefore\0after\n")
    assert b"before\0after" in got


def test_no_header(odd_host: LiveHost) -> None:
    got = delivered(odd_host, b"\nonly a body\n")
    assert got.endswith(b"\n\nonly a body\n")


def test_first_line_is_no_header(odd_host: LiveHost) -> None:
    got = delivered(odd_host, b"this is no header line\nneither is this\n")
    assert got.endswith(b"\n\nthis is no header line\nneither is this\n")


def test_no_body(odd_host: LiveHost) -> None:
    got = delivered(odd_host, b"Subject: nothing\n")
    assert field_values(got, "Subject") == ["nothing"]


def test_an_empty_mail(odd_host: LiveHost) -> None:
    assert b"Received:" in delivered(odd_host, b"")


def test_a_line_of_dots_and_a_very_long_one(odd_host: LiveHost) -> None:
    got = delivered(odd_host, b"Subject: dots\n\n.\n..\n.hidden\n" + b"x" * 100_000 + b"\n")
    assert b"\n\n.\n..\n.hidden\n" in got
    assert got.count(b"x") >= 100_000  # Postfix' LMTP client folds what is longer than RFC 5321 4.5.3.1.6 allows


def test_a_header_line_of_a_megabyte_is_taken_or_refused_by_name(odd_host: LiveHost) -> None:
    sent = odd_host.send(mail=b"Subject: long\nX-Long: " + b"a" * (1 << 20) + b"\n\nbody\n")
    if sent.ok:  # Postfix cuts header fields as soon as a milter is there (header_size_limit)
        (got,) = odd_host.server.wait_for_mail("bob@local.test")
        assert got.endswith(b"body\n")
    else:
        assert sent.final.code in (550, 552, 554), sent.final.text
        assert "header" in sent.final.text.lower()


def test_a_thousand_header_fields(odd_host: LiveHost) -> None:
    fields = b"".join(b"X-Field-%d: value %d\n" % (number, number) for number in range(1000))
    got = delivered(odd_host, fields + b"Subject: many\n\nbody\n")
    assert b"X-Field-999: value 999\n" in got
    assert got.index(b"X-Field-0:") < got.index(b"X-Field-999:")


def test_two_thousand_recipients_get_one_mail_each(odd_host: LiveHost) -> None:
    recipients = [f"user{number}@elsewhere.example" for number in range(2000)]
    odd_host.add_program("remote", "before-remote", SAME)
    with odd_host.client("") as smtp:
        smtp.pipeline(["MAIL FROM:<bob@local.test>"])
        for begin in range(0, len(recipients), 100):
            answers = smtp.pipeline([f"RCPT TO:<{each}>" for each in recipients[begin : begin + 100]])
            assert {reply.code for reply in answers} == {250}
        assert smtp.data(MAIL).code == 250
    odd_host.postfix.wait_empty(60)
    got = [recipient for received in odd_host.sink.received for recipient in received.recipients]
    assert sorted(got) == sorted(recipients)


def test_a_mail_without_sender_is_handled(odd_host: LiveHost) -> None:
    assert odd_host.send(sender="").ok
    (got,) = odd_host.server.wait_for_mail("bob@local.test")
    assert field_values(got, "Return-Path") == ["<>"]


def test_quoted_and_tagged_recipients_find_their_mailbox(odd_host: LiveHost) -> None:
    assert odd_host.send(recipients="bob+tag@local.test").ok
    assert odd_host.server.wait_for_mail("bob@local.test")


def test_a_quoted_recipient_with_a_tag_finds_its_mailbox(odd_host: LiveHost) -> None:
    assert odd_host.send(recipients='"odd user+tag"@local.test').ok
    assert odd_host.server.wait_for_mail("odd user@local.test")


BOBS = (
    '"bob"@local.test',
    '"bo\\b"@local.test',
    "bo\\b@local.test",
    "@relay.example,@other.example:bob@local.test",
    "bob(a comment)@local.test",
    "bob @ local.test",
    "bob@local.test.",
    "bob%local.test",
    "local.test!bob",
    '"bob+tag"@local.test',
    "BOB@LOCAL.TEST",
)


def test_no_spelling_of_an_address_slips_past_its_handlers(host: LiveHost) -> None:
    refuse = "echo no; echo REJECT >&2; exit 1"
    host.add_program("refuse", "before-queue", refuse, "--type", "recipient", "--address", "bob@local.test")
    host.add_program("banned", "before-queue", refuse, "--type", "sender", "--address", "bob@local.test")
    for spelling in BOBS:
        with host.client("") as smtp:  # one each, because Postfix counts refusals
            assert smtp.send("alice@friend.example", spelling, MAIL).final.code == 550, spelling
            assert smtp.send(spelling, "carol@local.test", MAIL).final.code == 550, spelling
    assert host.send(recipients="carol@local.test").ok


def test_a_recipient_is_taken_out_in_the_spelling_that_it_came_in(host: LiveHost) -> None:
    host.add_program("take", "before-queue", "echo STOP >&2", "--type", "recipient", "--address", "bob@local.test")
    for spelling in BOBS:
        assert host.send(recipients=[spelling, "carol@local.test"]).ok, spelling
    host.postfix.wait_empty(60)
    assert len(host.server.wait_for_mail("carol@local.test", len(BOBS))) == len(BOBS)
    assert host.server.mailbox("bob@local.test") == []
