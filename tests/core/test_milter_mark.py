"""Mail that one of our own handlers sent is not seen again by its stage, and the mark that says so leaves no host."""

from __future__ import annotations

from pathlib import Path

import pytest
from dialogues.engines import InProcessClient
from dialogues.scripted import World, parse_given
from postroom.config import Config, Host, Paths
from postroom.fronts.milter.client import FilterAnswer, Mail
from postroom.fronts.milter.session import Session
from postroom.fronts.milter.wire import Response
from postroom.mail import Address, parse_message
from postroom.registration import Stage
from postroom.services.mark import load_key, sign_mark

SENDER, RECIPIENT = Address("alice@sender.example"), Address("bob@local.test")


class Front:
    def __init__(self, directory: Path) -> None:
        self.world = World(directory, Config(paths=Paths(state=directory), host=Host(name="mx.test.example")))
        self.directory = directory
        self.world.add(*parse_given("before-queue first global needs=headers | reject 7.1 seen by before-queue"))

    def fields(self, *stages: Stage, recipient: Address = RECIPIENT) -> tuple[tuple[bytes, bytes], ...]:
        now = self.world.pipeline.clock.now()
        mark = sign_mark(load_key(self.directory), stages, SENDER, [recipient], None, now)
        return tuple((each.name, each.value) for each in parse_message(mark + b"Subject: x\r\n\r\n").fields)

    def deliver(self, fields: tuple[tuple[bytes, bytes], ...]) -> FilterAnswer:
        client = InProcessClient(Session(self.world.pipeline, self.world.log))
        try:
            client.negotiate()
            client.connect()
            client.helo()
            return client.deliver(Mail(fields=fields))
        finally:
            client.close()


def test_a_stage_does_not_see_its_own_mail_again_and_the_mark_goes(tmp_path: Path) -> None:
    front = Front(tmp_path)
    answer = front.deliver(front.fields(Stage.BEFORE_QUEUE))
    assert answer.response is Response.CONTINUE
    assert answer.modifications == ((Response.CHANGE_HEADER, b"\0\0\0\x01X-Postroom-Seen\0\0"),)


def test_other_stages_see_it(tmp_path: Path) -> None:
    front = Front(tmp_path)
    assert front.deliver(front.fields(Stage.BEFORE_REMOTE)).response is Response.REPLY_CODE


def test_what_before_local_has_sent_keeps_its_mark_up_to_there(tmp_path: Path) -> None:
    front = Front(tmp_path)
    answer = front.deliver(front.fields(Stage.BEFORE_LOCAL, Stage.BEFORE_QUEUE))
    assert (answer.response, answer.modifications) == (Response.CONTINUE, ())


@pytest.mark.parametrize("forged", [b" v=1; s=before-queue; t=1700000000; n=00; m=0; b=" + b"0" * 64, b" nonsense"])
def test_a_forged_mark_spares_nobody_anything(tmp_path: Path, forged: bytes) -> None:
    front = Front(tmp_path)
    assert front.deliver(((b"X-Postroom-Seen", forged),)).response is Response.REPLY_CODE


def test_a_mark_made_for_another_mail_spares_nobody_anything(tmp_path: Path) -> None:
    front = Front(tmp_path)
    fields = front.fields(Stage.BEFORE_QUEUE, recipient=Address("other@local.test"))
    assert front.deliver(fields).response is Response.REPLY_CODE
