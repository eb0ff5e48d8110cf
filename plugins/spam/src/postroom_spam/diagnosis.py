"""For `postroom doctor`: does each server answer, which version is it, and are its rules loaded?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from postroom.backends.barrier import barrier_for
from postroom.backends.deadline import Deadline
from postroom.backends.trouble import BackendTrouble
from postroom.hookspecs import Diagnosis, FindingLevel, Services

from postroom_spam.engines import engines_of
from postroom_spam.settings import Consequence, SpamSettings

PATIENCE = 10.0
"""Seconds for one server."""

_LET_IN = "let the user who runs postroom serve use its socket: its group and mode"


def diagnose(settings: SpamSettings, services: Services) -> Iterator[Diagnosis]:
    for engine in engines_of(settings):
        subject = f"spam: {settings.engine} at {engine.address}"
        begun = time.perf_counter()
        try:
            health = engine.health(Deadline(PATIENCE))
        except BackendTrouble as trouble:
            remedy = f"start {settings.engine}, or see [handlers.spam] servers"
            yield Diagnosis(
                FindingLevel.ERROR, subject, str(trouble), _LET_IN if "Permission denied" in str(trouble) else remedy
            )
            continue
        text = f"{health.version} answers in {(time.perf_counter() - begun) * 1000:.0f} ms"
        yield Diagnosis(FindingLevel.OK, subject, ", ".join((text, *health.facts)))
        if barred := barrier_for(engine.address, services.config.server.user, services.config.server.group):
            user = services.config.server.user
            text = f"{user}, who runs the server, may not use it: {barred} keeps it out"
            yield Diagnosis(FindingLevel.ERROR, subject, text, _LET_IN)
        for problem in health.problems:
            what, _, remedy = problem.partition(": ")
            yield Diagnosis(FindingLevel.WARNING, subject, what, remedy)
    if Consequence.REJECT in (settings.action, settings.high_action) and _happens(settings):
        yield Diagnosis(
            FindingLevel.WARNING,
            "spam",
            "spam is rejected after it was taken: the bounce goes to whomever the spammer named",
            "take junk, quarantine or discard in [handlers.spam]",
        )


def _happens(settings: SpamSettings) -> bool:
    return settings.action is Consequence.REJECT or bool(settings.high_threshold)
