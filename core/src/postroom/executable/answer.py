"""What a program wrote, to a verdict: the word on stderr, the mail or the reply's text on stdout."""

from __future__ import annotations

import re
from typing import BinaryIO

from postroom.executable.comparison import same_octets, with_origins
from postroom.executable.line_ends import with_lf
from postroom.failure import FailureKind, HandlerFailed
from postroom.hookspecs import Logger
from postroom.mail import CRLF, BodyCollector, Message, ReplaceMessage, parse_message
from postroom.verdict import DEFER_REPLY, REJECT_REPLY, Action, Reply, Verdict

MAX_LOGGED = 64 << 10  # octets of LOG lines that reach the log
MAX_LINE = 64 << 10  # octets of one line on stderr; the word has six
MAX_REPLY = 2048  # octets of reply text taken from stdout
MAX_HEAD = 4 << 20  # octets that are looked through for a header's end; the fronts take less
CHUNK = 1 << 16

_CODES = re.compile(r"(?=[45])(?:[45]\d\d[ -])?(?:[45]\.(?P<detail>\d{1,3}\.\d{1,3}) +)?(?P<rest>.*)", re.DOTALL)
_WORDS = {word.value.encode(): word for word in Action if word is not Action.QUARANTINE}


class Output:
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


class Diagnostics:
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


def verdict_of(word: Action, output: Output, message: Message | None, program: str) -> Verdict:
    """The verdict that a program meant with its last word and what it wrote; HandlerFailed when that is no mail."""
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


def _changed(message: Message, output: Output) -> Message | None:
    """The mail that a program wrote, with each unchanged field and an unchanged body known again; None: no change."""
    stream = output.open()
    head = _read_head(stream)
    parsed = parse_message(head)
    if len(head) > MAX_HEAD and not parsed.body.size:
        raise HandlerFailed(FailureKind.ANSWER, f"a header of more than {MAX_HEAD} octets came back")
    collector = BodyCollector()
    collector.append(parsed.body.read())
    for octets in with_lf(iter(lambda: stream.read(CHUNK), b"")):
        collector.append(octets.replace(b"\n", CRLF))
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
