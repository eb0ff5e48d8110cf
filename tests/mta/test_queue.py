"""`postroom queue` on the queue of a real Postfix."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postroom.mta.postfix_tool import Postfix, PostfixFailed
from postroom.mta.queue import QueueAction, QueuedMail, QueuedRecipient, QueueFilter
from postroom.mta.queue_postfix import PostfixQueue, read_mail
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import wait_until
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

from .conftest import Line

MAIL = b"Subject: hello\r\nX-Odd: caf\xe9 \x1b[31m\r\n\r\nHello!\r\n"


@pytest.fixture(scope="module")
def postfix() -> Iterator[PostfixInstance]:
    """Nothing listens where its mail goes: everything stays in the queue."""
    require("master")
    require_root()
    with PostfixInstance(PostfixSettings(local="lmtp:unix:/nobody/listens", relay_port=9)) as instance:
        yield instance


@pytest.fixture
def queue(postfix: PostfixInstance, line: Line) -> Queue:
    postfix.clear_queue()
    return Queue(postfix, line)


class Queue:
    def __init__(self, postfix: PostfixInstance, line: Line) -> None:
        self.postfix, self.line = postfix, line

    def fill(self, *senders: str, recipient: str = "bob@local.test") -> list[str]:
        """A deferred mail from each sender; their ids."""
        ids = []
        with SmtpClient(self.postfix.smtp_port) as smtp:
            smtp.ehlo("client.example")
            ids = [smtp.send(sender, [recipient], MAIL).queue_id for sender in senders]
        wait_until(lambda: all(self.queue_of(each) == "deferred" for each in ids), "the mails are deferred")
        return ids

    def queue_of(self, id_: str) -> str:
        return next((each["queue_name"] for each in self.postfix.queue() if each["queue_id"] == id_), "")

    def __call__(self, verb: str, *arguments: str, status: int = 0) -> str:
        return self.line("queue", verb, "--postfix-config", str(self.postfix.etc), *arguments, status=status)

    def ids(self, *arguments: str) -> set[str]:
        return {each["id"] for each in json.loads(self("list", "--json", *arguments))}


def test_what_waits_is_listed_and_chosen(queue: Queue) -> None:
    one, two = queue.fill("alice@one.example", "")
    (three,) = queue.fill("Carol@Two.example", recipient="dora@elsewhere.example")
    assert queue.ids() == {one, two, three}
    assert queue.ids("--sender", "*@one.example") == {one}
    assert queue.ids("--sender", "<>") == {two}
    assert queue.ids("--sender", "carol@*") == {three}
    assert queue.ids("--recipient", "*@LOCAL.test") == {one, two}
    assert queue.ids("--reason", "no such file") == {one, two}
    assert queue.ids("--reason", "connection refused") == {three}
    assert queue.ids("--queue", "hold") == set()
    assert queue.ids("--older", "1h") == set()
    assert queue.ids("--newer", "1h", "--sender", "alice*") == {one}
    (row,) = json.loads(queue("list", "--json", "--sender", "alice*"))
    assert row["recipients"] == ["bob@local.test"]
    assert row["sender"] == "alice@one.example"
    assert row["size"] > len(MAIL)
    assert one in queue("list")


def test_a_mail_is_shown(queue: Queue) -> None:
    (one,) = queue.fill("alice@one.example")
    shown = queue("show", one)
    assert "Subject: hello" in shown
    assert "bob@local.test" in shown
    assert "No such file" in shown
    assert "\x1b" not in shown
    assert json.loads(queue("show", one, "--json"))["recipients"][0]["address"] == "bob@local.test"
    raw = b"".join(PostfixQueue(Postfix(queue.postfix.etc)).show(one, body=True))
    assert b"X-Odd: caf\xe9 \x1b[31m\n" in raw
    assert raw.endswith(b"\n\nHello!\n")
    queue("show", "4bWx1y2Fz9z1kQ", status=1)
    assert "is not in the queue" in queue.line.err


def test_mail_is_held_released_requeued_and_flushed(queue: Queue) -> None:
    one, two = queue.fill("alice@one.example", "bob@two.example")
    queue("hold", one)
    assert (queue.queue_of(one), queue.queue_of(two)) == ("hold", "deferred")
    queue("release", "--sender", "alice*", "--yes")
    assert queue.queue_of(one) != "hold"
    wait_until(lambda: queue.queue_of(one) == "deferred", "the released mail is tried")
    before = queue.postfix.log().count(f"{two}: to=")
    queue("flush", two)
    wait_until(lambda: queue.postfix.log().count(f"{two}: to=") > before, "the flushed mail is tried")
    wait_until(lambda: queue.queue_of(two) == "deferred", "and deferred")
    assert "requeue: 1 mail" in queue("requeue", two)
    wait_until(lambda: "uid=" in queue.postfix.log(), "pickup takes it anew")


def test_deleting_says_how_many_and_asks(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = queue.fill("alice@one.example", "alice@one.example", "bob@two.example")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    queue("delete", "--sender", "alice@*", status=1)
    assert queue.line.err.startswith("delete: 2 mails, 2 recipients, ")
    assert one in queue.line.err
    assert "add --yes" in queue.line.err
    assert queue.ids() == {one, two, three}
    queue("delete", three, status=1)
    queue("delete", "--sender", "alice@*", "--dry-run")
    assert queue.ids() == {one, two, three}
    assert queue("delete", "--sender", "alice@*", "--yes") == "delete: 2 mails\n"
    assert queue.ids() == {three}
    assert queue("delete", "--sender", "alice@*", "--yes") == ""
    assert queue.line.err == "nothing to delete\n"
    queue("delete", "--all", "--yes")
    assert queue.ids() == set()


def test_nothing_is_done_by_mistake(queue: Queue) -> None:
    (one,) = queue.fill("alice@one.example")
    queue("delete", "--yes", status=2)
    queue("delete", "--all", "--sender", "x", "--yes", status=2)
    queue("delete", one, "ABCDEF123456", "--yes", status=1)
    assert "ABCDEF123456: not in the queue" in queue.line.err
    queue("delete", "ALL", "--yes", status=1)
    queue("list", "--older", "soon", status=2)
    queue("list", "--queue", "defered", status=2)
    assert queue.ids() == {one}
    mail = QueuedMail("ALL", "deferred", 0, 0, "", ())
    with pytest.raises(PostfixFailed, match="no queue id"):
        PostfixQueue(Postfix(queue.postfix.etc)).act(QueueAction.DELETE, [mail])


def test_a_mail_that_moved_on_meanwhile_is_not_counted(queue: Queue) -> None:
    (one,) = queue.fill("alice@one.example")
    waiting = PostfixQueue(Postfix(queue.postfix.etc))
    (mail,) = waiting.mails()
    queue.postfix.postsuper("-h", one)
    assert waiting.act(QueueAction.DELETE, [mail]) == 0
    assert queue.queue_of(one) == "hold"


@pytest.fixture
def long_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A postqueue that lists 100,000 mails; the real one takes minutes to fill."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "postqueue"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "for number in range(100000):\n"
        """    print('{"queue_name": "deferred", "queue_id": "%X", "arrival_time": 1, "message_size": 5, '\n"""
        """          '"sender": "a%d@x.example", "recipients": [{"address": "b@y.example", "delay_reason": "no"}]}'\n"""
        "          % (number + 2**40, number))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "main.cf").touch()
    (etc / "master.cf").touch()
    return etc


def test_a_long_queue_is_never_in_memory(long_queue: Path) -> None:
    import tracemalloc

    waiting = PostfixQueue(Postfix(long_queue))
    tracemalloc.start()
    try:
        chosen = list(QueueFilter(sender="a7777?@*").choose(waiting.mails()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(chosen) == 10
    assert peak < 1 << 20


def test_listing_may_end_before_the_queue_does(long_queue: Path) -> None:
    mails = PostfixQueue(Postfix(long_queue)).mails()
    assert next(mails).sender == "a0@x.example"
    mails.close()


def test_postqueue_line_to_mail() -> None:
    raw = {
        "queue_name": "deferred", "queue_id": "4bWx", "arrival_time": 5, "message_size": 7, "sender": "MAILER-DAEMON",
        "recipients": [{"address": "a@b"}, {"address": "c@d", "delay_reason": "full"}],
    }  # fmt: skip
    mail = read_mail(raw)
    assert mail == QueuedMail("4bWx", "deferred", 5.0, 7, "", (QueuedRecipient("a@b"), QueuedRecipient("c@d", "full")))
    assert mail.reasons == ("full",)


def test_what_cannot_change_a_mail_says_where_it_is(queue: Queue) -> None:
    (one,) = queue.fill("alice@one.example")
    queue("release", one, status=1)
    assert queue.line.err == f"postroom: {one} (in deferred): release changes nothing there; nothing is done\n"
    queue("hold", one)
    queue("hold", one, status=1)
    assert f"{one} (in hold): hold changes nothing there" in queue.line.err
    queue("flush", one, status=1)
    assert f"{one} (in hold): flush changes nothing there" in queue.line.err


def test_a_damaged_mail_is_told_and_the_others_are_listed(queue: Queue) -> None:
    one, two = queue.fill("alice@one.example", "bob@two.example")
    (path,) = (queue.postfix.base / "spool").glob(f"deferred/**/{one}")
    with path.open("r+b") as file:
        file.write(b"\xff\xfe no queue file")
    assert queue.ids() == {two}
    for arguments in ((one,), (one, "--raw"), (one, "--json")):
        assert queue("show", *arguments, status=1) == ""
        assert f"{one} is damaged" in queue.line.err
        assert queue.line.err.count("\n") == 1


def test_a_tool_that_fails_says_what_was_fatal(long_queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(os.environ["PATH"].partition(":")[0]) / "postsuper"
    program.write_text(
        "#!/bin/sh\necho 'postsuper: 4bWx1y2F: removed' >&2\necho 'postsuper: fatal: no log' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    mail = QueuedMail("4bWx1y2F", "deferred", 0, 0, "", ())
    with pytest.raises(PostfixFailed, match="fatal: no log"):
        PostfixQueue(Postfix(long_queue)).act(QueueAction.DELETE, [mail])
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(PostfixFailed, match="status 3"):
        PostfixQueue(Postfix(long_queue)).act(QueueAction.DELETE, [mail])


@pytest.mark.parametrize(
    ("action", "queues"),
    [
        (QueueAction.HOLD, {"incoming", "active", "deferred"}),
        (QueueAction.RELEASE, {"hold"}),
        (QueueAction.FLUSH, {"incoming", "deferred"}),
        (QueueAction.REQUEUE, {"incoming", "active", "deferred", "hold"}),
        (QueueAction.DELETE, {"incoming", "active", "deferred", "hold", "maildrop"}),
    ],
)
def test_an_action_takes_mails_from_the_queues_that_postfix_takes_them_from(
    line: Line, tmp_path: Path, long_queue: Path, action: QueueAction, queues: set[str]
) -> None:
    listed = "".join(
        f'{{"queue_name": "{name}", "queue_id": "ABCDE{number}", "arrival_time": 1, "message_size": 5, '
        f'"sender": "a@x.example", "recipients": []}}\n'
        for number, name in enumerate(("incoming", "active", "deferred", "hold", "maildrop"))
    )
    (tmp_path / "bin" / "listed").write_text(listed)
    (tmp_path / "bin" / "postqueue").write_text(f"#!/bin/sh\nexec cat {tmp_path}/bin/listed\n")
    rows = line.json("queue", str(action), "--all", "--dry-run", "--postfix-config", str(long_queue))
    assert {row["queue"] for row in rows} == queues
