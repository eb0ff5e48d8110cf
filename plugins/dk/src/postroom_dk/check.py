"""The handler `dk_check`: verifies DKIM signatures and the ARC chain, and says what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from postroom.config import Duration, setting
from postroom.hookspecs import HandlerInfo, Need, Placement, Services, hookimpl
from postroom.mail import Message, to_a_label
from postroom.registration import OnError, Stage, Type
from postroom.verdict import Reply, Verdict, deferred, passed, rejected

from postroom_dk.arc import verify_chain
from postroom_dk.mailview import author_domains, without_own_additions
from postroom_dk.results import ArcResult, DkimFinding, SignatureResult, Status, authentication_results
from postroom_dk.verify import KeySource, LengthPolicy, Verification, cached_key_parser


@dataclass(frozen=True)
class CheckSettings:
    reject: tuple[str, ...] = setting(
        (), help="Author domains (and their subdomains) whose mail is refused when their own signature does not verify."
    )
    require: tuple[str, ...] = setting(
        (), help="Author domains (and their subdomains) whose mail is refused without a good signature of their own."
    )
    arc: bool = setting(True, help="Verify the ARC chain too.")
    max_signatures: int = setting(8, help="Signatures of one mail that are verified, from the top.", least=1, most=100)
    body_length: LengthPolicy = setting(
        LengthPolicy.POLICY, help="Result of a good signature that leaves the end of the body open (l=)."
    )
    reserve: Duration = setting(Duration(1), help="Seconds of the deadline kept back from DNS.", least=0, most=60)


class DkCheck:
    """Keeps parsed public keys between mails, and nothing else."""

    def __init__(self) -> None:
        self._parse = cached_key_parser()

    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo(
            summary="Verify DKIM signatures and ARC chains",
            placements=(Placement(Stage.BEFORE_LOCAL, Type.GLOBAL, 5),),
            settings=CheckSettings,
            needs=Need.BODY,
            on_error=OnError.SKIP,
            timeout=Duration(20),
            refuses=True,
            uses_network=True,
        )

    @hookimpl
    def before_queue(self, message: Message, settings: CheckSettings, services: Services) -> Verdict:
        return self._check(message, settings, services)

    @hookimpl
    def before_local(self, message: Message, settings: CheckSettings, services: Services) -> Verdict:
        return self._check(message, settings, services)

    def _check(self, message: Message, settings: CheckSettings, services: Services) -> Verdict:
        finding = self.examine(message, settings, services)
        verdict = policy(finding, settings)
        if verdict is not None:
            return dataclasses.replace(verdict, finding=finding)
        return passed(*authentication_results(finding), reason=summary(finding), finding=finding)

    def examine(self, message: Message, settings: CheckSettings, services: Services) -> DkimFinding:
        """What is to be found on the mail; asks DNS."""
        config = services.config

        def arrived() -> Message:  # only when it is needed: to ask for our own name may ask DNS
            return without_own_additions(message, config.host_name, config.authserv_id)

        keys = KeySource(services.dns, lambda: services.deadline() - settings.reserve, self._parse)
        verification = Verification(
            message, arrived, keys, services.clock.now(), settings.max_signatures, settings.body_length
        )
        signatures = verification.results()
        arc = verify_chain(message, arrived, verification.bodies, keys) if settings.arc else ArcResult()
        return DkimFinding(author_domains(message), signatures, arc)


def policy(finding: DkimFinding, settings: CheckSettings) -> Verdict | None:
    """The refusal that `reject` and `require` ask for, or None; pure."""
    for domain in finding.author_domains:
        required = _covers(settings.require, domain)
        if not required and not _covers(settings.reject, domain):
            continue
        own = [found for found in finding.signatures if found.aligned_with(domain)]
        if any(found.status is Status.PASS for found in own):
            continue
        if any(found.status is Status.TEMPERROR for found in own):
            return deferred(
                f"the DKIM signature of {domain} cannot be verified now: {_reasons(own)}",
                Reply("DKIM signature cannot be verified now - try again later", "7.5"),
            )
        counted = [found for found in own if not found.testing]  # RFC 6376 3.6.1 t=y
        if counted or required:
            why = _reasons(counted) if counted else "it has none"
            return rejected(
                f"no good DKIM signature of {domain}: {why}",
                Reply(f"No valid DKIM signature of the author's domain {domain}", "7.20"),  # RFC 7372 3.1
            )
    return None


def _covers(domains: Iterable[str], author_domain: str) -> bool:
    return any(author_domain == domain or author_domain.endswith("." + domain) for domain in map(to_a_label, domains))


def _reasons(results: Iterable[SignatureResult]) -> str:
    return "; ".join(f"{found.status} ({found.reason})" for found in results)


def summary(finding: DkimFinding) -> str:
    """One line for the log."""
    parts = [
        " ".join(part for part in (f"dkim={found.status}", found.domain, _in_brackets(found)) if part)
        for found in finding.signatures
    ] or ["dkim=none"]
    if finding.arc.status is not Status.NONE:
        parts.append(f"arc={finding.arc.status}" + (f" ({finding.arc.reason})" if finding.arc.reason else ""))
    return ", ".join(parts)


def _in_brackets(found: SignatureResult) -> str:
    words = "; ".join((*([found.reason] if found.reason else []), *found.notes))
    return f"({words})" if words else ""


handler = DkCheck()
