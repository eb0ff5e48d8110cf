"""Where policies are kept: one document a scope, that several handlers' commands read and change.

They stand where greylisting keeps what it remembers, because it decides over both in one transaction or script.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from postroom.hookspecs import StateUnavailable
from postroom.lists.scopes import Scope
from postroom.lists.senders import SenderLists, document_with, lists_of_document

MAX_ROUNDS = 5
"""Times that somebody else may change the same policy while one command does."""


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it is kept. `version` is new with every change and never used twice; "" with "": there is none."""

    version: str = ""
    document: str = ""


NO_POLICY = StoredPolicy()


class PolicyStore(Protocol):
    """Every method raises StateUnavailable when it cannot be reached."""

    def policy(self, scope: Scope) -> StoredPolicy: ...

    def replace_policy(self, scope: Scope, old_version: str, new: StoredPolicy) -> bool:
        """False, and nothing done, when the version is not `old_version` any more."""

    def scopes(self) -> Iterator[Scope]:
        """Every place that has a policy."""


def change_document(store: PolicyStore, scope: Scope, change: Callable[[str], str]) -> str:
    """Apply `change` to the document as it is, however many commands run at once; the new document."""
    for _ in range(MAX_ROUNDS):
        stored = store.policy(scope)
        document = change(stored.document)
        new = StoredPolicy(secrets.token_hex(8), document) if document else NO_POLICY
        if store.replace_policy(scope, stored.version, new):
            return document
    raise StateUnavailable(f"somebody else keeps changing the settings of {scope}: try again")


def read_lists(store: PolicyStore, scopes: Iterable[Scope]) -> Mapping[Scope, SenderLists]:
    """The lists of those scopes that have some."""
    found = {scope: lists_of_document(store.policy(scope).document) for scope in scopes}
    return {scope: lists for scope, lists in found.items() if lists}


def change_lists(store: PolicyStore, scope: Scope, change: Callable[[SenderLists], SenderLists]) -> None:
    """Whatever else is kept for the scope stays."""
    change_document(store, scope, lambda document: document_with(document, change(lists_of_document(document))))
