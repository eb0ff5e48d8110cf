"""The whole road: SMTP client, Postfix, milter front, handlers, queue, LMTP front, Maildir or next hop."""

from __future__ import annotations

import re
import time

import pytest
from live_host import FORGER, MAIL, STRANGER, LiveHost, replies, stranger
from postroom.testing.sink import field_values

pytestmark = pytest.mark.xdist_group("live-road")

KEEP = 'cat > "$OUT/mail"; env > "$OUT/environment"; cat "$OUT/mail"; echo PASS >&2'


def tagging(text: str) -> str:
    return f'echo "X-Test: {text}"; cat; echo PASS >&2'


def test_mail_passes_when_nothing_is_registered(host: LiveHost) -> None:
    sent = host.send()
    assert sent.ok, sent.final.text
    (mail,) = host.server.wait_for_mail("bob@local.test")
    assert mail.endswith(b"\n\nHello!\n")
    assert field_values(mail, "Return-Path") == ["<alice@friend.example>"]


def test_a_stranger_has_to_come_back(host: LiveHost) -> None:
    host.add("grey", "before-data")
    sender = stranger()
    first = host.send(sender)
    # libmilter cannot answer a second DATA after a refused one, so that engine ends the session (421)
    assert re.fullmatch("4[25]1 4.7.1 .*try again later", first.final.text), first.final.text
    assert (first.final.code == 421) == (host.engine == "libmilter")
    assert first.final.command == "DATA"
    time.sleep(1.1)  # the wait is real: Postfix and the server are other processes with clocks of their own
    second = host.send(sender)
    assert second.ok, second.final.text
    assert host.server.wait_for_mail("bob@local.test")


def test_own_networks_are_not_greylisted(host: LiveHost) -> None:
    host.add("grey", "before-data")
    assert host.send(sender="bob@local.test", recipients="dora@elsewhere.example", client="").ok


def test_a_forged_sender_is_refused_at_the_end_of_the_mail(host: LiveHost) -> None:
    host.add("spf", "before-queue", "--context", "level=3")
    sent = host.send(sender="orders@shop.example", client=FORGER)
    assert sent.final.command == "."
    assert sent.final.code == 550, sent.final.text
    assert (
        "/" not in sent.final.text.replace("http://", "").replace("https://", "") or "postroom" not in sent.final.text
    )
    assert host.server.mailbox("bob@local.test") == []


def test_a_good_sender_gets_its_result_into_the_header(host: LiveHost) -> None:
    host.add("spf", "before-queue")
    assert host.send().ok
    (mail,) = host.server.wait_for_mail("bob@local.test")
    (results,) = field_values(mail, "Authentication-Results")
    assert results.startswith("mx.test.example;")
    assert "spf=pass" in results


def test_a_forged_result_with_our_name_is_taken_out(host: LiveHost) -> None:
    host.add("spf", "before-queue")
    forged = b"Authentication-Results: mx.test.example; spf=pass smtp.mailfrom=bank.example\n"
    assert host.send(mail=forged + b"Authentication-Results: other.example; dkim=pass\n" + MAIL).ok
    (mail,) = host.server.wait_for_mail("bob@local.test")
    results = field_values(mail, "Authentication-Results")
    assert len(results) == 2
    assert not any("bank.example" in each for each in results)
    assert "other.example; dkim=pass" in results


def test_programs_at_all_four_stages_see_the_session(host: LiveHost) -> None:
    seen = {stage: host.add_program(f"keep-{stage}", stage, KEEP) for stage in ("before-queue", "before-local")}
    seen["before-remote"] = host.add_program("keep-before-remote", "before-remote", KEEP)
    seen["before-data"] = host.add_program("keep-before-data", "before-data", KEEP)
    sent = host.send(recipients="bob@local.test")
    assert sent.ok
    host.server.wait_for_mail("bob@local.test")
    for stage in ("before-data", "before-queue", "before-local"):
        environment = (seen[stage] / "environment").read_text()
        assert f"POSTROOM_STAGE={stage}\n" in environment
        assert f"POSTROOM_CLIENT_ADDR={STRANGER}\n" in environment, stage
        assert "POSTROOM_CLIENT_NAME=mail.friend.example\n" in environment, stage
        assert "POSTROOM_HELO=mail.friend.example\n" in environment, stage
        assert f"POSTROOM_QUEUE_ID={sent.queue_id}\n" in environment, stage
    assert not (seen["before-remote"] / "mail").exists()
    assert (seen["before-data"] / "mail").read_bytes() == b""
    assert b"\r" not in (seen["before-queue"] / "mail").read_bytes()


def test_outgoing_mail_passes_before_remote(host: LiveHost) -> None:
    host.add_program("tag", "before-remote", tagging("remote"))
    sent = host.send("bob@local.test", ["dora@elsewhere.example"], client="")
    assert sent.ok
    (received,) = host.sink.wait(1)
    assert received.field("X-Test") == ["remote"]
    assert received.recipients == ("dora@elsewhere.example",)


def test_an_authenticated_client_is_told_as_such(host: LiveHost) -> None:
    out = host.add_program("keep", "before-remote", KEEP)
    with host.client("") as smtp:
        smtp.xclient("laptop.example", addr="198.51.100.7", login="carl@local.test")
        # no SASL here, so relaying is refused; the local recipient is not
        assert smtp.send("carl@local.test", "dora@elsewhere.example", MAIL).final.code == 554
    assert not (out / "mail").exists()


