"""What a mail makes us ask: which names, in which order, for how long, and whom never to refuse."""

from __future__ import annotations

from postroom.hookspecs import Services
from postroom.mail import Envelope, to_a_label

from postroom_spf.evaluation import Lookups, Question
from postroom_spf.received import IpAddress
from postroom_spf.result import Identity
from postroom_spf.settings import HeloCheck, SpfSettings
from postroom_spf.text import safe

ANSWER_TIME = 0.25  # seconds, or a tenth of what is left, kept for answering: a check cut short is our own temperror
POSTMASTER = "postmaster"  # RFC 7208 4.3: in place of an empty local part
MAX_STEP = 2000  # characters of one step in the log


def questions(envelope: Envelope, client: IpAddress, helo: str, settings: SpfSettings, receiver: str) -> list[Question]:
    """What to check, in order; at least one."""
    helo_domain = to_a_label(helo.strip())
    asked = []
    if not envelope.sender or settings.check_helo is HeloCheck.ALWAYS:  # RFC 7208 2.4: postmaster@helo
        asked.append(Question(client, Identity.HELO, helo_domain, POSTMASTER, helo, receiver))
    if envelope.sender:
        sender = envelope.sender
        asked.append(
            Question(client, Identity.MAIL_FROM, sender.domain, sender.local_part or POSTMASTER, helo, receiver)
        )
    return asked


def lookups_for(settings: SpfSettings, services: Services, *, debug: bool) -> Lookups:
    left = services.deadline()
    left = max(left / 2, left - max(ANSWER_TIME, left / 10))
    ends_at = services.clock.monotonic() + min(float(settings.time_limit), left)
    if not debug:
        return Lookups(services.dns, services.clock, ends_at, settings.void_lookups)

    def note(step: str) -> None:
        services.log.info("spf step", step=safe(step, MAX_STEP))

    return Lookups(services.dns, services.clock, ends_at, settings.void_lookups, note)


def is_allowed(question: Question, settings: SpfSettings) -> bool:
    if any(question.client in network for network in settings.allow_clients):
        return True
    for listed in settings.allow_domains:
        domain = to_a_label(listed.removeprefix("."))
        below = listed.startswith(".") and question.domain.endswith("." + domain)
        if domain and (question.domain == domain or below):
            return True
    return False
