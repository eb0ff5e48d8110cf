"""A qmail host of stand-ins: programs that follow qmail's documented interfaces and note what they were given, callers
that start them as qmail-smtpd, qmail-lspawn and qmail-rspawn do, and a hand-over server in this process.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dialogues.scripted import World, parse_given
from postroom.config import Config, HandoverSettings, Host, Paths
from postroom.fronts.handover.engine import HandoverEngine
from postroom.fronts.handover.session import HandoverParts, believed_uids, session_factory
from postroom.mta.host import Surroundings
from postroom.mta.qmail import wrappings
from postroom.mta.wrapping import run_steps
from postroom.quarantine import open_quarantine
from postroom.services.clock import SystemClock

PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
MAIL = b"Received: from mail.sender.example (HELO helo.example) (203.0.113.9)\n  by mx.test.example with SMTP; now\n"
MAIL += b"From: a@sender.example\nSubject: hello\n\nhello\n"
STRANGER = {"PROTO": "TCP", "TCPREMOTEIP": "203.0.113.9", "TCPREMOTEHOST": "mail.sender.example"}

# What every stand-in does first: note how it was started.
_NOTE = """
import json, os, sys
def note(**more):
    found = {
        "argv": [os.fsencode(each).hex() for each in ARGV], "cwd": os.getcwd(), "pid": os.getpid(),
        "environment": ENVIRONMENT.hex(), "fds": FDS, "ignored": IGNORED, **more,
    }
    with open(NOTES, "a") as file:
        file.write(json.dumps(found) + "\\n")
ARGV = sys.argv
NOTES = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/notes"
ENVIRONMENT = open("/proc/self/environ", "rb").read()
FDS = sorted(int(each) for each in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + each))
IGNORED = ""
def read(descriptor):
    octets = b""
    while more := os.read(descriptor, 65536):
        octets += more
    return octets
answer = os.path.dirname(NOTES) + "/answer"
answer = json.load(open(answer)) if os.path.exists(answer) else {}
"""

# qmail-queue(8): the mail from 0 to its end, then the envelope from 1; 91 for an envelope that is none.
_QUEUE = """
position = None
try:
    position = os.lseek(0, 0, os.SEEK_CUR)
except OSError:
    pass
mail, envelope = read(0), read(1)
note(mail=mail.hex(), envelope=envelope.hex(), position=position)
parts = envelope.split(b"\\0")
good = envelope.endswith(b"\\0\\0") and parts[0][:1] == b"F" and all(each[:1] == b"T" for each in parts[1:-2])
os._exit(answer.get("status", 0) if good else 91)
"""

# qmail-local(8): goes to the start of descriptor 0, which must be possible; its report goes to 1.
_LOCAL = """
position = None
try:
    position = os.lseek(0, 0, os.SEEK_CUR)
    os.lseek(0, 0, os.SEEK_SET)
except OSError:
    os.write(1, b"Unable to rewind message. (#4.3.0)\\n")
    os._exit(111)
note(mail=read(0).hex(), position=position)
os.write(1, answer.get("report", "did 1+0+0\\n").encode())
os._exit(answer.get("status", 0))
"""

# qmail-remote(8): a letter and text for each recipient, one for the mail, each with a NUL.
_REMOTE = """
note(mail=read(0).hex(), position=None)
os.write(1, b"rok\\0" * max(1, len(ARGV) - 3) + b"K203.0.113.1 accepted message\\n\\0")
os._exit(0)
"""

_STAND_INS = {"qmail-queue": _QUEUE, "qmail-local": _LOCAL, "qmail-remote": _REMOTE}


@dataclass(frozen=True)
class Noted:
    """How an original was started, and what it read."""

    argv: list[bytes]
    cwd: str
    pid: int
    environment: bytes
    fds: list[int]
    mail: bytes
    envelope: bytes
    position: int | None

    @property
    def sender(self) -> bytes:
        return self.envelope.split(b"\0")[0][1:]

    @property
    def recipients(self) -> list[bytes]:
        return [each[1:] for each in self.envelope.split(b"\0")[1:-2]]


@dataclass(frozen=True)
class Ended:
    """How a program ended: its status (negative: killed), what stood on descriptor 1 and 2, or on 6."""

    status: int
    said: bytes
    pid: int


@dataclass
class Start:
    """How a caller starts a program."""

    environment: Mapping[str, str] = field(default_factory=dict)
    uid: int | None = None
    file_size: int | None = None


@dataclass
class House:
    root: Path
    world: World
    config: Config

    @property
    def socket(self) -> str:
        return str(self.root / "handover.sock")

    def given(self, line: str) -> None:
        """A handler; see dialogues/scripted.py."""
        self.world.add(*parse_given(line))

    def calls(self, name: str) -> list[Any]:
        return self.world.handlers[name].calls

    def answer(self, **what: Any) -> None:
        """What the originals shall do."""
        (self.root / "answer").write_text(json.dumps(what))

    def notes(self) -> list[Noted]:
        path = self.root / "notes"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [
            Noted(
                [bytes.fromhex(word) for word in each["argv"]],
                each["cwd"],
                each["pid"],
                bytes.fromhex(each["environment"]),
                each["fds"],
                bytes.fromhex(each["mail"]),
                bytes.fromhex(each.get("envelope", "")),
                each["position"],
            )
            for each in found
        ]

    # The callers

    def queue(
        self,
        envelope: bytes,
        mail: bytes = MAIL,
        start: Start | None = None,
        *,
        error_pipe: bool = True,
        program: str = "bin/qmail-queue",
    ) -> Ended:
        """As qmail.c's qmail_open, qmail_put and qmail_close: pipes on 0, 1 and, in newer ones, 6; the mail first."""
        reading, writing = os.pipe()
        envelope_reading, envelope_writing = os.pipe()
        error_reading, error_writing = os.pipe()
        places = {0: reading, 1: envelope_reading, **({6: error_writing} if error_pipe else {})}
        start = start or Start(STRANGER)
        pid = _start([program.encode()], self.root, places, start)
        for each in (reading, envelope_reading, error_writing):
            os.close(each)
        _give(writing, mail)
        _give(envelope_writing, envelope)
        said = _all(error_reading)
        return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said, pid)

    def local(
        self, words: Sequence[bytes], mail: bytes = MAIL, start: Start | None = None, *, pipe: bool = False
    ) -> Ended:
        """As qmail-lspawn: the queue's file, read-only, on 0; the report pipe on 1 and 2."""
        return self._spawn([b"bin/qmail-local", b"--", *words], self.root, mail, start, pipe)

    def remote(
        self, words: Sequence[bytes], mail: bytes = MAIL, start: Start | None = None, *, pipe: bool = False
    ) -> Ended:
        """As qmail-rspawn: by execvp, in queue/mess."""
        (self.root / "queue" / "mess").mkdir(parents=True, exist_ok=True)
        return self._spawn([b"qmail-remote", *words], self.root / "queue" / "mess", mail, start, pipe)

    def _spawn(self, argv: list[bytes], cwd: Path, mail: bytes, start: Start | None, pipe: bool) -> Ended:
        queue_file = self.root / "mess"
        queue_file.write_bytes(mail)
        queue_file.chmod(0o644)
        report_reading, report_writing = os.pipe()
        if pipe:
            message, feed = os.pipe()
            _give(feed, mail)
        else:
            message = os.open(queue_file, os.O_RDONLY)
        start = start or Start()
        start = replace(start, environment={"PATH": f"{self.root}/bin:/usr/bin:/bin", **start.environment})
        pid = _start(argv, cwd, {0: message, 1: report_writing, 2: report_writing}, start)
        os.close(message)
        os.close(report_writing)
        said = _all(report_reading)
        return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said, pid)