def test_a_program_changes_the_mail_before_each_delivery(host: LiveHost) -> None:
    host.add_program("queue", "before-queue", tagging("queue"))
    host.add_program("local", "before-local", tagging("local"))
    assert host.send().ok
    (mail,) = host.server.wait_for_mail("bob@local.test")
    assert field_values(mail, "X-Test") == ["local", "queue"]
    assert mail.endswith(b"\n\nHello!\n")


def test_a_reject_at_before_local_bounces_to_the_sender(host: LiveHost) -> None:
    host.add_program("refuse", "before-local", 'echo "not for me"; echo REJECT >&2; exit 1')
    sent = host.send(sender="carl@local.test", client="")
    bounced = host.postfix.wait_for_log(rf"{sent.queue_id}: to=<bob@local.test>.*status=bounced (.*)")
    assert "not for me" in bounced[1]


def test_a_deferral_at_before_local_keeps_the_mail_in_the_queue(host: LiveHost) -> None:
    host.add_program("later", "before-local", 'echo "come again"; echo DEFER >&2; exit 1')
    sent = host.send()
    assert "come again" in host.wait_status(sent.queue_id, "deferred")[1]
    assert [each["queue_id"] for each in host.postfix.queue()] == [sent.queue_id]
    host.server.succeed("handlers", "disable", "later", "--stage", "before-local", "--type", "global")
    host.postfix.flush()
    assert len(host.server.wait_for_mail("bob@local.test")) == 1
    host.postfix.wait_empty()


def test_a_stop_at_before_queue_takes_the_mail_over(host: LiveHost) -> None:
    host.add_program("take", "before-queue", "cat > $OUT/mail; echo STOP >&2")
    sent = host.send()
    assert sent.ok
    assert b"Hello!" in (host.programs["take"] / "mail").read_bytes()
    host.postfix.wait_for_log(rf"{sent.queue_id}: milter-discard")
    assert host.server.mailbox("bob@local.test") == []


def test_a_second_data_after_a_refused_one_is_answered(host: LiveHost) -> None:
    """RFC 5321 4.1.1.4 leaves the transaction open; Postfix does too."""
    host.add("grey", "before-data", "--type", "recipient", "--address", "bob@local.test")
    smtp = host.client()
    smtp.command(f"MAIL FROM:<{stranger()}>")
    smtp.command("RCPT TO:<bob@local.test>")
    if host.engine == "libmilter":  # that library would leave Postfix waiting: its engine ends the session instead
        assert smtp.command("DATA").code == 421
        with pytest.raises(OSError, match=r"hung up|[Bb]roken pipe|reset"):
            smtp.command("RCPT TO:<carl@local.test>")
        smtp.close()
        return
    assert smtp.command("DATA").code == 451
    smtp.command("RCPT TO:<carl@local.test>")
    assert smtp.command("DATA").code == 451
    assert smtp.command("RSET").code == 250
    assert smtp.send("alice@friend.example", "carl@local.test", MAIL).ok
    smtp.close()


def test_pipelined_commands_are_answered_in_order(host: LiveHost) -> None:
    host.add("grey", "before-data", "--type", "recipient", "--address", "bob@local.test")
    with host.client() as smtp:
        lines = [f"MAIL FROM:<{stranger()}>", "RCPT TO:<carl@local.test>", "RCPT TO:<bob@local.test>", "DATA"]
        refusal = 421 if host.engine == "libmilter" else 451
        assert replies(smtp.pipeline(lines)) == [250, 250, 250, refusal]
    with host.client() as smtp:
        assert replies(smtp.pipeline(["RSET", *lines[:2], "DATA"])) == [250, 250, 250, 354]
        assert smtp.content(MAIL).code == 250


def test_mail_of_sendmail_passes_the_handlers(host: LiveHost) -> None:
    """As `local` mail: what is about strangers leaves it alone."""
    host.add("spf", "before-queue")
    host.add("grey", "before-data")
    host.add_program("tag", "before-queue", tagging("queue"))
    done = host.postfix.sendmail("-f", "root@local.test", "bob@local.test", mail=MAIL)
    assert done.returncode == 0
    (mail,) = host.server.wait_for_mail("bob@local.test")
    assert field_values(mail, "X-Test") == ["queue"]
    assert "spf=" not in " ".join(field_values(mail, "Authentication-Results"))
    handled = [line for line in host.server.log_lines() if line.event == "mail handled"][-1]
    assert handled.facts["traffic"] == "local"


def test_sendmail_to_a_refusing_handler_ends_as_a_bounce_and_not_in_a_loop(host: LiveHost) -> None:
    host.add_program("refuse", "before-data", 'echo "550 5.7.1 no"; echo REJECT >&2; exit 1')
    host.postfix.sendmail("-f", "carl@local.test", "bob@local.test", mail=MAIL)
    (bounce,) = host.server.wait_for_mail("carl@local.test")
    assert b"5.7.1" in bounce
    host.postfix.wait_empty()


def test_an_alias_to_two_places_reaches_both(host: LiveHost) -> None:
    host.add_program("local", "before-local", tagging("local"))
    assert host.send(recipients="both@local.test").ok
    (mail,) = host.server.wait_for_mail("bob@local.test")
    (received,) = host.sink.wait(1)
    assert field_values(mail, "X-Test") == ["local"]
    assert received.recipients == ("dora@elsewhere.example",)


def test_the_trace_command_shows_the_whole_way(host: LiveHost) -> None:
    host.add("spf", "before-queue")
    host.add_program("local", "before-local", tagging("local"))
    sent = host.send()
    host.server.wait_for_mail("bob@local.test")
    shown = host.server.succeed("trace", sent.queue_id)
    assert "spf" in shown
    assert "before-local" in shown
