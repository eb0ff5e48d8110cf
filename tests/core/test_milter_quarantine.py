"""What the milter front holds is in our own quarantine when the whole mail was seen, and passes once released."""

from __future__ import annotations

from pathlib import Path

from dialogues.engines import InProcessClient
from dialogues.scripted import World, parse_given
from postroom.config import Config, Host
from postroom.fronts.milter.client import FilterAnswer, Mail
from postroom.fronts.milter.session import Session
from postroom.fronts.milter.wire import Response
from postroom.mail import parse_message
from postroom.quarantine import RELEASED, Quarantine
from postroom.testing import ManualClock, RecordingReinjector

BOTH = (b"b@local.test", b"c@local.test")


class Front:
    def __init__(self, directory: Path, *given: str) -> None:
        self.world = World(directory, Config(host=Host(name="mx.test.example")))
        for line in given:
            self.world.add(*parse_given(line))
        self.quarantine = Quarantine(directory / "quarantine", ManualClock())

    def deliver(self, mail: Mail) -> FilterAnswer:
        session = Session(self.world.pipeline, self.world.log, quarantine=self.quarantine)
        client = InProcessClient(session)
        try:
            client.negotiate()
            client.connect()
            client.helo()
            return client.deliver(mail)
        finally:
            client.close()


def test_held_for_one_and_delivered_to_the_rest(tmp_path: Path) -> None:
    front = Front(tmp_path, "before-queue virus recipient:b@local.test needs=body | quarantine Eicar found")
    answer = front.deliver(Mail(recipients=BOTH))
    assert answer.response is Response.CONTINUE
    assert answer.modifications == ((Response.DELETE_RECIPIENT, b"<b@local.test>\0"),)
    held = list(front.quarantine.list())
    assert [(each.handler, each.reason, each.recipients) for each in held] == [
        ("virus", "Eicar found", ("b@local.test",))
    ]
    assert b"".join(front.quarantine.chunks(held[0].id)) == b"Subject: hello\r\n\r\nhello\r\n"


def test_held_for_all_is_not_passed_on(tmp_path: Path) -> None:
    front = Front(tmp_path, "before-queue virus global needs=body | quarantine Eicar found")
    assert front.deliver(Mail(recipients=BOTH)).response is Response.DISCARD
    assert [each.recipients for each in front.quarantine.list()] == [("b@local.test", "c@local.test")]


def test_a_quarantine_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    front = Front(tmp_path, "before-queue virus global needs=body | quarantine Eicar found")
    (tmp_path / "quarantine").write_text("in the way")
    answer = front.deliver(Mail())
    assert [code for code, _ in answer.modifications] == [Response.INSERT_HEADER, Response.QUARANTINE]


def release(front: Front) -> tuple[tuple[bytes, bytes], ...]:
    """The header of the mail as it comes back."""
    reinjector = RecordingReinjector()
    front.quarantine.release(next(iter(front.quarantine.list())).id, reinjector)
    return tuple((each.name, each.value) for each in parse_message(reinjector.submissions[0].mail).fields)


def test_a_released_mail_passes_once_and_loses_its_permit(tmp_path: Path) -> None:
    front = Front(
        tmp_path,
        "before-queue virus global needs=body | quarantine Eicar found",
        "before-queue tag global needs=headers | pass",
    )
    front.deliver(Mail())
    back = Mail(fields=release(front))
    answer = front.deliver(back)
    assert answer.response is Response.CONTINUE
    assert [code for code, _ in answer.modifications] == [Response.CHANGE_HEADER]  # the permit goes
    assert RELEASED in answer.modifications[0][1]
    message = front.world.handlers["tag"].calls[-1][1]
    assert message is not None
    assert message.get(RELEASED) is None
    assert front.deliver(back).response is Response.DISCARD  # held again: the permit is used up


def test_a_permit_is_no_pass_for_others(tmp_path: Path) -> None:
    front = Front(tmp_path, "before-queue virus global needs=body | quarantine Eicar found")
    front.deliver(Mail())
    fields = release(front)
    assert front.deliver(Mail(fields=fields, recipients=BOTH)).response is Response.DISCARD
    assert front.deliver(Mail(fields=((RELEASED, b" forged"),))).response is Response.DISCARD
