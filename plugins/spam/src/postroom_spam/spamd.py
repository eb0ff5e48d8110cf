"""SpamAssassin's spamd: the SPAMC protocol, version 1.5 (spamd/PROTOCOL in SpamAssassin's sources)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from postroom.backends.connection import Connection
from postroom.backends.deadline import Deadline
from postroom.backends.octets import FixedOctets, Octets
from postroom.backends.trouble import BackendTrouble, safe
from postroom.config import SocketAddress
from postroom.mail import parse_message

from postroom_spam.engine import (
    MAX_REPORT,
    MAX_SYMBOLS,
    PROBE,
    Health,
    Lesson,
    Question,
    Report,
)

MAX_LINE = 8192  # octets; spamd's own header lines have less than a hundred
MAX_LINES = 64
MAX_ANSWER = 4 << 20  # octets of an answer's body: symbols, or a report
OUT_OF_TIME = "TIME_LIMIT_EXCEEDED"  # the rule by which SpamAssassin tells it (Mail::SpamAssassin::Conf, time_limit)

_STATUS = re.compile(rb"SPAMD/[\d.]+ (\d{1,4}) (\S+)(.*)", re.DOTALL)
_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
_SPAM = re.compile(rf"(?i:(true|yes)|false|no) *; *({_NUMBER}) */ *({_NUMBER})")  # Spam: True ; 1000.0 / 5.0
_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,100}")
_REPORT_LINE = re.compile(rf"(?m)^ *\*? *{_NUMBER} ([A-Z][A-Z0-9_]{{0,99}})\b")  # points, rule name, description
_USER = re.compile(r"[!-~]{1,254}")
_VERSION = re.compile(r"SpamAssassin ([\w.-]{1,40})")


@dataclass(frozen=True, slots=True)
class Spamd:
    """Implements engine.Engine."""

    address: SocketAddress
    connect_timeout: float = 5.0

    def check(self, mail: Octets, question: Question, deadline: Deadline) -> Report:
        verb = "REPORT" if question.with_report else "SYMBOLS"
        headers, body = self._ask(verb, mail, _user(question.user), deadline)
        score = _SPAM.fullmatch(headers.get("spam", ""))
        if not score:
            raise BackendTrouble("gave no score")
        is_spam, points, required = bool(score[1]), float(score[2]), float(score[3])
        text = body.decode("utf-8", "replace")
        symbols = _REPORT_LINE.findall(text) if question.with_report else _SYMBOL.findall(text)
        kept = tuple(symbols[:MAX_SYMBOLS])
        report = text[:MAX_REPORT].strip() if question.with_report else ""
        unfinished = "came to its time_limit before all rules were tried" if OUT_OF_TIME in symbols else ""
        return Report(points, required, is_spam, kept, report, unfinished)

    def learn(self, mail: Octets, lesson: Lesson, user: str, deadline: Deadline) -> bool:
        told = {"Message-class": str(lesson), "Set": "local", **_user(user)}
        headers, _ = self._ask("TELL", mail, told, deadline)
        return "local" in headers.get("didset", "")

    def health(self, deadline: Deadline) -> Health:
        """By a mail that every SpamAssassin with its rules takes for spam."""
        headers, body = self._ask("HEADERS", FixedOctets(PROBE), {}, deadline)
        found = parse_message(body)
        version = _VERSION.search(found.get(b"X-Spam-Checker-Version") or "")
        score = _SPAM.fullmatch(headers.get("spam", ""))
        symbols = _SYMBOL.findall((found.get(b"X-Spam-Status") or "").partition("tests=")[2].partition(" autolearn")[0])
        problems = []
        if "GTUBE" not in symbols or not score or float(score[2]) < 100:
            problems.append("it does not know the test mail for spam: are its rules there? run sa-update")
        elif len(symbols) < 2:
            problems.append("no rule but the one for the test mail is loaded: run sa-update")
        return Health(
            f"SpamAssassin {version[1]}" if version else "spamd, version not told",
            (f"{len(symbols)} rules hit the test mail",) if symbols else (),
            tuple(problems),
        )

    def _ask(
        self, verb: str, mail: Octets, more: Mapping[str, str], deadline: Deadline
    ) -> tuple[dict[str, str], bytes]:
        """Headers by lower-case name, and the body."""
        told = {"Content-length": str(mail.size()), **more}
        request = f"{verb} SPAMC/1.5\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items()) + "\r\n"
        with Connection(self.address, deadline, self.connect_timeout) as connection:
            if connection.send(request.encode("ascii")) and connection.send_all(mail.chunks()):
                connection.end_sending()
            return _answer(connection)


def _user(user: str) -> dict[str, str]:
    """Nothing of an address that could be more than one word of a line."""
    return {"User": user} if _USER.fullmatch(user) else {}


def _answer(connection: Connection) -> tuple[dict[str, str], bytes]:
    status = _STATUS.fullmatch(connection.line(MAX_LINE))
    if not status:
        raise BackendTrouble("speaks something else")
    if int(status[1]) != 0:
        raise BackendTrouble(f"answered {_safe(status[2] + status[3])}")
    headers: dict[str, str] = {}
    while line := connection.line(MAX_LINE):
        name, colon, value = line.partition(b":")
        if not colon or len(headers) >= MAX_LINES:
            raise BackendTrouble("sent a header that is none")
        if (key := _safe(name).lower()) in headers:
            raise BackendTrouble(f"sent the header {key} twice")
        headers[key] = _safe(value)
    length = headers.get("content-length")
    if not length:
        return headers, connection.rest(MAX_ANSWER)
    if not (length.isdigit() and int(length) <= MAX_ANSWER):
        raise BackendTrouble("announced an answer of no sensible length")
    return headers, connection.exactly(int(length))


def _safe(octets: bytes) -> str:
    return safe(octets.decode("latin-1"))
