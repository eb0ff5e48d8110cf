"""`postroom-deliver`: what Postfix' pipe(8) starts. Run as a real program against a real LMTP front."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from core.local_mail import Office, mails, unix_listener
from postroom.fronts import pipe
from postroom.mail import Envelope, Message
from postroom.testing.sink import field_values
from postroom.verdict import Reply, Verdict, deferred, passed, rejected

PROGRAM = [sys.executable, "-IS", pipe.__file__]
MAIL = b"Received: from a by b; now\nSubject: hello\n\n.dot\nline\n"


def deliver(*arguments: str, mail: bytes = MAIL, socket: Path | None = None) -> tuple[int, str]:
    """(exit status, output)."""
    where = ["--socket", str(socket)] if socket else []
    done = subprocess.run(
        [*PROGRAM, *where, *arguments], input=mail, capture_output=True, timeout=60, check=False, env={"LANG": "C"}
    )
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


ENVELOPE = ("-f", "alice@sender.test", "-d", "bob@local.test", "-p")


def test_a_mail_from_the_pipe_is_delivered(tmp_path: Path) -> None:
    seen: list[Envelope] = []

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        seen.append(envelope)
        return passed()

    office = Office(tmp_path, answer)
    maildir = office.mailbox("bob")
    top = b"Return-Path: <alice@sender.test>\nX-Original-To: list@local.test\nDelivered-To: bob@local.test\n"
    facts = ["--queue-id", "4QID", "--client-address=203.0.113.7", "--client-name", "client.test"]
    facts += ["--client-helo", "he lo+", "--sasl-username", "al@here.test"]
    with office.lmtp(unix_listener(tmp_path / "s")):
        result = deliver(*ENVELOPE, str(tmp_path / "mail"), *facts, mail=top + MAIL, socket=tmp_path / "s")
    assert result == (0, "")
    (mail,) = mails(maildir)
    assert field_values(mail, "Return-Path") == ["<alice@sender.test>"]
    assert field_values(mail, "Delivered-To") == ["bob@local.test"]
    assert field_values(mail, "X-Original-To") == ["list@local.test"]
    assert mail.endswith(MAIL)
    (envelope,) = seen
    assert envelope.queue_id == "4QID"
    assert (envelope.session.helo, envelope.session.auth_user) == ("he lo+", "al@here.test")
    assert str(envelope.session.client_address) == "203.0.113.7"


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        (deferred("x", Reply("Try\nlater", "2.1")), (75, "4.2.1 Try later\n")),
        (rejected("x", Reply("No\nnever")), (77, "5.7.1 No never\n")),
        (rejected("x", Reply("Unknown", "1.1")), (67, "5.1.1 Unknown\n")),
        (rejected("x", Reply("Full", "2.2")), (69, "5.2.2 Full\n")),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_status(tmp_path: Path, verdict: Verdict, result: tuple[int, str]) -> None:
    office = Office(tmp_path, lambda *_: verdict)
    office.mailbox("bob")
    with office.lmtp(unix_listener(tmp_path / "s")):
        assert deliver(*ENVELOPE, str(tmp_path / "mail"), socket=tmp_path / "s") == result


def test_recipients_of_all_sorts(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.mailbox("bob"), office.mailbox("sp ace")
    root = ["-p", str(tmp_path / "mail")]
    with office.lmtp(unix_listener(tmp_path / "s")):
        assert deliver("-f", "", "-d", "sp ace@local.test", *root, socket=tmp_path / "s") == (0, "")
        assert deliver("-f", "MAILER-DAEMON", "-d", "bob@local.test", *root, socket=tmp_path / "s") == (0, "")
        unknown = deliver("-f", "", "-d", "nobody@local.test", "-d", "bob@local.test", *root, socket=tmp_path / "s")
    assert unknown == (67, "5.1.1 User unknown\n")
    bob = tmp_path / "mail/local.test/bob/Maildir"
    assert [field_values(mail, "Return-Path") for mail in mails(bob)] == [["<>"], ["<>"]]


@pytest.mark.parametrize(
    "mail", [b"", b"\n", b"x", b".", b".\n", b"a: b\n\n.\n..\n.x", b"a: b\r\n\r\n.\r\nx\r\n", b"\r"]
)
def test_any_mail_arrives_as_it_is(tmp_path: Path, mail: bytes) -> None:
    office = Office(tmp_path)
    maildir = office.mailbox("bob")
    with office.lmtp(unix_listener(tmp_path / "s")):
        assert deliver(*ENVELOPE, str(tmp_path / "mail"), mail=mail, socket=tmp_path / "s") == (0, "")
    (found,) = mails(maildir)
    lf = mail.replace(b"\r\n", b"\n")
    whole = lf if lf.endswith(b"\n") or not lf else lf + b"\n"
    _, _, body = found.partition(b"\n\n")
    assert body == (whole.partition(b"\n\n")[2] if whole.startswith(b"a: b") else whole.removeprefix(b"\n"))


@pytest.mark.parametrize(
    "arguments",
    [[], ["-f", "a@b"], ["-d", "a@b"], ["-f"], ["--nonsense", "x"], ["-f", "a@b", "-d", "c@d", "--socket"],
     ["-f", "a@b", "-d", "c@d", "--socket", "inet:127.0.0.1:nonsense"], ["-f", "a\nb", "-d", "c@d"],
     ["-f", "a@b", "-d", "c@d", "-p", "/x"]],
)  # fmt: skip
def test_whatever_goes_wrong_the_mail_server_tries_again(arguments: Sequence[str], tmp_path: Path) -> None:
    status, output = deliver(*arguments, socket=tmp_path / "nobody")
    assert status == 75
    assert output.startswith("4.3.0 ")
    assert output.count("\n") == 1
    assert "Traceback" not in output


@pytest.mark.parametrize("said", [b"", b"220 x\r\n", b"nonsense\r\n", b"554 5.3.2 no\r\n", b"220-" * 40000])
def test_a_server_that_hangs_up_or_babbles_is_a_temporary_failure(tmp_path: Path, said: bytes) -> None:
    import threading

    listening = unix_listener(tmp_path / "s")
    listening.setblocking(True)

    def babble() -> None:
        with listening.accept()[0] as peer:
            try:
                peer.sendall(said)
            except OSError:
                pass

    thread = threading.Thread(target=babble)
    thread.start()
    status, output = deliver(*ENVELOPE, "/x", socket=tmp_path / "s")
    thread.join(30)
    listening.close()
    assert (status, output[:6]) == (75, "4.3.0 ")


def test_the_strictest_answer_is_the_temporary_one() -> None:
    assert pipe.result([(250, "2.0.0 ok"), (550, "5.7.1 no"), (451, "4.3.0 later")]) == (75, "4.3.0 later")
    assert pipe.result([(250, "2.0.0 ok"), (550, "no code")]) == (69, "5.3.0 no code")
    assert pipe.result([(250, "2.0.0 ok"), (250, "2.0.0 ok")]) == (0, "")
    assert pipe.result([])[0] == 75
    assert pipe.result([(354, "odd")])[0] == 75


def test_it_imports_next_to_nothing() -> None:
    code = (
        "import sys, json, os; before = set(sys.modules); import runpy; runpy_modules = set(sys.modules);"
        f"exec(compile(open({pipe.__file__!r}).read(), 'pipe.py', 'exec'), {{'__name__': 'pipe'}});"
        "os.write(1, json.dumps(sorted(set(sys.modules) - runpy_modules)).encode())"
    )
    found = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, check=True, timeout=60)
    assert set(json.loads(found.stdout)) <= {"_socket"}


def test_as_a_console_script(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("postroom-deliver")
    done = subprocess.run(
        [program, *ENVELOPE, "/x"],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "POSTROOM_LMTP": f"unix:{tmp_path}/nobody"},
    )
    assert (done.returncode, done.stdout) == (75, b"4.3.0 Mail delivery service is not running\n")
