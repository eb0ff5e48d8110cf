"""A real Dovecot: its policy service and doveadm answer, and its maildirsize is one that we read and keep true."""

from __future__ import annotations

import smtplib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.quota.test_quota_handler import Desk, box, line
from postroom.config import SocketAddress
from postroom.testing import FakeServices
from postroom.testing.dovecot import Account, DovecotInstance
from postroom.verdict import Action
from postroom_quota.dovecot import SourceFailed, ask_doveadm, ask_policy, parse_action, parse_doveadm
from postroom_quota.maildir import count, read_total
from postroom_quota.settings import QuotaSettings, Source
from requirements import require, require_root

LIMIT = 20 * 1024


@pytest.fixture(scope="module")
def small_dovecot() -> Iterator[DovecotInstance]:
    require("dovecot")
    require_root()
    people = (Account("bob@here.example", quota="*:storage=20K"), Account("ann@here.example", quota="*:storage=20K"))
    with DovecotInstance(people) as server:
        yield server


def deliver(server: DovecotInstance, recipient: str, size: int) -> None:
    text = b"Subject: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * (size // 72)
    with smtplib.LMTP(server.lmtp.host, server.lmtp_port, timeout=10) as client:
        assert client.sendmail("a@far.example", [recipient], text) == {}


@pytest.fixture
def full(small_dovecot: DovecotInstance) -> DovecotInstance:
    """Bob's mailbox is nearly full, Ann's is empty."""
    place = small_dovecot.base / "mail/here.example/bob/Maildir"
    if not (place / "new").is_dir() or not any((place / "new").iterdir()):
        for _ in range(3):
            deliver(small_dovecot, "bob@here.example", 6500)
    return small_dovecot


def policy(server: DovecotInstance) -> SocketAddress:
    return SocketAddress("inet", "127.0.0.1", server.quota_port)


def test_the_policy_service_says_yes_and_no(full: DovecotInstance) -> None:
    assert ask_policy(policy(full), "a@far.example", "ann@here.example", 100, 5).fits
    answer = ask_policy(policy(full), "a@far.example", "bob@here.example", 19_000, 5)
    assert not answer.fits
    assert "Mailbox is full" in answer.text
    assert ask_policy(policy(full), "a@far.example", "nobody@here.example", 100, 5).fits


def test_the_handler_asks_the_policy_service(full: DovecotInstance, services: FakeServices) -> None:
    desk = Desk(services)
    desk.boxes(box(), box("ann"))
    settings = QuotaSettings(source=Source.POLICY, policy=policy(full))
    verdict = desk.queue(19_000, "bob@here.example", "ann@here.example", settings=settings)
    assert {str(each): line(own) for each, own in verdict.for_recipients.items()} == {
        "bob@here.example": "452 4.2.2 Mailbox is full"
    }


def test_the_handler_asks_doveadm(full: DovecotInstance, services: FakeServices) -> None:
    command = ("doveadm", "-c", str(full.configuration))
    used, limit = ask_doveadm(command, "bob@here.example", 10)
    assert limit == LIMIT
    assert 18 * 1024 <= used <= LIMIT
    desk = Desk(services)
    desk.boxes(box(), box("ann"))
    settings = QuotaSettings(source=Source.DOVEADM, doveadm=command, warn_at=())
    verdict = desk.queue(9_000, "bob@here.example", "ann@here.example", settings=settings)
    assert [str(each) for each in verdict.for_recipients] == ["bob@here.example"]
    both = [desk.queue(12_000, "ann@here.example", settings=settings, queue_id=each).action for each in ("A", "B")]
    assert both == [Action.SKIP, Action.DEFER]  # the reservation stands behind doveadm, too


def test_its_maildirsize_is_read_and_agrees_with_a_count(full: DovecotInstance) -> None:
    place = full.base / "mail/here.example/bob/Maildir"
    found = read_total(place)
    assert found is not None
    total, _ = found
    assert total.definition.startswith(f"{LIMIT}S")
    counted = count(place, trash=True, definition=total.definition)
    assert (counted.octets, counted.messages) == (total.octets, total.messages)


def test_dovecot_reads_the_maildirsize_that_we_write(full: DovecotInstance) -> None:
    place = full.base / "mail/here.example/bob/Maildir"
    counted = count(place, trash=True, definition=f"{LIMIT}S")
    used, _ = ask_doveadm(("doveadm", "-c", str(full.configuration)), "bob@here.example", 10)
    assert abs(used - counted.octets) < 1024


@pytest.mark.parametrize(
    ("action", "fits"),
    [
        ("DUNNO", True),
        ("OK", True),
        ("552 5.2.2 full", False),
        ("452 4.2.2 full", False),
        ("REJECT x", False),
        ("REJECT", False),
        ("DEFER_IF_PERMIT 4.2.2 full", False),
        ("999 what", True),
    ],
)
def test_actions(action: str, fits: bool) -> None:
    assert parse_action(action).fits is fits


@pytest.mark.parametrize(
    "action", ["451 4.3.0 internal error", "defer", "DEFER_IF_PERMIT Internal error occurred. Refer to server log"]
)
def test_a_policy_server_with_a_problem_is_no_full_mailbox(action: str) -> None:
    with pytest.raises(SourceFailed, match="problem of its own"):
        parse_action(action)


@pytest.mark.parametrize(
    "output", ["", "garbage", "type\tvalue\tlimit\n", "type\tvalue\tlimit\nSTORAGE\tx\t5\n", "STORAGE 1 2"]
)
def test_doveadm_that_says_nothing_useful(output: str) -> None:
    with pytest.raises(SourceFailed):
        parse_doveadm(output)


def test_doveadm_without_a_limit() -> None:
    text = "Quota name\tType\tValue\tLimit\t%\nUser\tSTORAGE\t5\t-\t0\nUser\tMESSAGE\t1\t-\t0\n"
    assert parse_doveadm(text) == (5120, None)
    assert parse_doveadm("Type\tValue\tLimit\nSTORAGE\t-5\t-1\n") == (0, None)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceFailed):
        ask_policy(SocketAddress("unix", path=str(tmp_path / "none")), "", "a@b", 1, 1)
    with pytest.raises(SourceFailed, match="No such file"):
        ask_doveadm((str(tmp_path / "none"),), "a@b", 1)
    with pytest.raises(SourceFailed, match="exit status"):
        ask_doveadm(("false",), "a@b", 5)
    with pytest.raises(SourceFailed, match="no STORAGE line"):
        ask_doveadm(("sh", "-c", "printf '\\377\\376'"), "a@b", 5)


@pytest.mark.parametrize(
    "answer", [b"", b"action=\n", b"action=\n\n", b"nonsense\n\n", b"x" * 70_000, b"action=552 5.2", b"action=DUNNO"]
)
def test_a_policy_server_that_hangs_or_babbles(answer: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            try:
                connection.sendall(answer)
                connection.settimeout(5)
                connection.recv(4096)
            except OSError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        address = SocketAddress("inet", "127.0.0.1", listener.getsockname()[1])
        with pytest.raises(SourceFailed):
            ask_policy(address, "", "a@b", 1, 0.3)
    finally:
        thread.join()
        listener.close()
