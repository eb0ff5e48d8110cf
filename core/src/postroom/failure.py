"""What a handler's failure is called, so that log lines, counters and tests use the same words."""

from __future__ import annotations

import enum


class FailureKind(enum.StrEnum):
    EXCEPTION = "exception"  # the hook raised
    UNAVAILABLE = "unavailable"  # what the handler needs (DNS, a store, a scanner) is out of use for now
    TIMEOUT = "timeout"  # the deadline passed
    STARVED = "starved"  # there was no time or no thread left to make the call
    ABSENT = "absent"  # no such plugin, or a program that is not there
    SETTINGS = "settings"  # the context or the table does not fit the handler
    ANSWER = "answer"  # what came back is no verdict
    LIMIT = "limit"  # the mail is more than the handler can be told
    DECLINED = "declined"  # all that the handler needs is well, and gave up on this one mail
    BREAKER = "breaker"  # failed too often just now and is left alone for a while
    SIGNAL = "signal"  # a program was ended by a signal


class HandlerFailed(Exception):
    """A call that came to nothing; the registration's `on_error` says what the mail gets."""

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
