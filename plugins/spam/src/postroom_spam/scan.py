"""One mail's way through the filter: lists, then an engine unless it is too large, then one verdict."""

from __future__ import annotations

from typing import assert_never

from postroom.backends.deadline import Deadline
from postroom.backends.failover import Failover
from postroom.backends.trouble import BackendDeclined
from postroom.hookspecs import Services
from postroom.lists.backends import open_policies
from postroom.lists.scopes import scopes_of
from postroom.lists.senders import Listing, find_listing
from postroom.lists.store import read_lists
from postroom.mail import Address, Envelope, Message
from postroom.verdict import Verdict

from postroom_spam.engine import Engine, Question, Report
from postroom_spam.engines import ask
from postroom_spam.policy import decide, judge
from postroom_spam.settings import SpamSettings, UserName


def examine(
    envelope: Envelope,
    message: Message,
    settings: SpamSettings,
    services: Services,
    deadline: Deadline,
    failover: Failover,
) -> Verdict:
    """NoAnswer when nobody answers: what that means is the registration's to say."""
    recipient = envelope.recipients[0]  # before-local: there is one
    delimiter = services.config.host.recipient_delimiter
    listing = find(envelope, recipient, services) if settings.lists else None
    scanned: Report | None = None
    if message.size() <= settings.max_size:
        question = Question(envelope, recipient, user_of(recipient, settings.user, delimiter), settings.report)

        def check(engine: Engine, share: Deadline) -> Report:
            report = engine.check(message, question, share)
            if report.unfinished and not judge(report, listing, settings).is_spam:
                raise BackendDeclined(report.unfinished)
            return report

        scanned = ask(settings, check, deadline, failover, services)
    finding = judge(scanned, listing, settings)
    return decide(finding, scanned.text if scanned else "", listing, message, settings)


def find(envelope: Envelope, recipient: Address, services: Services) -> Listing | None:
    scopes = scopes_of(recipient, services.config.host.recipient_delimiter)
    return find_listing(envelope, scopes, read_lists(open_policies(services.state), scopes))


def user_of(recipient: Address, name: UserName, delimiter: str) -> str:
    address = recipient.without_tag(delimiter)
    match name:
        case UserName.ADDRESS:
            return address
        case UserName.LOCAL:
            return address.rpartition("@")[0] or address
        case UserName.NONE:
            return ""
        case _:
            assert_never(name)
