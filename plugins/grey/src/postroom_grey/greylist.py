"""One mail's way through greylisting: policies, then what is remembered, then one decision for each recipient."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from postroom.hookspecs import StateUnavailable
from postroom.lists.patterns import client_address
from postroom.lists.scopes import Scope, scopes_of
from postroom.lists.store import StoredPolicy
from postroom.mail import Envelope

from postroom_grey.client import identity
from postroom_grey.decision import Attempted, Terms, milliseconds, network_terms_of, terms_of
from postroom_grey.policy import Fate, Policies, Policy, Ruling, rule, server_settings
from postroom_grey.sender import normalised
from postroom_grey.settings import GreySettings
from postroom_grey.store import Request, Stale, Store

MAX_CACHED = 10_000
"""Policies that a worker keeps; one more costs a second round trip for the mail that needs it."""
MAX_AT_ONCE = 1000
"""Recipients in one round trip: Redis serves nobody else meanwhile. Postfix takes no more than so many either."""
MAX_ROUNDS = 5
"""Times that policies may change while one mail is decided."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done about one recipient; `attempted` is None where the policies alone decided."""

    ruling: Ruling
    attempted: Attempted | None

    @property
    def waits(self) -> bool:
        return self.attempted is not None and self.attempted.result.waits

    @property
    def denied(self) -> bool:
        return self.ruling.fate is Fate.DENIED


class Greylist:
    """Shared by the threads of a worker. It keeps policies by version; each attempt checks the versions anew."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cache = PolicyCache()

    def decide(
        self, envelope: Envelope, base: GreySettings, now: float, delimiter: str, vouching: str = ""
    ) -> tuple[Decision, ...]:
        """One round trip, unless a policy that concerns the mail has changed since the worker last saw it.

        `vouching` is the domain for which SPF passed.
        """
        scopes = list(
            dict.fromkeys(scope for recipient in envelope.recipients for scope in scopes_of(recipient, delimiter))
        )
        for _ in range(MAX_ROUNDS):
            known, policies = self._cache.get(scopes)
            rulings = [rule(envelope, recipient, base, policies, delimiter) for recipient in envelope.recipients]
            request = _request(envelope, rulings, base, policies, known, milliseconds(now), delimiter, vouching)
            answers = self._attempt(request)
            if isinstance(answers, Stale):
                self._cache.put(answers.policies)
                continue
            by_recipient = dict(zip((recipient for recipient, _ in request.recipients), answers, strict=True))
            return tuple(
                Decision(ruling, by_recipient.get(ruling.recipient.without_tag(delimiter)))
                if ruling.fate is Fate.GREY
                else Decision(ruling, None)
                for ruling in rulings
            )
        raise StateUnavailable(f"{self.store.name}: the policies changed {MAX_ROUNDS} times during one attempt")

    def _attempt(self, request: Request) -> Sequence[Attempted] | Stale:
        """Whole, unless there are very many recipients: then in pieces, which count for no network."""
        if len(request.recipients) <= MAX_AT_ONCE:
            return self.store.attempt(request)
        answers: list[Attempted] = []
        known = request.known
        for start in range(0, len(request.recipients), MAX_AT_ONCE):
            piece = request.recipients[start : start + MAX_AT_ONCE]
            made = self.store.attempt(replace(request, recipients=piece, counts=False, known=known))
            if isinstance(made, Stale):
                return made
            answers += made
            known = ()  # what the first piece was ruled by holds for the rest: nobody is tried twice
        return answers


def _request(
    envelope: Envelope,
    rulings: Iterable[Ruling],
    base: GreySettings,
    policies: Policies,
    known: tuple[tuple[Scope, str], ...],
    now: int,
    delimiter: str,
    vouching: str,
) -> Request:
    settings = server_settings(base, policies)
    rulings = list(rulings)
    # Two recipients that differ only in a tag are one, or the second would count as a retry of the first.
    recipients: dict[str, Terms] = {
        ruling.recipient.without_tag(delimiter): terms_of(ruling.settings)
        for ruling in rulings
        if ruling.fate is Fate.GREY
    }
    return Request(
        now=now,
        client=identity(client_address(envelope.session), settings, vouching),
        sender=normalised(envelope.sender, strip_tags=settings.strip_tags),
        recipients=tuple(recipients.items()),
        network_terms=network_terms_of(settings, known=envelope.session.client_address is not None),
        counts=all(ruling.fate is not Fate.DENIED for ruling in rulings),
        known=known,
    )


class PolicyCache:
    """The policies that a worker has seen, with their versions. One that it has not seen is taken for absent: that is
    true for nearly every mailbox, and the attempt finds out where it is not.
    """

    def __init__(self, size: int = MAX_CACHED) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[Scope, tuple[str, Policy]] = OrderedDict()

    def get(self, scopes: Iterable[Scope]) -> tuple[tuple[tuple[Scope, str], ...], Mapping[Scope, Policy]]:
        """The versions known of all these, and the policies of those that have one."""
        known, policies = [], {}
        with self._lock:
            for scope in scopes:
                found = self._kept.get(scope)
                known.append((scope, found[0] if found else ""))
                if found:
                    policies[scope] = found[1]
                    self._kept.move_to_end(scope)
        return tuple(known), policies

    def put(self, changed: Iterable[tuple[Scope, StoredPolicy]]) -> None:
        read = [(scope, stored, Policy.from_json(stored.document)) for scope, stored in changed if stored.version]
        with self._lock:
            for scope, _ in changed:
                self._kept.pop(scope, None)
            for scope, stored, policy in read:
                self._kept[scope] = (stored.version, policy)
            # A mail with more policies than fit must find all of them again.
            while len(self._kept) > max(self._size, len(read)):
                self._kept.popitem(last=False)
