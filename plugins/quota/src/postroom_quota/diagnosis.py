"""For `postroom doctor`: can mailboxes be measured, mail be reserved for, and owners be warned?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from postroom.config import DeliveryKind
from postroom.hookspecs import Diagnosis, DirectoryUnavailable, FindingLevel, Services, StateUnavailable
from postroom.mail import Address

from postroom_quota.backends import open_store
from postroom_quota.dovecot import SourceFailed, ask_policy
from postroom_quota.settings import QuotaSettings, Source
from postroom_quota.warning import Facts, InvalidText, compose

SUBJECT = "check-quota"
LOOKED_AT = 1000
"""Mailboxes whose Maildirs are looked at."""
NAMED = 3

OK, WARNING, ERROR = FindingLevel.OK, FindingLevel.WARNING, FindingLevel.ERROR


def diagnose(settings: QuotaSettings, services: Services) -> Iterator[Diagnosis]:
    try:
        store = open_store(services.state)
        store.ping()
        yield Diagnosis(OK, SUBJECT, f"{store.name} keeps reservations")
    except StateUnavailable as error:
        text, _, remedy = str(error).partition("; ")
        yield Diagnosis(ERROR, SUBJECT, text, remedy or "see [redis] or [paths] state")
    match settings.source:
        case Source.POLICY:
            yield _policy(settings, services)
        case Source.DOVEADM:
            yield _doveadm(settings)
        case Source.DIRECTORY:
            yield from _maildirs(settings, services)
    if settings.source is Source.DIRECTORY and services.config.delivery.kind is not DeliveryKind.MAILDIR:
        text = f"delivery is by {services.config.delivery.kind}: usage is known only if that server keeps maildirsize"
        yield Diagnosis(WARNING, SUBJECT, text, 'set source = "policy" or "doveadm" in [handlers.check-quota]')
    yield from _texts(settings)


def _policy(settings: QuotaSettings, services: Services) -> Diagnosis:
    assert settings.policy is not None  # checked by the settings
    probe = f"postroom-probe@{services.config.host_name}"
    try:
        ask_policy(settings.policy, "", probe, 1, min(5.0, max(0.1, services.deadline())))
    except SourceFailed as error:
        return Diagnosis(ERROR, SUBJECT, str(error), "start Dovecot's quota-status service, or set policy")
    return Diagnosis(OK, SUBJECT, f"{settings.policy} answers")


def _doveadm(settings: QuotaSettings) -> Diagnosis:
    program = settings.doveadm[0]
    if shutil.which(program) is None:
        return Diagnosis(ERROR, SUBJECT, f"{program} is not there", "install dovecot-core, or set doveadm")
    return Diagnosis(OK, SUBJECT, f"{program} is there")


def _maildirs(settings: QuotaSettings, services: Services) -> Iterator[Diagnosis]:
    closed: list[str] = []
    fixed: list[str] = []
    odd: list[str] = []
    looked = 0
    try:
        for mailbox in islice(services.directory.mailboxes(), LOOKED_AT):
            looked += 1
            place = Path(mailbox.maildir) if mailbox.maildir else None
            if mailbox.quota is not None and mailbox.quota < 0:
                odd.append(str(mailbox.address))
            if place is not None and place.is_dir():
                if not os.access(place, os.R_OK | os.X_OK):
                    closed.append(str(mailbox.address))
                elif not os.access(place, os.W_OK):
                    fixed.append(str(mailbox.address))
    except (DirectoryUnavailable, OSError) as error:
        yield Diagnosis(ERROR, SUBJECT, f"mailboxes cannot be listed: {error}", "see [directory]")
        return
    yield Diagnosis(OK, SUBJECT, f"{looked} mailboxes looked at; limit where the directory has none: {settings.limit}")
    if closed:
        remedy = "run postroom as the mailboxes' user, or let it read them"
        yield Diagnosis(ERROR, SUBJECT, f"Maildirs cannot be read: {_few(closed)}", remedy)
    if fixed:
        text = f"no maildirsize can be written for {_few(fixed)}: they are counted again and again"
        yield Diagnosis(WARNING, SUBJECT, text, "run postroom as the mailboxes' user")
    if odd:
        yield Diagnosis(WARNING, SUBJECT, f"negative limits count as none: {_few(odd)}", "correct them")


def _texts(settings: QuotaSettings) -> Iterator[Diagnosis]:
    if settings.texts is None:
        return
    if not settings.texts.is_dir():
        yield Diagnosis(WARNING, SUBJECT, f"{settings.texts} is not there", "make it, or leave out texts")
        return
    for path in sorted(settings.texts.glob("*.txt")):
        try:
            compose(Facts(Address("a@example.org"), 1, 2, (path.stem,)), "", "example.org", 0, settings.texts)
        except InvalidText as error:
            yield Diagnosis(ERROR, SUBJECT, str(error), f"correct {path}")


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
