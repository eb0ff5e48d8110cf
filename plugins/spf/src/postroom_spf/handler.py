"""The handler: whose domain, which client, what it comes to. Imports pyspf (135 ms) only where mail is checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from postroom.config import Duration
from postroom.hookspecs import Diagnosis, HandlerInfo, Need, Placement, Services, hookimpl
from postroom.mail import Edit, Envelope, Message, TrafficClass
from postroom.registration import OnError, Stage, Type
from postroom.verdict import Action, Verdict, deferred, passed, rejected, skipped

from postroom_spf.received import Hop, IpAddress, Origin, find_stranger, without_mapping
from postroom_spf.result import SpfFinding
from postroom_spf.settings import Authenticated, SpfSettings
from postroom_spf.text import safe

if TYPE_CHECKING:
    import click

    from postroom_spf.check import Checked

TIMEOUT = 22.0  # seconds for a call: the standard's 20 for the check, and time to answer


@dataclass(frozen=True, slots=True)
class _Client:
    """The client that counts, and its HELO; `relayed` when it is not this session's own."""

    address: IpAddress
    helo: str
    relayed: bool


class SpfHandler:
    """Entry point `spf`."""

    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo(
            summary="Checks whether the client may send for the sender's domain (SPF, RFC 7208).",
            placements=(Placement(Stage.BEFORE_QUEUE, Type.GLOBAL, 10),),
            settings=SpfSettings,
            needs=Need.HEADERS,  # Received, where the client is a gateway of our own
            on_error=OnError.SKIP,  # DNS trouble is no error here but `temperror`, on which the level decides
            exempt=frozenset({TrafficClass.AUTHENTICATED, TrafficClass.LOCAL}),
            timeout=Duration(TIMEOUT),
            edits_message=True,
            refuses=True,
            uses_network=True,
        )

    @hookimpl
    def start(self, services: Services) -> None:
        """Import and find out now what the first mail would have to wait for."""
        import postroom_spf.check
        import postroom_spf.header
        import postroom_spf.inquiry
        import postroom_spf.policy  # noqa: F401  # for their effect on sys.modules

        _ = services.config.host_name  # may ask the system's resolver, once

    @hookimpl
    def before_data(self, envelope: Envelope, settings: SpfSettings, services: Services) -> Verdict:
        """Where it is registered here, too: an answer before the mail comes, and a finding for `grey`.

        No header field can be written yet, and what stands in Received is not known: a mail from one of our own
        gateways is left to before-queue.
        """
        if envelope.session.client_address is None or envelope.traffic is TrafficClass.AUTHENTICATED:
            return skipped("no SMTP client of whom a domain could say anything")
        client = _client_that_counts(envelope, Message(), settings, services)
        if not isinstance(client, _Client):
            return skipped("from our own gateway: before-queue can see more")
        verdict = _check(envelope, client, settings, services)
        return skipped(verdict.reason, finding=verdict.finding) if verdict.action is Action.PASS else verdict

    @hookimpl
    def before_queue(self, envelope: Envelope, message: Message, settings: SpfSettings, services: Services) -> Verdict:
        from postroom_spf.header import for_authenticated, for_unknown_client

        receiver, session = services.config.host_name, envelope.session
        if session.client_address is None:
            return skipped("no SMTP client: submitted on this host")
        if envelope.traffic is TrafficClass.AUTHENTICATED and settings.authenticated is Authenticated.HEADER:
            field = for_authenticated(receiver, str(session.client_address), envelope.sender.text)
            return passed(field, reason="connection is authenticated")
        client = _client_that_counts(envelope, message, settings, services)
        match client:
            case _Client():
                return _check(envelope, client, settings, services)
            case Origin.OWN:
                why = "began at our own gateway"
            case Origin.UNREADABLE:
                why = "client before our own gateway is unknown"
                services.log.warning("unreadable Received", client=str(session.client_address))
            case never:
                assert_never(never)
        return passed(for_unknown_client(receiver, envelope.sender.text, why), reason=why)

    @hookimpl
    def commands(self) -> click.Command:
        from postroom_spf.commands import spf

        return spf

    @hookimpl
    def diagnose(self, settings: SpfSettings, services: Services) -> Iterable[Diagnosis]:
        from postroom_spf.diagnosis import diagnose

        return diagnose(settings, services)


def _client_that_counts(
    envelope: Envelope, message: Message, settings: SpfSettings, services: Services
) -> _Client | Origin:
    """The client of this session, or, when that is one of our gateways, the first one outside."""
    assert envelope.session.client_address is not None
    address = without_mapping(envelope.session.client_address)
    relays = (*services.config.host.relays, *settings.trusted_relays)

    def is_ours(candidate: IpAddress) -> bool:
        return any(candidate in relay for relay in relays)

    if not is_ours(address):
        return _Client(address, envelope.session.helo, relayed=False)
    found = find_stranger((field.text for field in message.get_all(b"Received")), is_ours)
    return _Client(found.client, found.helo, relayed=True) if isinstance(found, Hop) else found


def _check(envelope: Envelope, client: _Client, settings: SpfSettings, services: Services) -> Verdict:
    from postroom_spf.check import check_in_order
    from postroom_spf.header import authentication_result, received_spf
    from postroom_spf.inquiry import lookups_for, questions

    lookups = lookups_for(settings, services, debug=settings.debug)
    asked = questions(envelope, client.address, client.helo, settings, services.config.host_name)
    done = check_in_order(asked, settings, lookups)
    edits: list[Edit] = []
    for checked in done:
        edits += [received_spf(checked, client.relayed), authentication_result(checked)]
    return _verdict(done[-1], edits, settings)


def _verdict(checked: Checked, edits: list[Edit], settings: SpfSettings) -> Verdict:
    from postroom_spf.inquiry import is_allowed
    from postroom_spf.policy import decide, reply

    question = checked.question
    finding = SpfFinding(checked.result, question.domain, question.identity, checked.explanation)
    reason = safe(f"{checked.result} for {question.identity} {question.domain} from {question.client}")
    if checked.evaluation.problem:
        reason += f": {safe(checked.evaluation.problem)}"
    allowed = is_allowed(question, settings)
    action = Action.PASS if allowed else decide(settings.level, checked.result)
    match action:
        case Action.DEFER:
            return deferred(reason, reply(checked), finding=finding)
        case Action.REJECT:
            return rejected(reason, reply(checked), finding=finding)
        case _:
            would_refuse = decide(settings.level, checked.result) is not Action.PASS
            return passed(*edits, reason=f"{reason}; never refused" if would_refuse else reason, finding=finding)


handler = SpfHandler()
