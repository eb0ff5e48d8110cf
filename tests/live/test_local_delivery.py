"""Postfix' own lmtp(8) and pipe(8) hand mail to the LMTP front, and believe what it answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from core.local_mail import Answer, Office, mails, unix_listener
from postroom.fronts import pipe
from postroom.mail import Envelope, Message
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.sink import field_values
from postroom.testing.smtp import SmtpClient
from postroom.verdict import Reply, Verdict, deferred, passed, rejected

pytestmark = pytest.mark.xdist_group("live-delivery")

StartPostfix = Callable[[PostfixSettings], PostfixInstance]
ANSWERS = {
    "later": deferred("x", Reply("Come back", "2.1")),
    "never": rejected("x", Reply("Not wanted", "7.1")),
}


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that Postfix' users may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def by_name(envelope: Envelope, message: Message, services: object) -> Verdict:
    return ANSWERS.get(envelope.recipients[0].local_part, passed())


@contextmanager
def office_on(base: Path, answer: Answer) -> Iterator[Office]:
    office = Office(base, answer)
    for user in ("bob", "later", "never"):
        office.mailbox(user)
    listening = unix_listener(base / "s")
    (base / "s").chmod(0o666)
    with office.lmtp(listening):
        yield office


def postfix_settings(base: Path, road: str) -> PostfixSettings:
    if road == "lmtp":
        return PostfixSettings(local=f"lmtp:unix:{base}/s")
    macros = f"-p {base}/mail -f ${{sender}} -d ${{recipient}} --queue-id=${{queue_id}}"
    macros += " --client-address=${client_address} --client-name=${client_hostname} --client-helo=${client_helo}"
    macros += " --sasl-username=${sasl_username} --original-recipient=${original_recipient}"
    copy = base / "postroom-deliver.py"  # the checkout may be under root's home, closed to pipe(8)'s user
    shutil.copyfile(pipe.__file__, copy)
    copy.chmod(0o644)
    program = f"/usr/bin/python3 -IS {copy} --socket unix:{base}/s {macros}"
    return PostfixSettings(
        local="deliver",
        main={"deliver_destination_recipient_limit": "1"},
        master=["deliver unix - n n - - pipe", f"  flags=DORhu user=nobody:nogroup null_sender= argv={program}"],
    )


@pytest.mark.parametrize("road", ["lmtp", "pipe"])
def test_postfix_believes_each_answer(public_directory: Path, start_postfix: StartPostfix, road: str) -> None:
    seen: list[Envelope] = []

    def answer(envelope: Envelope, message: Message, services: object) -> Verdict:
        seen.append(envelope)
        return by_name(envelope, message, services)

    with office_on(public_directory, answer):
        postfix = start_postfix(postfix_settings(public_directory, road))
        users = ["bob", "later", "never", "nobody"]
        with SmtpClient(postfix.smtp_port) as smtp:
            smtp.xclient("helo.client.test", addr="203.0.113.5", name="client.test")
            sent = smtp.send("", [f"{user}@local.test" for user in users], b"Subject: hello\n\n.dot\nline\n")
        assert sent.ok
        for user, line in (
            ("bob", r"status=sent"),
            ("later", r"dsn=4\.2\.1, status=deferred .*Come back"),
            ("never", r"dsn=5\.7\.1, status=bounced .*Not wanted"),
            ("nobody", r"dsn=5\.1\.1, status=bounced .*User unknown"),
        ):
            postfix.wait_for_log(rf"to=<{user}@local\.test>.*{line}")
        (mail,) = mails(public_directory / "mail/local.test/bob/Maildir")
    assert field_values(mail, "Return-Path") == ["<>"]
    assert field_values(mail, "Delivered-To") == ["bob@local.test"]
    assert len(field_values(mail, "Received")) == 2
    assert mail.endswith(b"\n\n.dot\nline\n")
    envelope = next(each for each in seen if each.recipients[0].local_part == "bob")
    assert (str(envelope.session.client_address), envelope.session.client_name) == ("203.0.113.5", "client.test")
    assert envelope.session.helo == "helo.client.test"
    assert envelope.queue_id == sent.queue_id
