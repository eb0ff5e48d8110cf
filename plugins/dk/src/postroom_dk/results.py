"""What a check finds: one result a signature, one for the ARC chain, and the finding that later handlers read."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from postroom.mail import AuthenticationResult


class Status(enum.StrEnum):
    """RFC 8601 2.7.1, and for ARC RFC 8617 4.4."""

    NONE = "none"  # not signed
    PASS = "pass"  # noqa: S105  # a result, no password  # signed, acceptable, verified
    FAIL = "fail"  # signed, and the verification failed
    POLICY = "policy"  # signed, but in a way that is not accepted here
    NEUTRAL = "neutral"  # signed, but with errors of syntax, or in a way that cannot be processed
    TEMPERROR = "temperror"  # a later attempt may do better: DNS, time
    PERMERROR = "permerror"  # a later attempt is of no use: no key, nothing that has to be there


class Problem(Exception):
    """Why a signature is not good, as a result and one line that names no secret and no path."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class SignatureResult:
    """One DKIM signature. `domain` (d=) is in A-label form; text fields are empty where the signature does not say.

    `testing`: the key says t=y, so a failure shall count as no signature (RFC 6376 3.6.1). `notes`: what a reader of
    the mail might be shown although the signature does not cover it.
    """

    status: Status
    domain: str = ""
    selector: str = ""
    identity: str = ""  # i=, "@d" when not given
    algorithm: str = ""
    signature: str = ""  # b= without blanks
    reason: str = ""
    testing: bool = False
    key_bits: int = 0
    signed_fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def aligned_with(self, author_domain: str) -> bool:
        return aligned(self.domain, author_domain)


@dataclass(frozen=True, slots=True)
class ArcResult:
    """The ARC chain. `oldest_pass` is the lowest instance whose message signature still verifies; 0 = all do."""

    status: Status = Status.NONE
    instances: int = 0
    oldest_pass: int | None = None
    sealers: tuple[str, ...] = ()  # d= of each seal, newest first
    reason: str = ""
    ended: bool = False  # the newest seal says cv=fail: nobody shall seal again


@dataclass(frozen=True)
class DkimFinding:
    """What `dk_check` leaves on a mail; enough to evaluate DMARC (RFC 7489 3.1.1) without looking at the mail again.

    `author_domains` are those of all addresses of all From fields; `author_domain` is the one, empty when there is
    none or more than one.
    """

    author_domains: tuple[str, ...] = ()
    signatures: tuple[SignatureResult, ...] = ()
    arc: ArcResult = field(default_factory=ArcResult)

    @property
    def author_domain(self) -> str:
        return self.author_domains[0] if len(self.author_domains) == 1 else ""

    @property
    def passed_domains(self) -> tuple[str, ...]:
        """d= of each signature that passed."""
        return tuple(dict.fromkeys(found.domain for found in self.signatures if found.status is Status.PASS))

    @property
    def author_passed(self) -> bool:
        """Whether a signature that passed is by the author's domain, in relaxed alignment."""
        return bool(self.author_domain) and any(aligned(passed, self.author_domain) for passed in self.passed_domains)


def aligned(one: str, other: str) -> bool:
    """Whether two domains are the same or one is above the other, by at least two labels.

    Stricter than RFC 7489's organizational domain, which takes a public suffix list: siblings are not aligned.
    """
    if not one or not other:
        return False
    if one == other:
        return True
    shorter, longer = sorted((one, other), key=len)
    return "." in shorter and longer.endswith("." + shorter)


def authentication_results(finding: DkimFinding) -> tuple[AuthenticationResult, ...]:
    """The results for the Authentication-Results field (RFC 8601 2.7.1; RFC 6008 for header.b; RFC 8617 4.1)."""
    results = [
        AuthenticationResult(
            "dkim",
            found.status.value,
            tuple((name, value) for name, value in _properties(found, finding.signatures) if value),
            found.reason,
        )
        for found in finding.signatures
    ]
    arc = finding.arc
    if arc.status is not Status.NONE:
        oldest = () if arc.oldest_pass is None else (("header.oldest-pass", str(arc.oldest_pass)),)
        results.append(AuthenticationResult("arc", arc.status.value, oldest, arc.reason))
    return tuple(results) if finding.signatures else (AuthenticationResult("dkim", Status.NONE.value), *results)


def _properties(found: SignatureResult, others: tuple[SignatureResult, ...]) -> tuple[tuple[str, str], ...]:
    return (
        ("header.d", found.domain),
        ("header.i", found.identity),
        ("header.s", found.selector),
        ("header.a", found.algorithm),
        ("header.b", _telling_prefix(found, others)),
    )


def _telling_prefix(found: SignatureResult, others: tuple[SignatureResult, ...]) -> str:
    """The first eight characters of b=, or as many as tell it from the other signatures (RFC 6008 4)."""
    length = 8
    rest = [other.signature for other in others if other is not found and other.signature != found.signature]
    while length < len(found.signature) and any(other[:length] == found.signature[:length] for other in rest):
        length += 1
    return found.signature[:length]
