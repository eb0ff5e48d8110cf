"""A handler that is any program: the reference's `Exec:` hooks, unchanged.

argv     program context sender recipient [recipient]...    (the null sender is an empty argument)
stdin    the mail with LF line ends, no envelope; empty at before-data
stderr   any number of `LOG text` lines, then one of PASS SKIP STOP DEFER REJECT
stdout   after PASS the mail as changed, after REJECT or DEFER the text of the reply
status   0 for PASS and STOP, other for SKIP, DEFER, REJECT; the word decides

A mail with more recipients than one command line holds is given to the program in several calls, each with the whole
mail and a part of the recipients; each call answers for its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from postroom.failure import FailureKind, HandlerFailed
from postroom.hookspecs import Logger
from postroom.mail import CRLF, Address, Body, BodyCollector, Envelope, Field, Message, ReplaceMessage, parse_message
from postroom.registration import Stage
from postroom.verdict import DEFER_REPLY, REJECT_REPLY, Action, Reply, Verdict

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_LOGGED = 64 << 10  # octets of LOG lines that reach the log
MAX_LINE = 64 << 10  # octets of one line on stderr; the word has six
MAX_ARGUMENT = (128 << 10) - 1  # octets of one argument or variable, its NUL not counted (Linux' MAX_ARG_STRLEN)
ARGUMENT_SLACK = 64 << 10  # octets that the kernel and an interpreter's line (#!) take beside the arguments
POINTER = 8  # octets of a pointer, which counts too (execve(2))
MAX_REPLY = 2048  # octets of reply text taken from stdout
MAX_GROWTH = 16 << 20  # octets by which a program may make a mail longer
MAX_HEAD = 4 << 20  # octets that are looked through for a header's end; the fronts take less
CHUNK = 1 << 16

_CODES = re.compile(r"(?=[45])(?:[45]\d\d[ -])?(?:[45]\.(?P<detail>\d{1,3}\.\d{1,3}) +)?(?P<rest>.*)", re.DOTALL)
_WORDS = {word.value.encode(): word for word in Action if word is not Action.QUARANTINE}


def run_program(
    program: str,
    context: str,
    stage: Stage,
    envelope: Envelope,
    message: Message | None,
    seconds: float,
    log: Logger,
) -> Verdict:
    """The program's verdict; HandlerFailed when it gives none in time."""
    arguments = [_octets(program), _octets(context), _octets(envelope.sender.text)]
    environment = _environment(stage, envelope)
    ends_at = time.monotonic() + seconds
    verdicts = []
    try:
        parts = split_recipients(envelope.recipients, arguments, environment)
        for recipients in parts:
            argv = [*arguments, *(_octets(address.text) for address in recipients)]
            verdicts.append(_run_once(argv, environment, message, ends_at - time.monotonic(), program, log))
    except OSError as error:  # no descriptor is left, or the spool's disk is full
        raise HandlerFailed(FailureKind.EXCEPTION, f"{program} cannot be run: {error.strerror}") from None
    if len(parts) == 1:
        return verdicts[0]
    log.info("more recipients than one command line holds", program=program, calls=len(parts))
    return _joined(parts, verdicts)


def split_recipients(
    recipients: Sequence[Address], arguments: Sequence[bytes], environment: Mapping[bytes, bytes]
) -> list[tuple[Address, ...]]:
    """The recipients in parts, each of which a command line holds beside `arguments`; HandlerFailed when none can."""
    variables = [name + b"=" + value for name, value in environment.items()]
    for octets in (*arguments, *variables):
        if len(octets) > MAX_ARGUMENT:
            raise HandlerFailed(FailureKind.LIMIT, f"{octets[:40]!r}… is longer than {MAX_ARGUMENT} octets")
    room = os.sysconf("SC_ARG_MAX") - ARGUMENT_SLACK - sum(map(_room_of, (*arguments, *variables)))
    parts: list[list[Address]] = [[]]
    left = room
    for recipient in recipients:
        octets = _octets(recipient.text)
        taken = _room_of(octets)
        if taken > left:
            parts.append([])
            left = room
        left -= taken
        if left < 0 or len(octets) > MAX_ARGUMENT:
            raise HandlerFailed(FailureKind.LIMIT, f"{octets[:40]!r}… is longer than a command line takes")
        parts[-1].append(recipient)
    return [tuple(part) for part in parts]


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _room_of(argument: bytes) -> int:
    return len(argument) + 1 + POINTER


