"""For `postroom doctor`: do the nameservers answer, and do the settings fit together?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from postroom.hookspecs import Diagnosis, FindingLevel, LookupFailed, Services
from postroom.registration import OnError

from postroom_spf.settings import Level, SpfSettings

SUBJECT = "spf"
PROBE = ("example.com", "TXT")
"""A name that is reserved for examples (RFC 2606 3) and publishes an SPF record."""
SLOW = 1.0
"""Seconds; a check may take ten look-ups."""


def diagnose(settings: SpfSettings, services: Services) -> Iterator[Diagnosis]:
    yield _nameservers(services)
    yield from _odds(settings, services)


def _nameservers(services: Services) -> Diagnosis:
    of = ", ".join(services.config.dns.nameservers) or "/etc/resolv.conf"
    begun = time.perf_counter()
    try:
        services.dns.lookup(*PROBE, services.deadline())
    except LookupFailed:
        return Diagnosis(
            FindingLevel.ERROR,
            SUBJECT,
            f"the nameservers ({of}) do not answer: every check ends in temperror",
            "set [dns] nameservers to a resolver that answers this host",
        )
    seconds = time.perf_counter() - begun
    if seconds > SLOW:
        return Diagnosis(
            FindingLevel.WARNING,
            SUBJECT,
            f"the nameservers ({of}) took {seconds:.1f} s for one answer, and a check may need ten",
            "set [dns] nameservers to a caching resolver near by",
        )
    return Diagnosis(FindingLevel.OK, SUBJECT, f"the nameservers ({of}) answer in {seconds * 1000:.0f} ms")


def _odds(settings: SpfSettings, services: Services) -> Iterator[Diagnosis]:
    """Settings that are right one by one and wrong together."""
    on_error = services.config.handlers.get("spf", {}).get("on_error", OnError.SKIP)
    if settings.level is Level.RECORD and on_error != OnError.SKIP:
        yield Diagnosis(
            FindingLevel.WARNING,
            SUBJECT,
            f"level 1 refuses no mail, but on_error = {on_error} does when a check breaks",
            'set on_error = "skip" in [handlers.spf]',
        )
    if settings.level >= Level.DEFER_TROUBLE and on_error == OnError.SKIP:
        yield Diagnosis(
            FindingLevel.WARNING,
            SUBJECT,
            f"level {settings.level.value} refuses mail, but on_error = skip lets it in when a check breaks",
            'set on_error = "defer" in [handlers.spf]',
        )
    relays = (*services.config.host.relays, *settings.trusted_relays)
    for relay in relays:
        if any(
            relay.overlaps(network) for network in services.config.host.networks if network.version == relay.version
        ):
            yield Diagnosis(
                FindingLevel.WARNING,
                SUBJECT,
                f"gateway {relay} is also in [host] networks: its mail is local and is not checked",
                "take it out of [host] networks, or the class local out of [handlers.spf] exempt",
            )
