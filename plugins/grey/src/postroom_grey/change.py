"""Changes of policies, as commands make them."""

from __future__ import annotations

from collections.abc import Callable

from postroom.config import Duration, build_from_context
from postroom.lists.scopes import Scope
from postroom.lists.store import change_document

from postroom_grey.policy import NOTHING, Policy
from postroom_grey.settings import GreySettings
from postroom_grey.store import Store

Setting = bool | int | float | str


def read_policy(store: Store, scope: Scope) -> Policy:
    stored = store.policy(scope)
    return Policy.from_json(stored.document) if stored.version else NOTHING


def change_policy(store: Store, scope: Scope, change: Callable[[Policy], Policy]) -> Policy:
    """Apply `change` to the policy as it is, however many commands run at once; the new policy."""

    def change_text(document: str) -> str:
        changed = change(Policy.from_json(document) if document else NOTHING)
        return changed.to_json() if changed else ""

    document = change_document(store, scope, change_text)
    return Policy.from_json(document) if document else NOTHING


def parse_setting(name: str, text: str) -> Setting:
    """A setting's value from the command line, as it is stored. ConfigError names what is wrong."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    value = getattr(build_from_context(GreySettings, f'{name}="{quoted}"', "grey"), name)
    return float(value) if isinstance(value, Duration) else value