def _joined(parts: Sequence[tuple[Address, ...]], verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several calls; what differs from the first one's answer is said for its own recipients."""
    first = verdicts[0]
    different = {
        recipient: verdict
        for recipients, verdict in zip(parts, verdicts, strict=True)
        if not _same_verdict(verdict, first)
        for recipient in recipients
    }
    return dataclasses.replace(first, for_recipients=different)


def _same_verdict(one: Verdict, other: Verdict) -> bool:
    if (one.action, one.reply) != (other.action, other.reply) or len(one.edits) != len(other.edits):
        return False
    return all(
        isinstance(left, ReplaceMessage)
        and isinstance(right, ReplaceMessage)
        and left.message.fields == right.message.fields
        and same_octets(left.message.body, right.message.body)
        for left, right in zip(one.edits, other.edits, strict=True)
    )


def _run_once(
    argv: list[bytes],
    environment: dict[bytes, bytes],
    message: Message | None,
    seconds: float,
    program: str,
    log: Logger,
) -> Verdict:
    limit = MAX_REPLY if message is None else message.size() + MAX_GROWTH
    with _started(argv, environment) as process:
        output, diagnostics = _Output(limit), _Diagnostics(program, log)
        try:
            _exchange(process, _lines_with_lf(message), output, diagnostics, seconds)
            status = process.wait(timeout=1)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise HandlerFailed(FailureKind.TIMEOUT, f"{program} was ended after {seconds:.1f} s") from None
    word = diagnostics.word()
    if status < 0:
        raise HandlerFailed(FailureKind.SIGNAL, f"{program} was ended by signal {-status}")
    if word is None:
        raise HandlerFailed(FailureKind.ANSWER, f"{program} gave no verdict (exit status {status})")
    if (status == 0) != (word in (Action.PASS, Action.STOP)):
        log.warning("exit status does not fit the verdict", program=program, status=status, verdict=str(word))
    if output.overflowed and word is Action.PASS:
        raise HandlerFailed(FailureKind.ANSWER, f"{program} wrote more than {limit} octets")
    return _verdict(word, output, message, program)


def check_program(program: str) -> str:
    """Why the program could not be run, with the remedy; empty when it can."""
    if not program.startswith("/"):
        return f"{program!r} is no absolute path"
    path = Path(program)
    if not path.is_file():
        return f"{program} is not there: install it, or give another path"
    if not os.access(path, os.X_OK):
        return f"{program} is not executable: chmod +x {program}"
    return ""


@contextlib.contextmanager
def _started(argv: list[bytes], environment: dict[bytes, bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a process group of its own, which does not outlive the block."""
    program = os.fsdecode(argv[0])
    try:
        owner = Path(program).stat()
        identity = _identity(owner)
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            start_new_session=True,
            close_fds=True,
            **identity,  # type: ignore[call-overload]  # user and group, or nothing
        )
    except (OSError, ValueError) as error:
        reason = _why_not_run(error, program)
        absent = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
        kind = FailureKind.ABSENT if absent else FailureKind.EXCEPTION
        raise HandlerFailed(kind, f"{program} cannot be run: {reason}") from None
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # grandchildren too, also after a normal end
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _why_not_run(error: OSError | ValueError, program: str) -> str:
    if not isinstance(error, OSError):
        return "an argument holds NUL"
    if error.errno == errno.ENOENT and Path(program).exists():
        return "the interpreter in its first line is not there"  # execve(2) names the program for that, too
    if error.errno == errno.ENOEXEC:
        return "it is no program: a script begins with #! and its interpreter"
    return error.strerror or str(error)


def _identity(owner: os.stat_result) -> dict[str, object]:
    """As root, a program runs with the rights of its file's owner, as in the reference."""
    if os.geteuid() != 0 or owner.st_uid == 0:
        return {}
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


def _environment(stage: Stage, envelope: Envelope) -> dict[bytes, bytes]:
    session = envelope.session
    facts = {
        "CLIENT_ADDR": str(session.client_address or ""),
        "CLIENT_NAME": session.client_name,
        "HELO": session.helo,
        "AUTH_USER": session.auth_user,
        "QUEUE_ID": envelope.queue_id,
        "STAGE": str(stage),
    }
    environment = {b"PATH": PATH.encode(), b"LANG": b"C"}
    for name, value in facts.items():
        environment[b"POSTROOM_" + name.encode()] = value.replace("\0", "").encode("utf-8", "surrogateescape")
    return environment


def _lines_with_lf(message: Message | None) -> Iterator[bytes]:
    """The mail with LF line ends; a CR LF that a chunk cuts in two is still one line end."""
    if message is None:
        return
    held = b""
    for chunk in message.chunks():
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        yield octets[: len(octets) - len(held)].replace(CRLF, b"\n")
    if held:
        yield held


class _Output:
    """What a program wrote, up to a limit; what is over the limit is read and thrown away."""

    def __init__(self, limit: int) -> None:
        self._limit, self._collector = limit, BodyCollector()
        self.overflowed = False

    @property
    def size(self) -> int:
        return self._collector.size

    def append(self, octets: bytes) -> None:
        room = self._limit - self.size
        self.overflowed = self.overflowed or len(octets) > room
        self._collector.append(octets[:room])

    def open(self) -> BinaryIO:
        return self._collector.finish().open()

    def read(self, most: int = -1) -> bytes:
        return self.open().read(most)


class _Diagnostics:
    """What a program wrote to stderr, read as it comes: `LOG` lines, then the word; what follows is not looked at."""

    def __init__(self, program: str, log: Logger) -> None:
        self._program, self._log = program, log
        self._line = bytearray()  # the beginning of a line that has not ended
        self._logged = 0
        self._ended = False
        self._word: Action | None = None

    def append(self, octets: bytes) -> None:
        first, *others = octets.split(b"\n")
        self._begin(first)
        for line in others:
            self._end_line()
            self._begin(line)

    def word(self) -> Action | None:
        """The verdict, once all is read."""
        self._end_line()
        return self._word

    def _begin(self, octets: bytes) -> None:
        self._line += octets[: MAX_LINE - len(self._line)]

    def _end_line(self) -> None:
        line = bytes(self._line).strip()
        self._line.clear()
        if self._ended or not line:
            return
        if line.startswith(b"LOG ") or line == b"LOG":
            self._say(line[4:])
            return
        self._ended = True
        self._word = _WORDS.get(line)
        if self._word is None:
            text = line.decode("utf-8", "replace")[:200]
            self._log.warning("handler wrote neither LOG nor a verdict", program=self._program, text=text)

    def _say(self, text: bytes) -> None:
        if self._logged > MAX_LOGGED:
            return
        self._logged += len(text) + 1
        if self._logged > MAX_LOGGED:
            self._log.warning("handler says too much: the rest is left out", program=self._program)
        else:
            self._log.info("handler says", program=self._program, text=text.decode("utf-8", "replace"))


def _exchange(
    process: subprocess.Popen[bytes], mail: Iterator[bytes], output: _Output, diagnostics: _Diagnostics, seconds: float
) -> None:
    """Write stdin and read stdout and stderr together until the program ends; TimeoutError past `seconds`.

    A grandchild that keeps the pipes open is not waited for.
    """
    assert process.stdin
    assert process.stdout
    assert process.stderr
    ends_at = time.monotonic() + seconds
    pending = memoryview(next(mail, b""))
    with selectors.DefaultSelector() as selector, _pidfd(process.pid) as ended:
        selector.register(ended, selectors.EVENT_READ)
        for stream, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stdout, selectors.EVENT_READ),
            (process.stderr, selectors.EVENT_READ),
        ):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, event)
        running = True
        while running or len(selector.get_map()) > 1:
            left = ends_at - time.monotonic()
            ready = selector.select(max(0.0, left) if running else 0)
            ready = [each for each in ready if running or each[0].fileobj is not ended]
            if not running and not ready:
                return
            if not ready or left <= 0:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is ended:
                    running = False
                elif key.fileobj is process.stdin:
                    pending, open_ = _feed(process.stdin.fileno(), pending, mail)
                    if not open_:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                elif octets := os.read(key.fd, CHUNK):
                    (output if key.fileobj is process.stdout else diagnostics).append(octets)
                else:
                    selector.unregister(key.fileobj)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A descriptor that becomes readable when the process ends (pidfd_open(2))."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _feed(descriptor: int, pending: memoryview, mail: Iterator[bytes]) -> tuple[memoryview, bool]:
    """Write what fits; (what is left of the current chunk, whether stdin stays open)."""
    try:
        while True:
            while not pending:
                chunk = next(mail, None)
                if chunk is None:
                    return pending, False
                pending = memoryview(chunk)
            pending = pending[os.write(descriptor, pending) :]
    except BlockingIOError:
        return pending, True
    except BrokenPipeError:
        return memoryview(b""), False  # it need not read the mail to the end


