"""Mailing lists: their mail passes before-local as everybody's does, and goes to the list manager then."""

from __future__ import annotations

from pathlib import Path

import pytest
from core.local_mail import Office, mails, settings
from core.test_delivery import script
from core.test_directory_delivery import send
from postroom.config import parse_duration
from postroom.hookspecs import Mailbox
from postroom.mail import Address
from postroom.testing import StaticDirectory
from postroom.testing.sink import SinkServer, field_values
from postroom.verdict import Verdict, rejected, skipped

LIST = "talk@local.test"


def office(
    base: Path, next_hop: str, *, enabled: bool = True, command: tuple[str, ...] = ()
) -> tuple[Office, list[str]]:
    """A host with the mailbox bob and the list talk; and whom handlers were asked about."""
    asked: list[str] = []

    def answer(envelope: object, *_: object) -> Verdict:
        (recipient,) = envelope.recipients  # type: ignore[attr-defined]  # an Envelope
        asked.append(recipient.text)
        return rejected("spam") if recipient.local_part == "talk+spam" else skipped()

    known = [
        Mailbox(Address("bob@local.test")),
        Mailbox(Address(LIST), enabled=enabled, next_hop=next_hop),
    ]
    config = settings(base, list_command=command, timeout=parse_duration("20s"))
    there = Office(base, answer, config=config, directory=StaticDirectory(known, authoritative=True))
    there.mailbox("bob")
    return there, asked


def test_a_list_goes_to_its_manager_after_the_handlers_and_mailboxes_stay_here(tmp_path: Path) -> None:
    with SinkServer(lmtp=True) as sink:
        there, asked = office(tmp_path, f"lmtp:inet:127.0.0.1:{sink.port}")
        assert send(there, LIST) == ("", "250 2.0.0")
        assert send(there, "talk+tag@local.test") == ("", "250 2.0.0")
        assert send(there, "bob@local.test") == ("", "250 2.0.0")
        assert send(there, "nobody@local.test") == ("550 5.1.1", "550 5.1.1")
        there.parts.delivery.close()
    assert [each.recipients for each in sink.received] == [(LIST,), ("talk+tag@local.test",)]
    assert field_values(sink.received[0].mail, "Return-Path") == []  # the list manager's to write
    assert len(field_values(sink.received[0].mail, "Received")) == 1
    assert asked[:3] == [LIST, "talk+tag@local.test", "bob@local.test"]
    (own,) = mails(tmp_path / "mail/local.test/bob/Maildir")
    assert field_values(own, "Delivered-To") == ["bob@local.test"]


def test_a_handler_keeps_mail_from_a_list(tmp_path: Path) -> None:
    with SinkServer(lmtp=True) as sink:
        there, _ = office(tmp_path, f"lmtp:inet:127.0.0.1:{sink.port}")
        assert send(there, "talk+spam@local.test")[1] == "550 5.7.1"
    assert sink.received == []


def test_what_the_manager_answers_comes_back(tmp_path: Path) -> None:
    with SinkServer(lmtp=True, refuse={LIST: "550 5.1.1 No such list"}) as sink:
        there, _ = office(tmp_path, f"lmtp:inet:127.0.0.1:{sink.port}")
        assert send(there, LIST) == ("", "550 5.1.1")
        there.parts.delivery.close()
    assert send(there, LIST) == ("", "451 4.3.0")  # gone: try again


def test_a_list_in_the_references_form(tmp_path: Path) -> None:
    program = script(tmp_path, f'cat > {tmp_path}/mail.txt; printf "%s\\n" "$@" > {tmp_path}/args.txt')
    there, _ = office(tmp_path, "command", command=(program, "{domain}", "{user}", "{recipient}"))
    assert send(there, "Talk+tag@local.test") == ("", "250 2.0.0")
    assert (tmp_path / "args.txt").read_text().split() == ["local.test", "talk", "Talk+tag@local.test"]
    kept = (tmp_path / "mail.txt").read_bytes()
    assert kept.startswith(b"Return-Path: <a@far.test>\n")  # flags=R


@pytest.mark.parametrize("next_hop", ["command", "lmtp:nonsense", "smtp:inet:127.0.0.1:25"])
def test_a_next_hop_that_cannot_be_used_defers_and_tells_the_administrator(tmp_path: Path, next_hop: str) -> None:
    there, _ = office(tmp_path, next_hop)
    assert send(there, LIST) == ("451 4.3.0", "451 4.3.0")
    assert send(there, "bob@local.test") == ("", "250 2.0.0")
    assert any("next hop of a list" in event for _, event, _ in there.log.lines)


def test_a_disabled_list_takes_no_mail(tmp_path: Path) -> None:
    there, _ = office(tmp_path, "lmtp:inet:127.0.0.1:1", enabled=False)
    assert send(there, LIST) == ("550 5.2.1", "550 5.2.1")
