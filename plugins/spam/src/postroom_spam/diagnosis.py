"""For `postroom doctor`: does each server answer, which version is it, and are its rules loaded?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from postroom.backends.deadline import Deadline
from postroom.backends.trouble import BackendTrouble
from postroom.hookspecs import Diagnosis, FindingLevel, Services

from postroom_spam.engines import engines_of
from postroom_spam.settings import Consequence, SpamSettings

PATIENCE = 10.0
"""Seconds for one server."""


def diagnose(settings: SpamSettings, services: Services) -> Iterator[Diagnosis]:  # noqa: ARG001  # the hook's
    for engine in engines_of(settings):
        subject = f"spam: {settings.engine} at {engine.address}"
        begun = time.perf_counter()
        try:
            health = engine.health(Deadline(PATIENCE))
        except BackendTrouble as trouble:
            yield Diagnosis(
                FindingLevel.ERROR, subject, str(trouble), f"start {settings.engine}, or see [handlers.spam] servers"
            )
            continue
        text = f"{health.version} answers in {(time.perf_counter() - begun) * 1000:.0f} ms"
        yield Diagnosis(FindingLevel.OK, subject, ", ".join((text, *health.facts)))
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
