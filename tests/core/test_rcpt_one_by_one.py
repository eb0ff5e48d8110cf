"""With before_data = "rcpt" each recipient is answered for alone, and costs no more than the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dialogues.engines import InProcessClient
from dialogues.scripted import World, parse_given
from postroom.config import BeforeData, Config, MilterSettings
from postroom.fronts.milter.session import Session
from postroom.fronts.milter.transaction import Recipient, Transaction
from postroom.fronts.milter.wire import Response

RECIPIENTS = 200


class WatchedList(list[Recipient]):
    """Counts how often somebody goes through all of it."""

    walks = 0

    def __iter__(self) -> Iterator[Recipient]:
        type(self).walks += 1
        return super().__iter__()


def test_nobody_goes_through_all_recipients_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Transaction.__init__

    def watched(self: Transaction, *arguments: object) -> None:
        begin(self, *arguments)  # type: ignore[arg-type]  # handed through
        self.recipients = WatchedList()

    monkeypatch.setattr(Transaction, "__init__", watched)
    world = World(tmp_path, Config(milter=MilterSettings(before_data=BeforeData.RCPT)))
    world.add(*parse_given("before-data late recipient:u7@local.test | defer"))
    client = InProcessClient(Session(world.pipeline, world.log))
    client.negotiate()
    client.connect()
    client.helo()
    client.mail(b"a@sender.example")
    answers = [client.rcpt(b"u%d@local.test" % number) for number in range(RECIPIENTS)]
    client.close()
    assert [number for number, answer in enumerate(answers) if answer and answer.response is not Response.CONTINUE] == [
        7
    ]
    assert WatchedList.walks < 10