def _verdict(word: Action, output: _Output, message: Message | None, program: str) -> Verdict:
    match word:
        case Action.PASS:
            if message is None or output.size == 0:  # at before-data there is no mail to change
                return Verdict(Action.PASS)
            changed = _changed(message, output)
            return Verdict(Action.PASS, (ReplaceMessage(changed),) if changed is not None else ())
        case Action.DEFER | Action.REJECT:
            text = output.read(MAX_REPLY).decode("utf-8", "replace").strip()
            fallback = DEFER_REPLY if word is Action.DEFER else REJECT_REPLY
            return Verdict(word, reply=_reply(text) if text else fallback, reason=text or f"{program} said {word}")
        case _:
            return Verdict(word, reason=f"{program} said {word}")


def _reply(text: str) -> Reply:
    """Of a text that brings codes of its own, such as `550 5.7.1 no`, the enhanced one counts (RFC 3463)."""
    found = _CODES.match(text)
    if found is None or not found["rest"]:
        return Reply(text)
    return Reply(found["rest"], found["detail"]) if found["detail"] else Reply(found["rest"])


def _changed(message: Message, output: _Output) -> Message | None:
    """The mail that a program wrote, with each unchanged field and an unchanged body known again; None: no change."""
    stream = output.open()
    head = _read_head(stream)
    parsed = parse_message(head)
    if len(head) > MAX_HEAD and not parsed.body.size:
        raise HandlerFailed(FailureKind.ANSWER, f"a header of more than {MAX_HEAD} octets came back")
    collector = BodyCollector()
    collector.append(parsed.body.read())
    held = b""
    while chunk := stream.read(CHUNK):
        octets = (held + chunk).replace(CRLF, b"\n")
        held = b"\r" if octets.endswith(b"\r") else b""
        collector.append(octets[: len(octets) - len(held)].replace(b"\n", CRLF))
    collector.append(held)
    body = collector.finish()
    same_body = same_octets(body, message.body)
    fields = with_origins(parsed.fields, message.fields)
    if same_body and fields == message.fields:
        return None
    return Message(fields, message.body if same_body else body)


