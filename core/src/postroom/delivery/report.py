"""The answer for one recipient: reply code, enhanced status code and text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from postroom.verdict import DEFER_REPLY, REJECT_REPLY, Action, Disposition

MAX_REPLY_TEXT = 400  # octets of one line; RFC 5321 4.5.3.1.5 allows 512 with codes and CRLF
MAX_REPLY_LINES = 32

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s+|$)")  # RFC 3463 2
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one recipient. `code` has three digits; `text` may have several lines, separated by LF."""

    code: str
    enhanced: str
    text: str

    @property
    def done(self) -> bool:
        return self.code.startswith("2")

    @property
    def temporary(self) -> bool:
        return self.code.startswith("4")

    def line(self) -> str:
        """All on one line, for logs."""
        return f"{self.code} {self.enhanced} {_CONTROL.sub(' ', self.text)}"

    def wire(self) -> bytes:
        """As a reply of SMTP or LMTP (RFC 5321 4.2.1, RFC 2034)."""
        lines = [line for line in self.text.splitlines() if line.strip()][:MAX_REPLY_LINES] or [""]
        last = len(lines) - 1
        return b"".join(
            f"{self.code}{' ' if at == last else '-'}{self.enhanced} ".encode("ascii") + _clean(line) + b"\r\n"
            for at, line in enumerate(lines)
        )


def _clean(line: str) -> bytes:
    octets = _CONTROL.sub(" ", line).encode("utf-8", "replace")
    return octets[:MAX_REPLY_TEXT].decode("utf-8", "ignore").encode()


DELIVERED = Report("250", "2.0.0", "Delivered")
UNAVAILABLE = Report("451", "4.3.0", "Service unavailable - try again later")


def no_such_user() -> Report:
    return Report("550", "5.1.1", "User unknown")


def disabled() -> Report:
    return Report("550", "5.2.1", "Mailbox disabled")  # RFC 3463 3.3


def bad_mailbox_name() -> Report:
    return Report("553", "5.1.3", "Mailbox name not allowed")  # RFC 5321 4.2.3


def loop(recipient: str) -> Report:
    return Report("550", "5.4.6", f"Mail forwarding loop for {recipient}")


def from_disposition(what: Disposition) -> Report:
    """The answer for a recipient whom a handler deferred or rejected."""
    default = DEFER_REPLY if what.action is Action.DEFER else REJECT_REPLY
    reply = what.reply or default
    return Report(reply.code(what.action), reply.enhanced(what.action), "\n".join(reply.lines()))


def from_reply(code: int, text: str) -> Report:
    """What a server behind us answered, its own enhanced code kept where it agrees with the reply code."""
    if not 200 <= code <= 599 or 300 <= code <= 399:
        return Report("451", "4.3.0", "The server behind this one gave no valid answer")
    kind = str(code)[0]
    lines = []
    enhanced = ""
    for line in text.splitlines():
        found = _ENHANCED.match(line)
        if found:
            enhanced = enhanced or (found[0].strip() if found[1] == kind else "")
            line = line[found.end() :]
        lines.append(line)
    return Report(str(code), enhanced or f"{kind}.0.0", "\n".join(lines))


def leading_status(text: str) -> tuple[str, str] | None:
    """(enhanced code, rest) when a program's output begins with one, as Postfix' pipe(8) takes it."""
    found = _ENHANCED.match(text)
    return (found[0].strip(), text[found.end() :]) if found else None
