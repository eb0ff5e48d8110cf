"""The wrappers before a real `postroom serve`: its socket, its registry, its workers."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dialogues.scripted import World
from postroom.config import Config
from postroom.testing.processes import temporary_directory, wait_until
from postroom.testing.server import PostroomServer
from qmail.house import House, Start, envelope, make_root
from requirements import require_root

ENVELOPE = envelope(b"a@sender.example", b"b@local.test")


@pytest.fixture(scope="module")
def server() -> Iterator[PostroomServer]:
    with temporary_directory("qmail-server") as directory:
        socket = f"unix:{directory}/qmail/handover.sock"
        make_root(directory / "qmail")
        with PostroomServer({"handover": {"listen": [socket], "workers": 1}, "milter": {"workers": 1}}) as found:
            wait_until(Path(socket.removeprefix("unix:")).exists, "the socket")
            found.succeed("qmail", "install", "--root", str(directory / "qmail"))
            found.succeed("qmail", "status", "--root", str(directory / "qmail"))
            found.qmail = directory / "qmail"  # type: ignore[attr-defined]
            yield found


@pytest.fixture
def live_house(server: PostroomServer) -> House:
    root: Path = server.qmail  # type: ignore[attr-defined]
    (root / "notes").write_text("")
    return House(root, World(root), Config())


def program(server: PostroomServer, name: str, script: str) -> Path:
    path = server.base / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    words = ["--stage", "before-queue", "--type", "recipient", "--address", f"{name}@local.test"]
    server.succeed("handlers", "add", name, *words, "--exec", str(path), "--enabled")
    return path


def test_every_user_may_hand_mail_over(server: PostroomServer, live_house: House) -> None:
    require_root()
    mode = (live_house.root / "handover.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o666
    program(server, "tag", "echo 'X-Program: ran'; cat; echo PASS >&2")
    ended = live_house.queue(envelope(b"a@b.example", b"tag@local.test"), start=Start(uid=65534))
    assert ended.status == 0
    (noted,) = live_house.notes()
    assert noted.mail.startswith(b"X-Program: ran\n")
    line = server.wait_for_log(lambda line: " during call 'tag'" in line.event)
    assert line.facts["queue_id"] == f"qp{ended.pid}"


def test_a_worker_that_is_killed_in_the_middle_costs_no_mail(server: PostroomServer, live_house: House) -> None:
    begun = server.base / "begun"
    program(server, "slow", f"touch {begun}; read line; sleep 3; echo PASS >&2")
    before = server.workers()
    found: list[int] = []
    target = envelope(b"a@b.example", b"slow@local.test")
    waiting = threading.Thread(target=lambda: found.append(live_house.queue(target).status))
    waiting.start()
    wait_until(begun.exists, "the handler")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    waiting.join(30)
    assert found == [82]
    assert live_house.notes() == []
    server.wait_for_log(lambda line: line.event == "worker died" and line.facts["kind"] == "handover")
    wait_until(lambda: live_house.queue(ENVELOPE).status == 0, "the next worker")
