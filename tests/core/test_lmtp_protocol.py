"""The LMTP state machine: commands, limits, and nothing but CRLF "." CRLF ends a mail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.delivery.report import Report, no_such_user
from postroom.fronts.content import MAX_HEADER
from postroom.fronts.conversation import HangUp, Send
from postroom.fronts.lmtp.data import MailReceiver
from postroom.fronts.lmtp.forward import Forwarded
from postroom.fronts.lmtp.protocol import (
    MAX_COMMAND,
    MAX_ERRORS,
    CheckRecipient,
    DeliverMail,
    Limits,
    LmtpProtocol,
)

LIMITS = Limits(message=1 << 20, recipients=3)


class Driver:
    """Plays the engine: accepts every recipient but `nobody@…`, and delivers every mail."""

    def __init__(self, *, trusted: bool = True, limits: Limits = LIMITS) -> None:
        self.protocol = LmtpProtocol("mx.test", limits, trusted=trusted)
        self.mails: list[DeliverMail] = []
        self.over = False

    def __call__(self, octets: bytes) -> list[str]:
        """The reply lines to these octets, multi-line replies as their last line."""
        self.protocol.receive(octets)
        sent = b""
        while step := self.protocol.step():
            match step:
                case Send(reply):
                    sent += reply
                case HangUp(reply):
                    sent += reply
                    self.over = True
                case CheckRecipient(_, recipient):
                    refusal = no_such_user() if recipient.local_part == "nobody" else None
                    sent += self.protocol.checked(recipient, refusal).octets
                case DeliverMail(transaction):
                    self.mails.append(step)
                    sent += b"".join(Report("250", "2.0.0", str(each)).wire() for each in transaction.recipients)
                    self.protocol.delivered()
        return [line for line in sent.decode().split("\r\n") if line and line[3] != "-"]


def mail_of(driver: Driver) -> bytes:
    (delivered,) = driver.mails
    return b"".join(delivered.message.chunks())


START = b"LHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"


def test_a_pipelined_transaction_is_answered_in_order() -> None:
    driver = Driver()
    replies = driver(
        b"LHLO client.test\r\nMAIL FROM:<> SIZE=100 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<one@d.test>\r\n"
        b"RCPT TO:<nobody@d.test>\r\nRCPT TO:<two@d.test>\r\nDATA\r\nA: b\r\n\r\n..dot\r\n.\r\nNOOP\r\nQUIT\r\n"
    )
    assert [reply[:9] for reply in replies] == [
        "250 XPOST",
        "250 2.1.0",
        "250 2.1.5",
        "550 5.1.1",
        "250 2.1.5",
        "354 End d",
        "250 2.0.0",
        "250 2.0.0",
        "250 2.0.0",
        "221 2.0.0",
    ]
    assert driver.over
    assert mail_of(driver) == b"A: b\r\n\r\n.dot\r\n"
    transaction = driver.mails[0].transaction
    assert not transaction.sender
    assert transaction.smtputf8
    assert [str(each) for each in transaction.recipients] == ["one@d.test", "two@d.test"]


def test_octet_by_octet_comes_to_the_same() -> None:
    driver = Driver()
    replies = []
    for octet in START + b"DATA\r\nA: b\r\n\r\nx\r\n.\r\n":
        replies += driver(bytes([octet]))
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "354", "250"]
    assert mail_of(driver) == b"A: b\r\n\r\nx\r\n"


def test_what_is_announced() -> None:
    protocol = LmtpProtocol("mx.test", LIMITS, trusted=True)
    protocol.receive(b"LHLO x\r\n")
    step = protocol.step()
    assert isinstance(step, Send)
    assert step.octets.decode().split("\r\n")[:-1] == [
        "250-mx.test",
        "250-PIPELINING",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-ENHANCEDSTATUSCODES",
        "250-SIZE 1048576",
        "250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
        "250 XPOSTROOM",
    ]


@pytest.mark.parametrize(
    ("before", "line", "reply"),
    [
        (b"", b"HELO x", "500 5.5.1 "),  # RFC 2033 4.1
        (b"", b"EHLO x", "500 5.5.1 "),
        (b"", b"MAIL FROM:<a@b>", "503 5.5.1 "),
        (b"", b"LHLO", "501 5.5.4 "),
        (b"", b"NONSENSE", "500 5.5.2 "),
        (b"", b"NOOP\nMAIL FROM:<>", "500 5.5.2 "),
        (b"", b"NOOP\0", "500 5.5.2 "),
        (b"", b"N" * (MAX_COMMAND + 1), "500 5.5.2 "),
        (b"", b"VRFY postmaster", "252 2.5.2 "),
        (b"LHLO x\r\n", b"RCPT TO:<a@b>", "503 5.5.1 "),
        (b"LHLO x\r\n", b"DATA", "503 5.5.1 "),
        (b"LHLO x\r\n", b"MAIL FROM:a@b", "501 5.1.7 "),
        (b"LHLO x\r\n", b"MAIL FROM:<a@b", "501 5.1.7 "),
        (b"LHLO x\r\n", b"MAIL FROM:<@b>", "501 5.1.7 "),
        (b"LHLO x\r\n", b"MAIL FROM:<" + b"a" * 400 + b"@b>", "501 5.1.7 "),
        (b"LHLO x\r\n", b"MAIL FROM:<a@b> SIZE=1048577", "552 5.3.4 "),
        (b"LHLO x\r\n", b"MAIL FROM:<a@b> SIZE=x", "501 5.5.4 "),
        (b"LHLO x\r\n", b"MAIL FROM:<a@b> RET=FULL", "555 5.5.4 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b"MAIL FROM:<a@b>", "503 5.5.1 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b"RCPT TO:<>", "501 5.1.3 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d> NOTIFY=NEVER", "555 5.5.4 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b"RCPT TO:<@relay.test:c@d>", "250 2.1.5 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b'RCPT TO:<"a >b"@d>', "250 2.1.5 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b"RCPT TO:<f\xfc@d>", "250 2.1.5 "),
        (b"LHLO x\r\nMAIL FROM:<a@b>\r\n", b"DATA", "503 5.5.1 "),
        (START + b"RCPT TO:<a@d>\r\nRCPT TO:<b@d>\r\n", b"RCPT TO:<e@d>", "452 4.5.3 "),
        (START, b"RSET", "250 2.0.0 "),
        (START, b"XFORWARD NAME=x", "503 5.5.1 "),
    ],
)
def test_one_command(before: bytes, line: bytes, reply: str) -> None:
    driver = Driver()
    driver(before)
    replies = driver(line + b"\r\n")
    assert len(replies) == 1
    assert replies[0].startswith(reply)
    assert driver(b"NOOP\r\n") == ["250 2.0.0 OK"]


def test_a_client_that_only_makes_errors_is_sent_away() -> None:
    driver = Driver()
    replies = driver(b"X\r\n" * (MAX_ERRORS + 1) + b"NOOP\r\n")
    assert replies[-1].startswith("421 4.7.0 ")
    assert len(replies) == MAX_ERRORS + 1
    assert driver.over


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n"])
def test_only_crlf_dot_crlf_ends_a_mail(end: bytes) -> None:
    driver = Driver()
    smuggled = b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nX: smuggled\r\n\r\nx\r\n"
    replies = driver(START + b"DATA\r\nA: b\r\n\r\nx" + end + smuggled + b".\r\n")
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "354", "250"]
    assert b"X: smuggled" in mail_of(driver)


def test_a_mail_too_big_is_refused_for_each_recipient_and_the_session_goes_on() -> None:
    driver = Driver(limits=Limits(message=100, recipients=3))
    replies = driver(START + b"RCPT TO:<e@d.test>\r\nDATA\r\n" + b"x" * 500 + b"\r\n.\r\nNOOP\r\n")
    assert replies[-3:] == ["552 5.3.4 Message too big for system"] * 2 + ["250 2.0.0 OK"]
    assert not driver.mails


def test_forwarded_facts_are_forgotten_with_the_transaction() -> None:
    driver = Driver()
    driver(b"LHLO x\r\nXFORWARD NAME=client.test ADDR=IPV6:2001:db8::1 PORT=2525 HELO=a+2Bb\r\n")
    driver(b"XFORWARD IDENT=4QID SOURCE=REMOTE PROTO=ESMTP\r\nXPOSTROOM LOGIN=user@d.test ROOT=/mail\r\n")
    driver(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n\r\n.\r\n")
    driver(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n\r\n.\r\n")
    first, second = (each.transaction.forwarded for each in driver.mails)
    assert (first.client_name, str(first.client_address), first.client_port) == ("client.test", "2001:db8::1", 2525)
    assert (first.helo, first.queue_id, first.login, first.root) == ("a+b", "4QID", "user@d.test", "/mail")
    assert first.by_pipe
    assert second == Forwarded()


@pytest.mark.parametrize(
    "line",
    [b"XFORWARD", b"XFORWARD NAME", b"XFORWARD EVIL=1", b"XFORWARD ADDR=1.2.3", b"XFORWARD PORT=99999",
     b"XFORWARD NAME=a+0Ab", b"XFORWARD NAME=+ZZ", b"XFORWARD SOURCE=MARS", b"XPOSTROOM NAME=x"],
)  # fmt: skip
def test_bad_attributes_are_refused(line: bytes) -> None:
    driver = Driver()
    driver(b"LHLO x\r\n")
    assert driver(line + b"\r\n")[0].startswith("501 5.5.4 ")


def test_a_stranger_may_not_say_who_the_client_was() -> None:
    driver = Driver(trusted=False)
    assert driver(b"LHLO x\r\n") == ["250 SIZE 1048576"]
    assert driver(b"XFORWARD NAME=x\r\nXPOSTROOM LOGIN=x\r\n") == ["550 5.7.1 Not for you"] * 2


def received(octets: bytes, pieces: int) -> tuple[bytes, bytes]:
    """(the mail, what follows it) when the octets come in pieces of that size."""
    receiver = MailReceiver(1 << 22)
    for position in range(0, len(octets), pieces):
        rest = receiver.feed(octets[position : position + pieces])
        if rest is not None:
            return b"".join(receiver.finish().chunks()), rest + octets[position + pieces :]
    raise AssertionError("no end")


lines = st.lists(
    st.sampled_from([b"", b".", b"..", b"A: b", b" folded", b"x" * 5, b".x", b"f\xfc", b"\r", b"a\rb", b":"])
)


@given(lines, st.integers(1, 20))
def test_any_mail_in_any_pieces_comes_out_as_it_went_in(mail_lines: list[bytes], pieces: int) -> None:
    octets = b"".join(line + b"\r\n" for line in mail_lines)
    stuffed = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in mail_lines)
    mail, rest = received(stuffed + b".\r\nNEXT", pieces)
    assert rest == b"NEXT"
    whole, rest = received(stuffed + b".\r\nNEXT", len(stuffed) + 100)
    assert mail == whole
    # the empty line between header and body is written where the mail had none
    assert mail.replace(b"\r\n", b"") == octets.replace(b"\r\n", b"")


def test_a_header_without_end_is_refused_by_name() -> None:
    driver = Driver(limits=Limits(message=1 << 24, recipients=3))
    replies = driver(START + b"DATA\r\nX: " + b"y" * (MAX_HEADER + 10) + b"\r\n\r\nbody\r\n.\r\nNOOP\r\n")
    assert replies[-2:] == ["552 5.3.4 Message header too long", "250 2.0.0 OK"]


def test_a_long_mail_without_header_is_all_body() -> None:
    text = b"no header here\r\n" * (MAX_HEADER // 10)
    receiver = MailReceiver(1 << 24)
    assert receiver.feed(text) is None
    assert receiver.feed(b".\r\n") == b""
    message = receiver.finish()
    assert not message.fields
    assert not receiver.header_too_long
    assert message.body.size == len(text)
    assert message.body.read() == text