def _read_head(stream: BinaryIO) -> bytes:
    """The mail up to its first empty line, and what was read with it; never ends between CR and LF."""
    head = bytearray()
    while chunk := stream.read(CHUNK):
        searched = max(0, len(head) - 3)
        head += chunk
        if head.startswith((b"\n", b"\r\n")) or head.find(b"\n\n", searched) >= 0:
            break
        if head.find(b"\r\n\r\n", searched) >= 0 or len(head) > MAX_HEAD:
            break
    if len(head) > MAX_HEAD:  # no empty line in all this: it is body from the first line on that is no field
        head += stream.readline()
    elif head.endswith(b"\r"):
        head += stream.read(1)
    return bytes(head)


def same_octets(one: Body, other: Body) -> bool:
    return one.size == other.size and all(a == b for a, b in zip(one.chunks(), other.chunks(), strict=True))


def with_origins(changed: tuple[Field, ...], original: tuple[Field, ...]) -> tuple[Field, ...]:
    """`changed`, where each field that also stands in `original`, in the same order, keeps its origin."""
    positions: dict[tuple[bytes, bytes], list[int]] = {}
    for at, field in enumerate(original):
        positions.setdefault((field.name, field.value), []).append(at)
    result, last = [], -1
    for field in changed:
        candidates = positions.get((field.name, field.value), [])
        at = next((each for each in candidates if each > last), -1)
        if at >= 0:
            last = at
            result.append(original[at])
        else:
            result.append(Field(field.name, field.value))
    return tuple(result)
