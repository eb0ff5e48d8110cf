"""For `postroom doctor`: is the store there, would every responder work, can replies be sent?"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterator
from itertools import islice

from postroom.hookspecs import Diagnosis, FindingLevel, Services, StateUnavailable

from postroom_autoresponder.backends import open_store
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.responder import BrokenResponder, check_responder, responder_from_json
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.store import REPLIED, Store

SUBJECT = "autoresponder"
MAX_CHECKED = 10_000
"""Responders that are looked at."""
PATIENCE = 5.0
"""Seconds that the mail server gets to greet."""
OK, WARNING, ERROR = FindingLevel.OK, FindingLevel.WARNING, FindingLevel.ERROR


def diagnose(settings: AutoresponderSettings, services: Services) -> Iterator[Diagnosis]:
    try:
        store = open_store(services.state)
        store.ping()
        takes = "takes the script" if services.state.redis is not None else "file autoresponder.sqlite can be written"
        yield Diagnosis(OK, SUBJECT, f"{store.name} {takes}")
        yield from _responders(store, settings)
        yield from _unauthenticated(store, settings)
    except StateUnavailable as error:
        text, _, remedy = str(error).partition("; ")
        yield Diagnosis(ERROR, SUBJECT, text, remedy or "see [redis] or [paths] state")
    yield _way_out(services)


def _responders(store: Store, settings: AutoresponderSettings) -> Iterator[Diagnosis]:
    """Whether zones are known, dates are dates, and texts can be filled in."""
    good = 0
    for name, stored in islice(store.responders(), MAX_CHECKED):
        try:
            check_responder(responder_from_json(stored.document), settings)
            good += 1
        except BrokenResponder as error:
            yield Diagnosis(ERROR, f"{SUBJECT} of {name}", str(error), f"postroom autoresponder set {name} …")
        except ValueError as error:
            yield Diagnosis(
                ERROR, f"{SUBJECT} of {name}", f"would not answer: {error}", f"postroom autoresponder set {name} …"
            )
    yield Diagnosis(OK, SUBJECT, f"{good} responders can be used")


def _unauthenticated(store: Store, settings: AutoresponderSettings) -> Iterator[Diagnosis]:
    """Nobody is ever answered where nothing checks who the sender is."""
    if not settings.authenticated_only:
        return
    silent = replied = 0
    for name in islice(store.counted(), MAX_CHECKED):
        counts = store.counts(name)
        silent += counts.get(Silence.UNAUTHENTICATED, 0)
        replied += counts.get(REPLIED, 0)
    if silent and not replied:
        yield Diagnosis(
            WARNING,
            SUBJECT,
            f"no reply was ever sent, and {silent} mails came from senders that nobody vouches for",
            "enable spf, or dk_check at before-queue, or set authenticated_only = false in [handlers.autoresponder]",
        )


def _way_out(services: Services) -> Diagnosis:
    to = services.config.reinject.to
    if not to.startswith("smtp:"):
        program = (shlex.split(to) or [""])[0] if to else "/usr/sbin/sendmail"
        if os.access(program, os.X_OK):
            return Diagnosis(OK, SUBJECT, f"replies go out through {program}")
        return Diagnosis(ERROR, SUBJECT, f"replies cannot be sent: {program} is no program", "correct [reinject] to")
    host, _, port = to.removeprefix("smtp:").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
            greeting = connection.recv(512)
            connection.sendall(b"QUIT\r\n")
    except (OSError, ValueError) as error:
        return Diagnosis(
            ERROR, SUBJECT, f"replies cannot be sent: {to}: {error}", "start the mail server, or correct [reinject] to"
        )
    if not greeting.startswith(b"220"):
        said = greeting.decode("ascii", "replace").strip()
        return Diagnosis(ERROR, SUBJECT, f"replies cannot be sent: {to} says {said!r}", "see the mail server's log")
    return Diagnosis(OK, SUBJECT, f"replies go out through {to}")
