"""The same road by other ways: an answer for each RCPT, and delivery through pipe(8)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_host import STRANGER, LiveHost, live_host, replies, stranger
from postroom.testing.sink import field_values
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-other")


@pytest.fixture(scope="module", params=["native", "libmilter"])
def rcpt_host(request: pytest.FixtureRequest) -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"milter": {"engine": request.param, "workers": 1, "before_data": "rcpt"}}) as found:
        yield found


@pytest.fixture(scope="module")
def pipe_host() -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"milter": {"workers": 1}}, pipe=True) as found:
        yield found


def test_each_recipient_has_its_own_answer(rcpt_host: LiveHost) -> None:
    rcpt_host.clear()
    rcpt_host.add("grey", "before-data", "--type", "recipient", "--address", "bob@local.test")
    with rcpt_host.client() as smtp:
        lines = [f"MAIL FROM:<{stranger()}>", "RCPT TO:<bob@local.test>", "RCPT TO:<carl@local.test>", "DATA"]
        assert replies(smtp.pipeline(lines)) == [250, 451, 250, 354]
        assert smtp.content(b"Subject: for carl\n\nhi\n").code == 250
    (mail,) = rcpt_host.server.wait_for_mail("carl@local.test")
    assert field_values(mail, "Subject") == ["for carl"]
    assert rcpt_host.server.mailbox("bob@local.test") == []


def test_sendmail_is_never_refused_at_rcpt(rcpt_host: LiveHost) -> None:
    """Postfix takes a refused RCPT of a mail that did not come by SMTP for a broken milter, and tries for ever."""
    rcpt_host.clear()
    script = 'echo "550 5.7.1 no"; echo REJECT >&2; exit 1'
    rcpt_host.add_program("refuse", "before-data", script, "--type", "recipient", "--address", "bob@local.test")
    done = rcpt_host.postfix.sendmail("-f", "carl@local.test", "bob@local.test", mail=b"Subject: x\n\nx\n")
    assert done.returncode == 0
    rcpt_host.postfix.wait_empty()
    assert "milter configuration error" not in rcpt_host.postfix.log()
    assert rcpt_host.server.mailbox("bob@local.test") == []


def test_a_mail_is_delivered_through_the_pipe(pipe_host: LiveHost) -> None:
    pipe_host.clear()
    out = pipe_host.add_program("keep", "before-local", 'env > "$OUT/environment"; cat; echo PASS >&2')
    sent = pipe_host.send(recipients=["bob@local.test", "carl@local.test"])
    assert sent.ok
    for address in ("bob@local.test", "carl@local.test"):
        (mail,) = pipe_host.server.wait_for_mail(address)
        assert mail.endswith(b"\n\nHello!\n")
        assert field_values(mail, "Delivered-To") == [address]
        assert field_values(mail, "Return-Path") == ["<alice@friend.example>"]
    environment = (out / "environment").read_text()
    assert f"POSTROOM_CLIENT_ADDR={STRANGER}\n" in environment
    assert f"POSTROOM_QUEUE_ID={sent.queue_id}\n" in environment


def test_a_refusal_comes_back_through_the_pipe(pipe_host: LiveHost) -> None:
    pipe_host.clear()
    pipe_host.add_program("refuse", "before-local", 'echo "not for me"; echo REJECT >&2; exit 1')
    sent = pipe_host.send(sender="carl@local.test", client="")
    assert "not for me" in pipe_host.wait_status(sent.queue_id, "bounced")[1]


def test_the_pipe_waits_while_the_server_is_away(pipe_host: LiveHost) -> None:
    pipe_host.clear()
    assert pipe_host.server.stop() == 0
    try:
        with SmtpClient(pipe_host.postfix.reentry_port) as smtp:  # no milter there, which would be away as well
            smtp.ehlo()
            sent = smtp.send("alice@friend.example", "bob@local.test", b"Subject: later\n\nx\n")
        assert sent.ok
        assert "4.3.0" in pipe_host.wait_status(sent.queue_id, "deferred")[0]
    finally:
        pipe_host.server.start()
    pipe_host.postfix.flush()
    assert len(pipe_host.server.wait_for_mail("bob@local.test")) == 1