def _start(argv: list[bytes], cwd: Path, places: Mapping[int, int], start: Start) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:  # nothing but system calls: this is a copy of a process with threads
        high = {place: fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for place, descriptor in places.items()}
        for place, descriptor in high.items():
            os.dup2(descriptor, place)
        os.closerange(max(3, *(place + 1 for place in places)), 1000)
        for place in range(3, 7):
            if place not in places:
                try:
                    os.close(place)
                except OSError:
                    pass
        os.chdir(cwd)
        if start.file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (start.file_size, start.file_size))
        if start.uid is not None:
            os.setgroups([])
            os.setgid(start.uid)
            os.setuid(start.uid)
        os.execvpe(argv[0], argv, dict(start.environment))
    finally:
        os._exit(120)


def _give(descriptor: int, octets: bytes) -> None:
    """In a thread, so that a program which does not read cannot stop the test."""

    def write() -> None:
        rest = memoryview(octets)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BrokenPipeError:
            pass
        os.close(descriptor)

    threading.Thread(target=write, daemon=True).start()


def _all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def make_stand_in(path: Path, body: str, mode: int = 0o755) -> None:
    path.write_text(f"#!{PYTHON} -ISXutf8\n{_NOTE}{body}")
    path.chmod(mode)


def make_root(root: Path) -> None:
    for name in ("bin", "control"):
        (root / name).mkdir(parents=True)
    for name, body in _STAND_INS.items():
        make_stand_in(root / "bin" / name, body)
    (root / "notes").touch()
    (root / "notes").chmod(0o666)
    root.chmod(0o755)


def surroundings(root: Path) -> Surroundings:
    return Surroundings(str(root / "handover.sock"), PYTHON)


def install(root: Path) -> None:
    for each in wrappings(root, surroundings(root)):
        run_steps(each.install(), lambda words: None, dry_run=False)


@contextmanager
def serving(house: House) -> Iterator[None]:
    """The hand-over front, on the house's socket."""
    path = Path(house.socket)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(100)
        listener.setblocking(False)
        parts = HandoverParts(
            house.world.pipeline,
            open_quarantine(house.config, SystemClock()),
            house.config,
            SystemClock(),
            house.world.log,
            believed_uids(house.config.handover.believe),
        )
        engine = HandoverEngine([listener], session_factory(parts), house.config, house.world.log)
        thread = threading.Thread(target=engine.run, name="engine")
        thread.start()
        try:
            yield
        finally:
            engine.drain(5.0)
            thread.join(30)
            assert not thread.is_alive()
    path.unlink(missing_ok=True)


def make_house(root: Path, **handover: Any) -> House:
    make_root(root)
    state = root / "state"
    state.mkdir()
    config = Config(
        paths=Paths(state=state, run=root),
        host=Host(name="mx.test.example"),
        handover=replace(HandoverSettings(), **handover),
    )
    install(root)
    return House(root, World(root, config), config)


def one_answer(house: House, reply: Callable[[socket.socket], None]) -> threading.Thread:
    """A server that treats its first client as `reply` says."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(house.socket)
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            reply(client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def envelope(sender: bytes, *recipients: bytes) -> bytes:
    return b"F" + sender + b"\0" + b"".join(b"T" + each + b"\0" for each in recipients) + b"\0"


def run_quietly(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
