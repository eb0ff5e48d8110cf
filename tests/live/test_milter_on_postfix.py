"""The milter front behind a real Postfix: what the client is told, and what arrives at the next hop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dialogues.conversation import listen
from dialogues.engines import running
from dialogues.libmilter_process import libmilter_process
from dialogues.scripted import World, parse_given
from postroom.config import Config, Host
from postroom.fronts.milter.native import NativeEngine
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import wait_until
from postroom.testing.sink import SinkServer
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

COMPLETE = b"From: a@sender.example\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-Id: <1@sender.example>\r\n"
"""What Postfix would add for a client of its own."""

MAIL = (
    b"Received: from x\r\nSubject: hello\r\nX-Gone: 1\r\nSubject:no-space\r\nX-Gone: 2\r\n" + COMPLETE + b"\r\nbody\r\n"
)
CONFIG = Config(host=Host(name="mx.test.example"))


class Front:
    """One Postfix for the module; each test gives it another world."""

    def __init__(self, postfix: PostfixInstance, sink: SinkServer) -> None:
        self.postfix, self.sink = postfix, sink
        self.world = World(Path("/"), CONFIG)

    def enable(self, *given: str) -> None:
        self.world = World(Path("/"), CONFIG)
        for line in given:
            self.world.add(*parse_given(line))

    def smtp(self) -> SmtpClient:
        client = SmtpClient(self.postfix.smtp_port)
        client.ehlo()
        return client

    def arrived(self, queue_id: str) -> bytes:
        """The one mail that the next hop got, from its own Received on."""
        self.postfix.wait_for_log(f"{queue_id}: removed")
        return next(mail.mail for mail in self.sink.received if queue_id.encode() in mail.mail)


@contextmanager
def native_engine(front: list[Front]) -> Iterator[int]:
    with listen() as listener:
        engine = NativeEngine([listener], lambda: front[0].world.make_session(), CONFIG, World(Path("/")).log)
        with running(engine):
            yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    require("master")
    require_root()
    holder: list[Front] = []
    with native_engine(holder) as port, SinkServer() as sink:
        settings = PostfixSettings(
            milters=[f"inet:127.0.0.1:{port}"], local=f"smtp:[127.0.0.1]:{sink.port}", relay_port=sink.port
        )
        with PostfixInstance(settings) as postfix:
            holder.append(Front(postfix, sink))
            yield holder[0]


def test_nothing_enabled(front: Front) -> None:
    front.enable()
    with front.smtp() as client:
        for _ in range(3):
            assert client.send("a@sender.example", "b@local.test", MAIL).ok


def test_refused_at_data_and_once_more(front: Front) -> None:
    front.enable("before-data grey global | defer")
    with front.smtp() as client:
        client.command("MAIL FROM:<a@sender.example>")
        client.command("RCPT TO:<b@local.test>")
        assert client.command("DATA").text == "451 4.7.1 Service unavailable - try again later"
        client.command("RCPT TO:<c@local.test>")
        assert client.command("DATA").text == "451 4.7.1 Service unavailable - try again later"
        envelope = front.world.handlers["grey"].calls[-1][0]
        assert [str(each) for each in envelope.recipients] == ["b@local.test", "c@local.test"]
        assert envelope.queue_id
        client.command("RSET")
        front.world.registry.set_enabled("grey", False)
        assert client.send("a@sender.example", "b@local.test", MAIL).ok


def test_percent_signs_and_lines_of_a_reply(front: Front) -> None:
    front.enable("before-queue no global | reject 7.1 100% sure\\nsecond %s")
    with front.smtp() as client:
        sent = client.send("a@sender.example", "b@local.test", MAIL)
    assert sent.final.text == "550 5.7.1 100% sure / 5.7.1 second %s"


def test_header_edits_arrive_byte_for_byte(front: Front) -> None:
    front.enable(
        "before-queue edit global needs=headers | pass | remove X-Gone | insert X-Top: t | insert@2 X-Mid:\\tm"
        " | replace@2 Subject: new | add X-End: one\\r\\n\\ttwo \\xe4 | result spf=pass smtp.mailfrom=a@sender.example"
    )
    with front.smtp() as client:
        sent = client.send("a@sender.example", "b@local.test", MAIL)
    lines = front.arrived(sent.queue_id).replace(b"\r\n", b"\n").split(b"\n\n")[0]
    assert b"\r" not in lines
    header = lines.split(b"\n")
    at = header.index(b"Authentication-Results: mx.test.example;")
    assert header[at + 1] == b"\tspf=pass smtp.mailfrom=a@sender.example"
    assert header[at + 2] == b"X-Top: t"
    assert header[at + 3].startswith(b"Received: ")  # Postfix' own
    rest = lines[lines.index(b"Received: from x") :]
    kept = COMPLETE.replace(b"\r\n", b"\n")
    assert rest == b"Received: from x\nX-Mid:\tm\nSubject: hello\nSubject: new\n" + kept + b"X-End: one\n\ttwo \xe4"


def test_forged_results_are_gone_and_others_stay(front: Front) -> None:
    front.enable("before-queue spf global needs=headers | pass | result spf=fail")
    forged = (
        b"Authentication-Results: mx.test.example; spf=pass\r\n"
        b"Authentication-Results: other.example; spf=pass\r\n"
        b"authentication-results: MX.TEST.example (x) 1; dkim=pass\r\n" + MAIL
    )
    with front.smtp() as client:
        arrived = front.arrived(client.send("a@sender.example", "b@local.test", forged).queue_id).lower()
    assert arrived.count(b"authentication-results") == 2
    assert b"spf=fail" in arrived
    assert b"other.example; spf=pass" in arrived
    assert b"dkim=pass" not in arrived


def test_body_and_envelope_edits(front: Front) -> None:
    front.enable(
        "before-queue route global needs=body | pass | body new body\\r\\n | sender new@sender.example"
        " | addrcpt added@local.test | delrcpt gone@local.test"
    )
    with front.smtp() as client:
        sent = client.send("a@sender.example", ["b@local.test", "gone@local.test"], MAIL)
    front.postfix.wait_for_log(f"{sent.queue_id}: removed")
    log = front.postfix.log()
    assert f"{sent.queue_id}: from=<new@sender.example>" in log
    assert f"{sent.queue_id}: to=<added@local.test>" in log
    assert f"{sent.queue_id}: to=<gone@local.test>" not in log
    assert front.arrived(sent.queue_id).replace(b"\r\n", b"\n").endswith(b"\n\nnew body\n")


def test_quarantine_holds_and_says_why(front: Front) -> None:
    front.enable("before-queue virus global | quarantine Eicar found")
    with front.smtp() as client:
        sent = client.send("a@sender.example", "b@local.test", MAIL)
    assert sent.ok
    wait_until(lambda: any(each["queue_name"] == "hold" for each in front.postfix.queue()), "the mail is held")
    front.postfix.postsuper("-H", sent.queue_id)
    front.postfix.flush()
    assert b"X-Postroom-Quarantine: handler=virus; for=b@local.test; reason=Eicar found" in front.arrived(sent.queue_id)


def test_what_this_session_never_asked_for_closes_it(front: Front) -> None:
    front.enable("before-queue scan global late needs=body | reject")
    with front.smtp() as client:
        assert client.send("a@sender.example", "b@local.test", MAIL).ok
        front.world.registry.set_enabled("scan", True)
        sent = client.send("a@sender.example", "b@local.test", MAIL)
        assert sent.final.text == "421 4.3.2 Service configuration changed - try again later"
    with front.smtp() as client:
        assert client.send("a@sender.example", "b@local.test", MAIL).final.text == "550 5.7.1 Command rejected"


def test_client_facts_by_xclient(front: Front) -> None:
    front.enable("before-data look global | pass", "before-queue body global needs=body | pass")
    with front.smtp() as client:
        client.xclient(helo="h.example", ADDR="203.0.113.77", NAME="mail.sender.example", LOGIN="alice")
        assert client.send("a@sender.example", "b@local.test", MAIL).ok
    envelope = front.world.handlers["look"].calls[-1][0]
    session = envelope.session
    assert (str(session.client_address), session.client_name) == ("203.0.113.77", "mail.sender.example")
    assert (session.auth_user, session.submitted_locally) == ("alice", False)
    assert session.helo == "h.example"
    message = front.world.handlers["body"].calls[-1][1]
    assert message is not None
    assert message.header() + b"\r\n" + message.body.read() == MAIL


def test_sendmail_on_this_host(front: Front) -> None:
    front.enable("before-data early global | pass", "before-queue tag global needs=headers | pass")
    done = front.postfix.sendmail("-f", "a@local.test", "b@local.test", mail=b"Subject: from here\n\nbody\n")
    assert done.returncode == 0
    wait_until(lambda: bool(front.world.handlers["tag"].calls), "the mail passes the milter")
    envelope = front.world.handlers["tag"].calls[-1][0]
    assert envelope.session.submitted_locally
    assert str(envelope.traffic) == "local"
    assert str(envelope.sender) == "a@local.test"


def test_libmilter_refuses_data_by_closing_the_session() -> None:
    """libmilter never answers a second DATA: there must be none."""
    require("master")
    require_root()
    if sys.version_info >= (3, 14):
        pytest.skip("libmilter dies under Python 3.14")
    with (
        libmilter_process("before-data grey global | reject") as (port, process),
        PostfixInstance(PostfixSettings(milters=[f"inet:127.0.0.1:{port}"])) as postfix,
    ):
        with SmtpClient(postfix.smtp_port) as client:
            client.ehlo()
            assert client.command("MAIL FROM:<a@sender.example>").text == "250 2.1.0 Ok"
            assert client.command("RCPT TO:<b@local.test>").text == "250 2.1.5 Ok"
            assert client.command("DATA").text == "521 5.7.1 Command rejected"
        process.terminate()
        process.join(20)
        assert process.exitcode == 0
