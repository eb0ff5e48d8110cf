"""Scanners behind ICAP: Dr.Web ICAPD, Kaspersky Scan Engine (kavicapd), c-icap with virus_scan.

The fields by which they tell what they found come from draft-stecher-icap-subid-00 and the vendors' manuals;
docs/handlers/antivirus.md names them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import assert_never

from postroom.backends.connection import Connection
from postroom.backends.deadline import Deadline
from postroom.backends.octets import Octets
from postroom.backends.trouble import BackendTrouble, safe
from postroom.config import SocketAddress

from postroom_antivirus.engine import Health, ScanResult, Status
from postroom_antivirus.icap import OK, UNMODIFIED, Answer, Head, options, respmod

CONTAINER_VIOLATION = "2"  # X-Infection-Found Type, draft-stecher-icap-subid-00 3.11: encrypted, nested too deeply …
LONGER_THAN_ALLOWED = 413  # RFC 9110 15.5.14
MAX_SIGNATURES = 10
_PARAMETER = re.compile(r"\s*(Type|Resolution|Threat)\s*=\s*([^;]*);?", re.IGNORECASE)
_NOTHING = frozenset({"", "0", "no", "none", "no threats"})  # what some servers put where a name would be


class Violations(enum.Enum):
    """What X-Violations-Found means when it stands alone."""

    THREATS = "threats"  # a list of what was found
    SCAN_ERRORS = "scan errors"  # Dr.Web: what went wrong while scanning


class IcapEngine:
    """One server and service."""

    def __init__(
        self,
        address: SocketAddress,
        connect_timeout: float,
        service: str,
        preview: int,
        violations: Violations,
        option_fields: Mapping[str, str],
    ) -> None:
        self.address, self._connect_timeout = address, connect_timeout
        self._service, self._preview = service, preview
        self._violations, self._option_fields = violations, option_fields

    def scan(self, mail: Octets, deadline: Deadline) -> ScanResult:
        with Connection(self.address, deadline, self._connect_timeout) as connection:
            answer = respmod(connection, self.address, self._service, mail, self._preview)
        return judge(answer, self._violations, self._service, str(self.address))

    def health(self, deadline: Deadline, max_size: int) -> Health:  # noqa: ARG002  # ICAP has no word for its limit
        with Connection(self.address, deadline, self._connect_timeout) as connection:
            head = options(connection, self.address, self._service, self._option_fields)
        if head.code != OK:
            raise BackendTrouble(_refusal(head, self._service))
        problems = []
        if "RESPMOD" not in head.fields.get("methods", "").upper():
            problems.append(f"the service {self._service!r} does not do RESPMOD: set `service`")
        if "204" not in head.fields.get("allow", ""):
            problems.append("does not allow 204: each clean mail comes back whole, which takes time")
        facts = [f"{name}: {value}" for name, value in head.fields.items() if name.startswith(("istag", "x-", "drweb"))]
        version = head.fields.get("service") or head.fields.get("server") or "unknown version"
        return Health(safe(version), None, tuple(safe(fact) for fact in facts), tuple(problems))


def judge(answer: Answer, violations: Violations, service: str, server: str) -> ScanResult:
    """What an answer says of the mail; BackendTrouble when the server is no use."""
    head = answer.head
    if 200 <= head.code < 300 and (found := _found(head.fields, violations, server)):
        return found
    if head.code == UNMODIFIED:
        if answer.early:
            return ScanResult(Status.TOO_LARGE, detail="let it pass before it had all of it", server=server)
        return ScanResult(Status.CLEAN, server=server)
    if head.code == LONGER_THAN_ALLOWED:
        return ScanResult(Status.TOO_LARGE, detail="longer than it takes (413)", server=server)
    if head.code != OK:
        raise BackendTrouble(_refusal(head, service))
    if answer.unchanged:
        return ScanResult(Status.CLEAN, server=server)
    detail = (
        "began to send the mail back before it had all of it: turn off its early answers (partial mode, trickling)"
        if answer.early
        else "blocked or changed the mail and does not say why: turn on its field X-Infection-Found or X-Virus-ID"
    )
    return ScanResult(Status.ERROR, detail=detail, server=server)


def _found(fields: Mapping[str, str], violations: Violations, server: str) -> ScanResult | None:
    infection = [_parameters(each) for each in fields.get("x-infection-found", "").splitlines()]
    infection = [each for each in infection if each]
    # Kaspersky puts a type of threat into Threat and the name into X-Virus-ID; the others put the name into both.
    named = [*fields.get("x-virus-id", "").splitlines(), *(each.get("threat", "") for each in infection)]
    names = [name for name in (safe(each) for each in named) if name.lower() not in _NOTHING]
    if infection or names:
        unscannable = bool(infection) and all(each.get("type") == CONTAINER_VIOLATION for each in infection)
        unique = tuple(dict.fromkeys(names))[:MAX_SIGNATURES] or ("unnamed",)
        return ScanResult(Status.FOUND, unique, server=server, unscannable=unscannable)
    listed = fields.get("x-violations-found", "").splitlines()
    if not listed or listed[0].strip() == "0":
        return None
    match violations:
        case Violations.SCAN_ERRORS:
            return ScanResult(Status.ERROR, detail=safe(" ".join(listed)), server=server)
        case Violations.THREATS:  # a count, then four lines each: file, threat, problem, resolution
            threats = tuple(safe(line) for line in listed[2::4])[:MAX_SIGNATURES]
            return ScanResult(Status.FOUND, threats or ("unnamed",), server=server)
        case never:
            assert_never(never)


def _parameters(infection: str) -> dict[str, str]:
    """Those of one X-Infection-Found; what is in no form that we know is a name all the same."""
    found = {name.lower(): value.strip() for name, value in _PARAMETER.findall(infection)}
    return found or ({} if infection.strip().lower() in _NOTHING else {"threat": infection})


def _refusal(head: Head, service: str) -> str:
    if head.code == 404:  # RFC 3507 4.3.3
        return f"has no service {service!r}: set `service`"
    return f"answered {head.code} {head.phrase}".rstrip()
