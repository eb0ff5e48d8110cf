"""Who changed the registry, when, and what became different."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from postroom.registration import Registration
from postroom.registry.order import sort_key


@dataclass(frozen=True, slots=True)
class Generation:
    """One change. `at` is seconds since the epoch; `what` is one line."""

    number: int
    at: float
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One registration at two generations: `before` None, it was added; `after` None, it was removed."""

    before: Registration | None
    after: Registration | None

    @property
    def registration(self) -> Registration:
        found = self.after or self.before
        assert found is not None
        return found

    def changes(self) -> list[tuple[str, object, object]]:
        """(name, before, after) of what is not the same in both."""
        if self.before is None or self.after is None:
            return []
        pairs = (
            (item.name, getattr(self.before, item.name), getattr(self.after, item.name))
            for item in fields(Registration)
        )
        return [(name, before, after) for name, before, after in pairs if before != after]

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.registration}: {details(self.registration)}"
        if self.after is None:
            return f"- {self.registration}: {details(self.registration)}"
        changed = ", ".join(f"{name} {_word(before)} -> {_word(after)}" for name, before, after in self.changes())
        return f"~ {self.registration}: {changed}"


def details(registration: Registration) -> str:
    """Everything of it that its key does not say and that is not the default."""
    words = [f"priority {registration.priority}", "enabled" if registration.enabled else "disabled"]
    default = Registration(registration.handler, registration.stage, registration.type)
    for name in ("context", "mode", "on_error", "executable"):
        value = getattr(registration, name)
        if value != getattr(default, name):
            words.append(f"{name} {_word(value)}")
    return ", ".join(words)


def _word(value: object) -> str:
    match value:
        case None:
            return "as declared"
        case bool():
            return "yes" if value else "no"
        case "":
            return "none"
        case _:
            text = str(value)
            return text if text.isprintable() and " " not in text else repr(text)


def differences(before: Iterable[Registration], after: Iterable[Registration]) -> list[Difference]:
    """What is different, in the order of `order.sort_key`."""
    old = {registration.key: registration for registration in before}
    new = {registration.key: registration for registration in after}
    found = [Difference(old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    return sorted(found, key=lambda difference: sort_key(difference.registration))
