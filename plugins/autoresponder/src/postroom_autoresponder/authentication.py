"""Pure: whether somebody vouches for the address that a reply would go to, so that no stranger gets it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from postroom.mail import Address, AuthenticationResult, to_a_label

PASS = "pass"  # noqa: S105  # a result, no password


@runtime_checkable
class SpfFound(Protocol):
    """The shape of what `spf` leaves on a mail."""

    @property
    def result(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def identity(self) -> str: ...


@runtime_checkable
class DkimFound(Protocol):
    """The shape of what `dk_check` leaves on a mail."""

    @property
    def passed_domains(self) -> Iterable[str]: ...


def is_vouched(
    sender: Address,
    results: Iterable[AuthenticationResult],
    spf: SpfFound | None = None,
    dkim: DkimFound | None = None,
) -> bool:
    """Whether SPF, DKIM or DMARC passed for the domain of the envelope sender. One that passed for somebody else's
    domain says nothing about where the reply goes.
    """
    if any(_vouches(result, sender.domain) for result in results):
        return True
    if spf is not None and spf.result == PASS and spf.identity == "mailfrom" and aligned(spf.domain, sender.domain):
        return True
    return dkim is not None and any(aligned(domain, sender.domain) for domain in dkim.passed_domains)


def _vouches(result: AuthenticationResult, domain: str) -> bool:
    if result.result != PASS:
        return False
    properties = dict(result.properties)
    match result.method:
        case "spf":  # RFC 7208 2.4: HELO is not whom the reply goes to
            return aligned(_domain(properties.get("smtp.mailfrom", "")), domain)
        case "dkim":
            return aligned(_domain(properties.get("header.d") or properties.get("header.i", "")), domain)
        case "dmarc":
            return aligned(_domain(properties.get("header.from", "")), domain)
        case "auth":  # RFC 8601 2.7.4: logged in here
            return True
        case _:
            return False


def _domain(value: str) -> str:
    return to_a_label(value.rpartition("@")[2].strip().strip('"'))


def aligned(one: str, other: str) -> bool:
    """Whether two domains are the same, or one is above the other by at least two labels (RFC 7489 3.1, without a
    list of public suffixes).
    """
    one, other = to_a_label(one), to_a_label(other)
    if not one or not other:
        return False
    if one == other:
        return True
    shorter, longer = sorted((one, other), key=len)
    return "." in shorter and longer.endswith("." + shorter)
