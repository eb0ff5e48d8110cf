"""`postroom quarantine` on the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from postroom.cli.main import postroom, run
from postroom.mail import parse_message
from postroom.quarantine import RELEASED, Quarantine
from postroom.registration import Stage
from postroom.testing import ManualClock, envelope
from postroom.testing.sink import SinkServer, field_values

MAIL = b"From: a@sender.test\r\nSubject: hello\r\n\r\nhello\r\n"


class Room:
    """A host with a quarantine, and a mail server that takes what is released."""

    def __init__(self, base: Path, sink: SinkServer, capfd: pytest.CaptureFixture[str]) -> None:
        self.config = base / "postroom.toml"
        self.config.write_text(f'[paths]\nstate = "{base}"\n[reinject]\nto = "smtp:127.0.0.1:{sink.port}"\n')
        self.clock = ManualClock()
        self.held = Quarantine(base / "quarantine", self.clock)
        self.sink, self._capfd = sink, capfd

    def keep(self, recipient: str, handler: str = "spam", stage: Stage = Stage.BEFORE_LOCAL) -> str:
        self.clock.advance(1)
        return self.held.keep(envelope("a@sender.test", recipient), stage, parse_message(MAIL), "why", handler)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        status = run(postroom, ["--config", str(self.config), "quarantine", *arguments], "postroom")
        out, err = self._capfd.readouterr()
        return status, out, err


@pytest.fixture
def room(tmp_path: Path, sink: SinkServer, capfd: pytest.CaptureFixture[str]) -> Room:
    return Room(tmp_path, sink, capfd)


def test_list_with_filters(room: Room) -> None:
    assert room("list", "--json") == (0, "[]\n", "")
    first, second = room.keep("bob@local.test"), room.keep("eve@else.test", "antivirus", Stage.BEFORE_QUEUE)
    for filters, ids in (
        ([], [first, second]),
        (["--recipient", "*@Local.test"], [first]),
        (["--handler", "antivirus"], [second]),
        (["--stage", "before-queue"], [second]),
        (["--sender", "<>"], []),
        (["--older", "1d"], [first, second]),
    ):
        status, out, _ = room("list", "--json", *filters)
        assert status == 0
        assert [row["id"] for row in json.loads(out)] == ids
    assert "hello" in room("list")[1]
    assert room("list", "--older", "soon")[0] == 2


def test_show(room: Room) -> None:
    id_ = room.keep("bob@local.test")
    status, out, _ = room("show", id_, "--json")
    assert status == 0
    assert json.loads(out)["reason"] == "why"
    assert room("show", id_, "--raw")[1].encode().replace(b"\r\n", b"\n") == MAIL.replace(b"\r\n", b"\n")
    status, _, err = room("show", "20200101T000000-0123456789abcdef")
    assert status == 1
    assert err.count("\n") == 1


def test_release(room: Room) -> None:
    id_ = room.keep("bob@local.test")
    assert room("release", id_)[0] == 0
    (mail,) = room.sink.wait(1)
    assert mail.recipients == ("bob@local.test",)
    (permit,) = mail.field(RELEASED.decode())
    assert permit not in room("show", id_)[1]
    status, _, err = room("release", id_)
    assert status == 1
    assert "--again" in err
    assert room("release", id_, "--again")[0] == 0
    room.sink.wait(2)
    milter = room.keep("bob@local.test", stage=Stage.BEFORE_QUEUE)
    assert room("release", milter)[0] == 0
    assert len(field_values(room.sink.wait(3)[2].mail, "X-Postroom-Seen")) == 1


def test_release_when_the_mail_server_is_away(room: Room) -> None:
    id_ = room.keep("bob@local.test")
    room.config.write_text(room.config.read_text().replace(str(room.sink.port), "1"))
    status, _, err = room("release", id_)
    assert status == 75
    assert err.count("\n") == 1
    assert not room.held.get(id_).released


def test_delete_counts_before_it_deletes(room: Room) -> None:
    first, second = room.keep("bob@local.test"), room.keep("eve@local.test")
    status, _, err = room("delete", "--recipient", "*@local.test")
    assert status == 1
    assert "2 mail(s)" in err
    assert len(list(room.held.list())) == 2
    assert room("delete", "--recipient", "eve@*", "--yes")[0] == 0
    assert [held.id for held in room.held.list()] == [first]
    assert room("delete")[0] == 2
    assert room("delete", first, "--older", "1d")[0] == 2
    assert room("delete", second)[0] == 1
    assert room("delete", first)[0] == 0
    assert list(room.held.list()) == []


def test_expire_says_what_it_does_before_it_does_it(room: Room) -> None:
    keep = room.config.read_text()
    room.config.write_text(keep + '[quarantine]\nkeep = "40d"\n')
    assert room("expire")[0] == 0
    ids = []
    for age in (50, 45, 10):
        room.clock = ManualClock(time.time() - age * 86400)
        room.held = Quarantine(room.config.parent / "quarantine", room.clock)
        ids.append(room.keep("bob@local.test"))
    assert "2 mail(s)" in room("expire", "--dry-run")[2]
    assert room("expire", "--older-than", "47d", "--dry-run")[2].startswith(f"expire: 1 mail(s), {len(MAIL)} octets")
    status, out, err = room("expire")
    assert (status, out) == (1, "")
    assert "2 mail(s)" in err
    assert "--yes" in err
    assert len(list(room.held.list())) == 3
    assert room("expire", "--yes")[:2] == (0, f"expired: 2 mail(s), {2 * len(MAIL)} octets\n")
    assert [held.id for held in room.held.list()] == ids[2:]
    assert "nothing" in room("expire")[2]
    assert room("expire", "--older-than", "soon")[0] == 2


def test_expire_without_an_end_needs_an_age(room: Room) -> None:
    room.config.write_text(room.config.read_text() + "[quarantine]\nkeep = 0\n")
    room.keep("bob@local.test")
    status, _, err = room("expire", "--yes")
    assert status == 2
    assert "--older-than" in err
    assert room("expire", "--older-than", "0s", "--yes")[0] == 0
    assert list(room.held.list()) == []
