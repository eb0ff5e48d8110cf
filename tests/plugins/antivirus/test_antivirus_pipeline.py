"""The handlers as the pipeline calls them: one scan a mail, each recipient by its own policy, failures as declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plugins.antivirus.scanners import (
    FOUND_NAME,
    Desk,
    answering,
    clean,
    infected,
    read_stream,
)
from postroom.config import SocketAddress, parse_config
from postroom.mail import Address, Body, Message, parse_message
from postroom.pipeline import Pipeline
from postroom.plugins import find_handlers
from postroom.registration import OnError, Registration, Stage, Type
from postroom.registry import Registry
from postroom.services.lend import Lender
from postroom.testing import FakeServices, RecordingLogger, envelope
from postroom.testing.clamd import ClamdInstance
from postroom.testing.standin import StandIn, hangs
from postroom.verdict import Action, Category, Outcome
from postroom_antivirus import ScanFinding, Status
from postroom_antivirus.settings import Consequence

BOB, CAROL, DAVE = (Address(f"{name}@here.example") for name in ("bob", "carol", "dave"))
QUEUE, REMOTE = Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE


class Office:
    """A pipeline with the installed plugins, and what it logs."""

    def __init__(self, directory: Path, configuration: str, *rows: Registration) -> None:
        services = FakeServices(directory)
        config = parse_config(configuration, "test")
        lender = Lender(config, services.clock, services.dns, services.state, services.directory, services.reinject)
        self.log = RecordingLogger()
        registry = Registry.open(f"sqlite:///{directory}/registry.sqlite")
        for registration in rows:
            registry.add(registration, who="test")
        self.pipeline = Pipeline(registry, find_handlers(config), lender, self.log)

    def run(self, stage: Stage, message: Message, findings: Any = None) -> Outcome:
        mail = envelope("alice@sender.example", *(str(each) for each in (BOB, CAROL, DAVE)))
        selection = self.pipeline.select(mail, [stage])
        return self.pipeline.run(selection, stage, mail, message, time_limit=20, findings=findings)


def row(address: Address, context: str = "", stage: Stage = QUEUE, **more: Any) -> Registration:
    kind = Type.SENDER if stage is REMOTE else Type.RECIPIENT
    return Registration("clamav", stage, kind, address.text, priority=20, enabled=True, context=context, **more)


def table(address: SocketAddress | str, **more: str) -> str:
    return f'[handlers.clamav]\nservers = ["{address}"]\n' + "".join(
        f'{key} = "{value}"\n' for key, value in more.items()
    )


def test_real_clamd_one_policy_each_recipient_one_scan(tmp_path: Path, clamd: ClamdInstance) -> None:
    rows = [row(BOB), row(CAROL, "infected=mark, subject_tag=[VIRUS]")]
    office = Office(tmp_path, table(f"unix:{clamd.socket}"), *rows)
    outcome = office.run(QUEUE, infected())
    assert outcome.dispositions[BOB].action is Action.REJECT
    assert outcome.dispositions[BOB].category is Category.INFECTED
    assert outcome.dispositions[CAROL].action is Action.PASS
    assert outcome.dispositions[DAVE].action is Action.PASS
    marked = outcome.messages[CAROL]
    assert marked is not None
    assert marked.get(b"X-Virus-Status") == f'infected; name="{FOUND_NAME}"; by=clamav'
    assert marked.get(b"Subject") == "[VIRUS] hello"
    assert outcome.edits[DAVE] == ()
    assert office.run(QUEUE, clean()).going_on() == (BOB, CAROL, DAVE)


def test_one_scan_a_mail_across_recipients_contexts_and_stages(tmp_path: Path) -> None:
    with StandIn(answering(b"stream: OK\n", read_stream)) as server:
        rows = [row(BOB), row(CAROL), row(DAVE, "clean_header"), row(Address("alice@sender.example"), stage=REMOTE)]
        office = Office(tmp_path, table(server.address), *rows)
        mail = clean()
        outcome = office.run(QUEUE, mail)
        assert server.connections == 1
        edited = outcome.messages[DAVE]
        assert edited is not None
        office.run(REMOTE, edited, outcome.findings)
        assert server.connections == 1
        office.run(REMOTE, Message(mail.fields, Body(b"another body")), outcome.findings)
        assert server.connections == 2


def test_a_finding_of_other_servers_does_not_count(tmp_path: Path) -> None:
    with (
        StandIn(answering(b"stream: OK\n", read_stream)) as one,
        StandIn(answering(b"stream: OK\n", read_stream)) as two,
    ):
        rows = [row(BOB), row(CAROL, f"servers={two.address}")]
        Office(tmp_path, table(one.address), *rows).run(QUEUE, clean())
        assert (one.connections, two.connections) == (1, 1)


def test_no_scanner_defers_and_never_lets_pass_in_silence(tmp_path: Path) -> None:
    office = Office(tmp_path, table(f"unix:{tmp_path}/none"), row(BOB))
    outcome = office.run(QUEUE, clean())
    disposition = outcome.dispositions[BOB]
    assert disposition.action is Action.DEFER
    assert disposition.reply is not None
    assert str(tmp_path) not in disposition.reply.text
    assert str(tmp_path) in disposition.reason
    assert outcome.dispositions[CAROL].action is Action.PASS
    assert any("consequence" in facts for _, _, facts in office.log.lines)


@pytest.mark.parametrize(("on_error", "action"), [(OnError.SKIP, Action.PASS), (OnError.QUARANTINE, Action.QUARANTINE)])
def test_on_error_decides_about_a_hung_scanner(tmp_path: Path, on_error: OnError, action: Action) -> None:
    with StandIn(hangs) as hung:
        office = Office(tmp_path, table(hung.address, timeout="0.4s"), row(BOB, on_error=on_error))
        outcome = office.run(QUEUE, infected())
    assert outcome.dispositions[BOB].action is action
    assert any(facts.get("error") == "unavailable" for _, _, facts in office.log.lines)


def test_a_finding_is_left_for_other_handlers(tmp_path: Path) -> None:
    with StandIn(answering(b"stream: Win.Bad FOUND\n", read_stream)) as server:
        for consequence in (Consequence.REJECT, Consequence.QUARANTINE, Consequence.DISCARD, Consequence.MARK):
            finding = Desk("clamav", tmp_path, server.address, infected=consequence).receive(clean()).finding
            assert isinstance(finding, ScanFinding)
            assert (finding.result.status, finding.result.signatures) == (Status.FOUND, ("Win.Bad",))


def test_what_another_handler_left_under_our_name_is_not_believed(tmp_path: Path) -> None:
    with StandIn(answering(b"stream: Win.Bad FOUND\n", read_stream)) as server:
        desk = Desk("clamav", tmp_path, server.address)
        mail = parse_message(b"Subject: a\r\n\r\nb\r\n")
        assert desk.receive(mail, clamav="clean").action is Action.REJECT
        assert server.connections == 1


def test_installed_and_with_one_command_for_all(tmp_path: Path) -> None:
    handlers = find_handlers(parse_config("", "test"))
    commands = {name: handlers.by_name[name].hooks["commands"]() for name in ("clamav", "drweb", "kaspersky")}
    assert [name for name, command in commands.items() if command is not None] == ["clamav"]
    assert commands["clamav"].name == "antivirus"
    for name in commands:
        assert handlers.by_name[name].stages == {QUEUE, REMOTE}
        assert handlers.by_name[name].distribution == "postroom-antivirus"


def test_start_and_stop(tmp_path: Path) -> None:
    desk = Desk("clamav", tmp_path, SocketAddress("unix", path="/nowhere"))
    desk.handler.start()
    desk.handler.stop()
    desk.handler.start()
