"""The Received-SPF field (RFC 7208 9.1) and the result for Authentication-Results (RFC 8601 2.7.2)."""

from __future__ import annotations

import re
from typing import assert_never

from postroom.mail import AuthenticationResult, InsertField

from postroom_spf.check import Checked, Source
from postroom_spf.result import Identity, SpfResult
from postroom_spf.text import safe

NAME = b"Received-SPF"
MAX_LINE = 78  # RFC 5322 2.1.1
MAX_VALUE = 320  # characters of one value

_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def received_spf(checked: Checked, relayed: bool) -> InsertField:
    """`relayed`: the client is not this session's but the one before our own gateways."""
    question = checked.question
    pairs = [
        ("client-ip", str(question.client)),
        ("envelope-from", question.sender if question.identity is Identity.MAIL_FROM else ""),
        ("helo", question.helo),
        ("identity", str(question.identity)),
        ("receiver", question.receiver),
        ("mechanism", _mechanism(checked)),
        ("problem", checked.evaluation.problem),
    ]
    comment = f"{question.receiver}: {_comment(checked)}{', before our own gateways' if relayed else ''}"
    return _field(str(checked.result), comment, pairs)


def for_authenticated(receiver: str, client: str, sender: str) -> InsertField:
    """The reference's way: a client that logged in passes, and the field says why."""
    pairs = [("client-ip", client), ("envelope-from", sender), ("receiver", receiver)]
    return _field(str(SpfResult.PASS), f"{receiver}: connection is authenticated", pairs)


def for_unknown_client(receiver: str, sender: str, why: str) -> InsertField:
    """No client could be checked: the mail began at a gateway of our own, or nobody can tell where."""
    return _field(str(SpfResult.NONE), f"{receiver}: {why}", [("envelope-from", sender), ("receiver", receiver)])


def authentication_result(checked: Checked) -> AuthenticationResult:
    question = checked.question
    match question.identity:
        case Identity.MAIL_FROM:
            proven = ("smtp.mailfrom", safe(question.sender, MAX_VALUE))
        case Identity.HELO:
            proven = ("smtp.helo", safe(question.helo, MAX_VALUE))
        case never:
            assert_never(never)
    return AuthenticationResult("spf", str(checked.result), (proven,))


def _mechanism(checked: Checked) -> str:
    if checked.result is SpfResult.NEUTRAL and not checked.evaluation.mechanism:
        return "default"  # RFC 7208 9.1: none matched
    return checked.evaluation.mechanism


def _comment(checked: Checked) -> str:
    domain, client = checked.question.domain or "the sender", str(checked.question.client)
    by = f", by {checked.source}" if checked.source in (Source.GUESS, Source.LOCAL_RULES) else ""
    match checked.result:
        case SpfResult.PASS:
            return f"domain of {domain} designates {client} as permitted sender{by}"
        case SpfResult.FAIL:
            return f"domain of {domain} does not designate {client} as permitted sender{by}"
        case SpfResult.SOFTFAIL:
            return f"domain of {domain} discourages {client} as sender{by}"
        case SpfResult.NEUTRAL:
            return f"{client} is neither permitted nor denied by domain of {domain}{by}"
        case SpfResult.NONE:
            return f"domain of {domain} publishes no SPF record"
        case SpfResult.TEMPERROR:
            return f"DNS trouble while checking domain of {domain}"
        case SpfResult.PERMERROR:
            return f"SPF record of {domain} can not be understood"
        case never:
            assert_never(never)


def _field(result: str, comment: str, pairs: list[tuple[str, str]]) -> InsertField:
    parts = [result, *f"({_escaped(safe(comment, MAX_VALUE), '()')})".split()]
    parts += [f"{key}={_quoted(safe(value, MAX_VALUE))};" for key, value in pairs if value]
    lines, current = [], f"{NAME.decode()}:"
    for part in parts:
        if len(current) + 1 + len(part) > MAX_LINE and current.strip():
            lines.append(current)
            current = ""
        current = f"{current} {part}"
    value = "\r\n".join([*lines, current]).removeprefix(f"{NAME.decode()}:")
    return InsertField(NAME, value.encode("ascii"))


def _quoted(value: str) -> str:
    return value if _DOT_ATOM.fullmatch(value) else '"' + _escaped(value, '"') + '"'


def _escaped(text: str, also: str) -> str:
    """As a quoted-pair (RFC 5322 3.2.1)."""
    return "".join("\\" + character if character in "\\" + also else character for character in text)
