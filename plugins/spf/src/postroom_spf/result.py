"""What an SPF check comes to."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class SpfResult(enum.StrEnum):
    """RFC 7208 2.6."""

    NONE = "none"  # no record, or nothing that could have one
    NEUTRAL = "neutral"  # the domain says nothing about this client
    PASS = "pass"  # noqa: S105  # a result, no password  # the client may send for the domain
    FAIL = "fail"  # it may not
    SOFTFAIL = "softfail"  # it probably may not
    TEMPERROR = "temperror"  # DNS trouble: another time it may be known
    PERMERROR = "permerror"  # the record can't be understood


class Identity(enum.StrEnum):
    """Whose domain was asked for its record (RFC 7208 2.3, 2.4)."""

    MAIL_FROM = "mailfrom"
    HELO = "helo"


@dataclass(frozen=True, slots=True)
class SpfFinding:
    """What `spf` leaves on a mail. `explanation` says why, in safe ASCII, when the result is `fail`; else it is ""."""

    result: SpfResult
    domain: str
    identity: Identity
    explanation: str = ""


_PERMISSIVE_ORDER = (
    SpfResult.PASS,
    SpfResult.NEUTRAL,
    SpfResult.SOFTFAIL,
    SpfResult.TEMPERROR,  # waiting costs an innocent mail less than a refusal does
    SpfResult.FAIL,
    SpfResult.PERMERROR,  # an error in rules of our own tells nothing about the mail
    SpfResult.NONE,
)


def permissiveness(result: SpfResult) -> int:
    """A sort key: of several results, the one with the smallest holds."""
    return _PERMISSIVE_ORDER.index(result)
