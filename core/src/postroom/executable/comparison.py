"""Which parts of a mail that a program wrote are those that it was given."""

from __future__ import annotations

from postroom.mail import Body, Field, ReplaceMessage
from postroom.verdict import Verdict


def same_octets(one: Body, other: Body) -> bool:
    return one.size == other.size and all(a == b for a, b in zip(one.chunks(), other.chunks(), strict=True))


def with_origins(changed: tuple[Field, ...], original: tuple[Field, ...]) -> tuple[Field, ...]:
    """`changed`, where each field that also stands in `original`, in the same order, keeps its origin."""
    positions: dict[tuple[bytes, bytes], list[int]] = {}
    for at, field in enumerate(original):
        positions.setdefault((field.name, field.value), []).append(at)
    result, last = [], -1
    for field in changed:
        candidates = positions.get((field.name, field.value), [])
        at = next((each for each in candidates if each > last), -1)
        if at >= 0:
            last = at
            result.append(original[at])
        else:
            result.append(Field(field.name, field.value))
    return tuple(result)


def same_verdict(one: Verdict, other: Verdict) -> bool:
    if (one.action, one.reply) != (other.action, other.reply) or len(one.edits) != len(other.edits):
        return False
    return all(
        isinstance(left, ReplaceMessage)
        and isinstance(right, ReplaceMessage)
        and left.message.fields == right.message.fields
        and same_octets(left.message.body, right.message.body)
        for left, right in zip(one.edits, other.edits, strict=True)
    )
