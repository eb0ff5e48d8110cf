"""rspamd over HTTP: /checkv2 of its scanner, /learnspam and /learnham of its controller."""

from __future__ import annotations

import http.client
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from postroom.backends.connection import Connection
from postroom.backends.deadline import Deadline
from postroom.backends.octets import FixedOctets, Octets
from postroom.backends.trouble import BackendTrouble, safe
from postroom.config import SocketAddress

from postroom_spam.engine import (
    MAX_REPORT,
    MAX_SYMBOLS,
    PROBE,
    Health,
    Lesson,
    Question,
    Report,
)

MAX_ANSWER = 4 << 20  # octets of JSON
REJECT = "reject"
ENDS = (REJECT, "discard", "quarantine")  # actions that rspamd takes above a threshold, or by a rule without a score
MARKS = ("add header", "rewrite subject", *ENDS)  # rspamd's actions for what it takes for spam
LATER = "soft reject"  # by a rule without a score, by greylisting, or when its task_timeout is over

_SYMBOL = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LEARNT_ALREADY = 208  # HTTP status, RFC 5842 7.1


@dataclass(frozen=True, slots=True)
class Rspamd:
    """Implements engine.Engine."""

    address: SocketAddress
    controller: SocketAddress
    password: str = ""
    connect_timeout: float = 5.0

    def check(self, mail: Octets, question: Question, deadline: Deadline) -> Report:
        answer = self._json(self.address, "POST", "/checkv2", deadline, mail, _facts(question))
        return read_report(answer, with_text=question.with_report)

    def learn(self, mail: Octets, lesson: Lesson, user: str, deadline: Deadline) -> bool:
        told = {"Deliver-To": user} if user else {}
        status, answer = self._request(self.controller, "POST", f"/learn{lesson}", deadline, mail, told)
        if status == _LEARNT_ALREADY:
            return False
        if status == http.client.NO_CONTENT:
            raise BackendTrouble("would not learn it: too short, or its classifier's conditions deny it")
        if status != http.client.OK:
            raise BackendTrouble(f"answered {status} to the lesson{_told(answer)}")
        return True

    def health(self, deadline: Deadline) -> Health:
        report = self._json(self.address, "POST", "/checkv2", deadline, FixedOctets(PROBE), {})
        problems = []
        if report.get("action") != REJECT or "GTUBE" not in (report.get("symbols") or {}):
            problems.append("it does not refuse the test mail for spam: are its rules there? see rspamadm configtest")
        try:
            told = self._json(self.controller, "GET", "/stat", deadline)
            groups = self._json(self.controller, "GET", "/symbols", deadline)
            symbols = sum(len(group.get("rules") or ()) for group in groups if isinstance(group, dict))
        except BackendTrouble as trouble:
            return Health("rspamd", (f"its controller at {self.controller}: {trouble}",), tuple(problems))
        if symbols < 10:
            problems.append("it has hardly any rules: see rspamadm configtest")
        facts = (f"{symbols} rules loaded", f"{told.get('learned', 0)} mails learnt")
        return Health(f"rspamd {told.get('version', '')}".strip(), facts, tuple(problems))

    def _json(
        self,
        address: SocketAddress,
        verb: str,
        path: str,
        deadline: Deadline,
        mail: Octets | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        status, body = self._request(address, verb, path, deadline, mail, headers or {})
        if status != http.client.OK:
            raise BackendTrouble(f"answered {status} to {path}{_told(body)}")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):  # the second of what is nested deeper than any report
            raise BackendTrouble(f"answered no JSON to {path}") from None
        if path != "/symbols" and not isinstance(answer, dict):
            raise BackendTrouble(f"answered something else to {path}")
        return answer

    def _request(
        self,
        address: SocketAddress,
        verb: str,
        path: str,
        deadline: Deadline,
        mail: Octets | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        if self.password:
            headers = {**headers, "Password": self.password}
        if mail is not None:
            headers = {**headers, "Content-Length": str(mail.size())}
        with Connection(address, deadline, self.connect_timeout) as connection:
            exchange = _Exchange(address, connection)
            exchange.putrequest(verb, path, skip_accept_encoding=True)
            for name, value in headers.items():
                exchange.putheader(name, _CONTROL.sub("", value).encode("utf-8", "surrogateescape"))
            exchange.endheaders()
            if mail is not None:
                connection.send_all(mail.chunks())
            return _answer(exchange, connection)


class _Exchange(http.client.HTTPConnection):
    """One request over a connection that is open; environment variables for proxies mean nothing to http.client."""

    def __init__(self, address: SocketAddress, connection: Connection) -> None:
        host = f"[{address.host}]" if address.family == "inet6" else address.host or "localhost"
        super().__init__(host, address.port or None)
        self.sock = cast(Any, _Socket(connection))


class _Socket:
    """As much of a socket as http.client wants."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sendall(self, octets: bytes) -> None:
        self._connection.send(octets)  # where it has hung up: it may have answered before

    def makefile(self, mode: str = "rb") -> io.BufferedReader:  # noqa: ARG002  # http.client asks for "rb" alone
        return io.BufferedReader(_Reader(self._connection))

    def close(self) -> None:
        """Later: http.client closes it before it has read the answer."""


class _Reader(io.RawIOBase):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed wants Buffer
        octets = self._connection.some(len(buffer))
        buffer[: len(octets)] = octets
        return len(octets)


def _answer(exchange: http.client.HTTPConnection, connection: Connection) -> tuple[int, bytes]:
    try:
        response = exchange.getresponse()
        body = response.read(MAX_ANSWER + 1)
    except (http.client.HTTPException, ConnectionError, ValueError) as error:
        if connection.ended:
            raise connection.closed() from None
        raise BackendTrouble(f"gave no valid answer ({type(error).__name__})") from None
    if len(body) > MAX_ANSWER:
        raise BackendTrouble("sent an answer that does not end")
    is_cut = response.length is None and not response.chunked and not body  # http.client takes a header's end for whole
    if response.length or is_cut:  # what Content-Length promised and did not come
        raise connection.closed()
    return response.status, body


def _facts(question: Question) -> dict[str, str]:
    """What rspamd asks a mail server for; what is not known is left out."""
    envelope = question.envelope
    session = envelope.session
    facts = {
        "From": envelope.sender.text,
        "Rcpt": question.recipient.text,
        "Deliver-To": question.user,
        "IP": str(session.client_address or ""),
        "Helo": session.helo,
        "Hostname": session.client_name if session.has_client_name else "",
        "User": session.auth_user,
        "Queue-Id": envelope.queue_id,
    }
    return {name: value for name, value in facts.items() if value}


def read_report(answer: Mapping[str, Any], *, with_text: bool = False) -> Report:
    """What /checkv2 said; BackendTrouble when it is no report."""
    action = answer.get("action")
    try:
        score, required = float(answer["score"]), float(answer["required_score"])
        symbols = {str(name): found for name, found in (answer.get("symbols") or {}).items() if _SYMBOL.fullmatch(name)}
        lines = [(float(found.get("score") or 0), name, found) for name, found in symbols.items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BackendTrouble("gave no score") from None
    if not (math.isfinite(score) and math.isfinite(required)):
        raise BackendTrouble("gave no score")
    if not isinstance(action, str):
        raise BackendTrouble("gave no action")
    if action in ENDS:  # some rules refuse without a score
        score = max(score, required)
    lines.sort(key=lambda line: (-abs(line[0]), line[1]))
    text = "\n".join(f"{points:6.2f} {name} {found.get('description') or ''}".rstrip() for points, name, found in lines)
    kept = tuple(name for _, name, _ in lines[:MAX_SYMBOLS])
    is_spam = action in MARKS
    # "skipped" of spam: a rule came before all others.
    skipped = "skipped by rspamd's settings" if answer.get("is_skipped") and not is_spam else ""
    return Report(
        score, required, is_spam, kept, text[:MAX_REPORT] if with_text else "", _unfinished(answer, kept), skipped
    )


def _unfinished(answer: Mapping[str, Any], symbols: tuple[str, ...]) -> str:
    """Why it has no judgement yet. Its greylisting asks for patience, too, when all rules were tried: those count."""
    if answer["action"] != LATER:
        return ""
    told = answer.get("messages")
    text = str(told.get("smtp_message", "")) if isinstance(told, dict) else ""
    if symbols and "timeout" not in text:  # rspamd's words with soft_reject_on_timeout: "timeout processing message"
        return ""
    return f"wants to be asked later{_words(text)}"


def _told(body: bytes) -> str:
    """The server's own words, when there are some: `: text`."""
    try:
        error = json.loads(body).get("error", "")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return _words(str(error))


def _words(text: str) -> str:
    return f": {safe(text)}" if text else ""
