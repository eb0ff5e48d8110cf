"""`postroom queue` on a directory that is laid out as qmail's INTERNALS says."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from postroom.mta.queue import QueueAction
from postroom.mta.queue_qmail import QmailQueue
from postroom.testing.processes import find_program, wait_until

from .conftest import Line

SPLIT = 23
MAIL = b"Received: (qmail 4711 invoked by uid 0)\nSubject: hello\nX-Odd: caf\xe9 \x1b[31m\n\nHello!\n"


@dataclass
class Qmail:
    """The queue of a qmail, and the command for it."""

    root: Path
    line: Line

    @property
    def queue(self) -> Path:
        return self.root / "queue"

    def make(self) -> None:
        for name in ("mess", "info", "local", "remote"):
            for part in range(SPLIT):
                (self.queue / name / str(part)).mkdir(parents=True)
        for name in ("todo", "intd", "bounce", "pid", "lock"):
            (self.queue / name).mkdir()
        (self.queue / "lock" / "sendmutex").touch(0o600)
        os.mkfifo(self.queue / "lock" / "trigger")

    def arrive(self, envelope: bytes) -> str:
        """As qmail-queue does it: the number is the file's inode."""
        new = self.queue / "pid" / "new"
        new.write_bytes(MAIL)
        id_ = str(new.stat().st_ino)
        new.rename(self.place("mess", id_))
        (self.queue / "intd" / id_).write_bytes(b"u1000\0p4711\0" + envelope)
        os.link(self.queue / "intd" / id_, self.queue / "todo" / id_)
        return id_

    def sort(self, id_: str, sender: bytes, local: bytes = b"", remote: bytes = b"", age: float = 0) -> str:
        """As qmail-send does it with what has arrived."""
        self.place("info", id_).write_bytes(b"F" + sender + b"\0")
        at = time.time() - age
        os.utime(self.place("info", id_), (at, at))
        for name, recipients in (("local", local), ("remote", remote)):
            if recipients:
                self.place(name, id_).write_bytes(recipients)
        (self.queue / "intd" / id_).unlink()
        (self.queue / "todo" / id_).unlink()
        return id_

    def place(self, name: str, id_: str) -> Path:
        return self.queue / name / str(int(id_) % SPLIT) / id_

    def files(self) -> set[str]:
        """All but the locks."""
        names = {str(path.relative_to(self.queue)) for path in self.queue.rglob("*") if not path.is_dir()}
        return {each for each in names if not each.startswith("lock/")}

    def __call__(self, verb: str, *arguments: str, status: int = 0) -> str:
        return self.line("queue", verb, "--mta", "qmail", "--qmail-root", str(self.root), *arguments, status=status)

    def list(self, *arguments: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self("list", "--json", *arguments))
        return found

    def ids(self, *arguments: str) -> set[object]:
        return {each["id"] for each in self.list(*arguments)}

    @contextmanager
    def running(self) -> Iterator[Path]:
        """A stand-in with qmail-send's name that holds its lock, and writes down that ALRM came."""
        heard, program = self.root / "heard", self.root / "qmail-send"
        shutil.copy(find_program("perl") or "", program)
        text = (
            "use Fcntl ':flock'; open my $lock, '+<', $ARGV[0] or die; flock $lock, LOCK_EX | LOCK_NB or die;"
            "$SIG{ALRM} = sub { open my $f, '>', $ARGV[1]; close $f }; "
            '$| = 1; print "up\\n"; select undef, undef, undef, 1 while 1'
        )
        command = [str(program), "-e", text, str(self.queue / "lock" / "sendmutex"), str(heard)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"up\n"
                yield heard
            finally:
                process.kill()


@pytest.fixture
def qmail(tmp_path: Path, line: Line) -> Qmail:
    made = Qmail(tmp_path / "qmail", line)
    made.make()
    return made


@dataclass
class Mails:
    new: str
    waiting: str
    bouncing: str


@pytest.fixture
def mails(qmail: Qmail) -> Mails:
    envelope = b"Falice@one.example\0Tbob@local.test\0"
    new, waiting, bouncing = (qmail.arrive(envelope) for _ in range(3))
    qmail.sort(
        waiting, b"Carol@Two.example", b"Dbob@local.test\0Tann@local.test\0", b"Tdora@far.example\0", age=3 * 3600
    )
    qmail.sort(bouncing, b"", remote=b"Dnobody@far.example\0Tsome@far.example\0", age=3 * 86400)
    (qmail.queue / "bounce" / bouncing).write_bytes(b"<nobody@far.example>:\nno such user\n\n")
    return Mails(new, waiting, bouncing)


def test_what_waits_is_listed_with_who_is_still_to_get_it(qmail: Qmail, mails: Mails) -> None:
    found = {row["id"]: row for row in qmail.list()}
    assert set(found) == {mails.new, mails.waiting, mails.bouncing}
    facts = {id_: (row["queue"], row["sender"], row["recipients"]) for id_, row in found.items()}
    assert facts == {
        mails.new: ("todo", "alice@one.example", ["bob@local.test"]),
        mails.waiting: ("waiting", "Carol@Two.example", ["ann@local.test", "dora@far.example"]),
        mails.bouncing: ("bouncing", "<>", ["some@far.example"]),
    }
    assert {row["size"] for row in found.values()} == {len(MAIL)}
    at = time.mktime(time.strptime(str(found[mails.waiting]["arrived"]), "%Y-%m-%d %H:%M:%S"))
    assert 0 <= time.time() - 3 * 3600 - at < 60


def test_mail_is_chosen(qmail: Qmail, mails: Mails) -> None:
    assert qmail.ids("--sender", "<>") == {mails.bouncing}
    assert qmail.ids("--recipient", "bob@*") == {mails.new}  # the other one had it
    assert qmail.ids("--older", "1h") == {mails.waiting, mails.bouncing}
    assert qmail.ids("--older", "1h", "--newer", "1d") == {mails.waiting}
    assert qmail.ids("--queue", "todo") == {mails.new}
    qmail("list", "--reason", "refused", status=2)
    assert "its log does" in qmail.line.err


def test_what_is_half_there_is_no_mail(qmail: Qmail, mails: Mails) -> None:
    """States S2 and S3, a mail that just leaves, and one that is sorted just now."""
    qmail.place("mess", mails.waiting).unlink()
    (qmail.queue / "todo" / mails.new).unlink()
    assert qmail.ids() == {mails.bouncing}
    again = qmail.arrive(b"Fz@z.example\0Ty@y.example\0Tx@x.example\0")
    qmail.place("info", again).write_bytes(b"Fz@z.exa")
    qmail.place("remote", again).write_bytes(b"Ty@y.example\0")
    (row,) = qmail.list("--sender", "z@z.example")
    assert (row["queue"], row["recipients"]) == ("todo", ["y@y.example", "x@x.example"])


def test_a_queue_whose_todo_is_split_too_is_read(qmail: Qmail, mails: Mails) -> None:
    for part in range(SPLIT):
        (qmail.queue / "todo" / str(part)).mkdir()
    (qmail.queue / "todo" / mails.new).rename(qmail.place("todo", mails.new))
    assert mails.new in qmail.ids("--queue", "todo")


def test_a_mail_is_shown(qmail: Qmail, mails: Mails) -> None:
    shown = qmail("show", mails.waiting)
    assert "Subject: hello" in shown
    assert "dora@far.example" in shown
    assert "Hello!" not in shown
    assert "\x1b" not in shown
    assert b"".join(QmailQueue(qmail.root).show(mails.waiting, body=True)) == MAIL
    qmail("show", "1", status=1)
    assert "is not in the queue" in qmail.line.err
    qmail("show", "../../lock/sendmutex", status=2)


@pytest.mark.parametrize("verb", ["hold", "release", "requeue"])
def test_what_qmail_has_not_is_said_in_one_line(qmail: Qmail, mails: Mails, verb: str) -> None:
    qmail(verb, mails.waiting, status=2)
    assert f"qmail has no {verb}" in qmail.line.err
    assert qmail.line.err.count("\n") == 1


def test_all_of_it_is_flushed_by_a_signal_to_the_process_that_has_the_lock(qmail: Qmail, mails: Mails) -> None:
    qmail("flush", mails.waiting, status=2)
    assert "flush --all" in qmail.line.err
    qmail("flush", "--all", "--yes", status=1)
    assert "qmail-send is not running" in qmail.line.err
    with qmail.running() as heard:
        assert "flush: 3 mails" in qmail("flush", "--all", "--yes")
        wait_until(heard.exists, "the signal arrives")


def test_no_other_process_gets_the_signal(qmail: Qmail, mails: Mails) -> None:
    with (qmail.queue / "lock" / "sendmutex").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # by this process: not called qmail-send
        qmail("flush", "--all", "--yes", status=1)
    assert "svc -a" in qmail.line.err


def test_mail_is_deleted_only_while_qmail_send_is_down(qmail: Qmail, mails: Mails) -> None:
    before = qmail.files()
    with qmail.running():
        qmail("delete", "--all", "--yes", status=1)
        assert "stop its service" in qmail.line.err
        qmail("delete", mails.waiting, "--dry-run")
    assert qmail.files() == before
    qmail("delete", mails.bouncing, mails.new, "--yes")
    number = int(mails.waiting)
    assert qmail.files() == {f"{name}/{number % SPLIT}/{number}" for name in ("mess", "info", "local", "remote")}
    qmail("delete", "--all", "--yes")
    assert qmail.files() == set()


def test_a_qmail_that_locks_by_fcntl_counts_as_running(qmail: Qmail, mails: Mails) -> None:
    text = "import fcntl,sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = ["/usr/bin/python3", "-c", text, str(qmail.queue / "lock" / "sendmutex")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        qmail("delete", "--all", "--yes", status=1)
        process.kill()


def test_a_number_that_was_given_away_again_is_left_alone(qmail: Qmail, mails: Mails) -> None:
    queue = QmailQueue(qmail.root)
    listed = list(queue.mails())
    qmail.place("info", mails.waiting).write_bytes(b"Fother@sender.example\0")
    assert queue.act(QueueAction.DELETE, listed) == 2
    assert qmail.ids() == {mails.waiting}


def test_wrong_use_is_named(qmail: Qmail, tmp_path: Path) -> None:
    qmail.line("queue", "list", "--qmail-root", str(tmp_path), status=1)  # qmail by its root alone
    assert "is no qmail queue" in qmail.line.err
    qmail("list", "--postfix-config", str(tmp_path), status=2)
    qmail.line("queue", "list", "--mta", "postfix", "--qmail-root", str(tmp_path), status=2)
