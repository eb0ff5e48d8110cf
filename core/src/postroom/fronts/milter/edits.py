"""From the header as it came and the header as it shall be to the mail server's operations. Pure.

How Postfix counts: the field that it adds itself (Received) stands on top and is hidden; `InsertHeader` counts it as
number 0, `ChangeHeader` does not see it. So a field that belongs above everything that came goes above Received too,
where trace fields belong (RFC 7208 9.1, RFC 8601 4), and `ChangeHeader` is used only before anything is inserted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from postroom.fronts.milter.answers import AddHeader, ChangeHeader, InsertHeader, Operation
from postroom.mail import CRLF, Body, Field

MAX_NAME = 998
"""Octets of a field name: a line's length (RFC 5322 2.1.1)."""

REST = Field(b"", b"", 0)
"""Stands for the whole header where a front has not seen it: fields before it go on top, fields after it to the end."""


class UnsafeField(Exception):
    """A field name that would break the header."""


def operations(original: Sequence[Field], final: Sequence[Field], *, leading_space: bool = True) -> list[Operation]:
    """What the mail server must do so that `final` results: deletions from the highest instance down, changes,
    insertions from top to bottom, additions at the end.
    """
    kept = _kept(original, final)
    for at, field in enumerate(final):
        if at not in kept:
            _check_name(field.name)
    made = _deletions(original, set(kept.values()))
    made += _changes(original, final, kept, leading_space)
    return made + _insertions(final, kept, leading_space)


def _kept(original: Sequence[Field], final: Sequence[Field]) -> dict[int, int]:
    """Which final field is which original one, both rising. What moved counts as deleted and new."""
    start, limit = 0, min(len(original), len(final))
    while start < limit and _same(original[start], final[start]):
        start += 1
    tail = 0
    while tail < limit - start and _same(original[-1 - tail], final[-1 - tail]):
        tail += 1
    kept = {at: at for at in range(start)}
    kept |= _rising(original, final, start, len(original) - tail, len(final) - tail)
    shift = len(original) - len(final)
    kept |= {at: at + shift for at in range(len(final) - tail, len(final))}
    return kept


def _same(left: Field, right: Field) -> bool:
    return left.name == right.name and left.value == right.value


def _rising(
    original: Sequence[Field], final: Sequence[Field], start: int, original_end: int, final_end: int
) -> dict[int, int]:
    """The longest choice of final fields whose origins rise (patience sorting)."""
    tops: list[int] = []  # smallest origin that ends a run of each length
    ends: list[int] = []  # the final field there
    before: dict[int, int] = {}
    for at in range(start, final_end):
        origin = final[at].origin
        if not start <= origin < original_end or original[origin].name.lower() != final[at].name.lower():
            continue
        length = bisect_left(tops, origin)
        if length == len(tops):
            tops.append(origin)
            ends.append(at)
        else:
            tops[length], ends[length] = origin, at
        before[at] = ends[length - 1] if length else -1
    chosen: dict[int, int] = {}
    at = ends[-1] if ends else -1
    while at >= 0:
        chosen[at] = final[at].origin
        at = before[at]
    return chosen


def _deletions(original: Sequence[Field], kept: set[int]) -> list[Operation]:
    seen: Counter[bytes] = Counter()
    gone: list[Operation] = []
    for at, field in enumerate(original):
        seen[field.name.lower()] += 1
        if at not in kept:
            gone.append(ChangeHeader(field.name, seen[field.name.lower()], b""))
    return gone[::-1]


def _changes(
    original: Sequence[Field], final: Sequence[Field], kept: dict[int, int], leading_space: bool
) -> list[Operation]:
    seen: Counter[bytes] = Counter()
    made: list[Operation] = []
    for at in sorted(kept):
        field = final[at]
        seen[field.name.lower()] += 1
        if not _same(field, original[kept[at]]):
            # an empty value would delete the field
            value = to_wire(field.value, leading_space) or b" "
            made.append(ChangeHeader(field.name, seen[field.name.lower()], value))
    return made


def _insertions(final: Sequence[Field], kept: dict[int, int], leading_space: bool) -> list[Operation]:
    first, last = min(kept, default=-1), max(kept, default=-1)
    made: list[Operation] = []
    for at, field in enumerate(final):
        if at in kept:
            continue
        value = to_wire(field.value, leading_space)
        if at > last:
            made.append(AddHeader(field.name, value))
        else:  # below the first that came, the mail server's own field counts too
            made.append(InsertHeader(at if at < first else at + 1, field.name, value))
    return made


def _check_name(name: bytes) -> None:
    if name == REST.name:
        return
    if len(name) > MAX_NAME or b":" in name or any(octet < 32 or octet == 127 for octet in name):
        raise UnsafeField(f"field name {name[:40]!r}")


def to_wire(value: bytes, leading_space: bool) -> bytes:
    """A value as the mail server takes it: folds as LF only, no line that is no fold, no NUL.

    Without the leading-space option the mail server adds one blank by itself.
    """
    if b"\r" in value or b"\n" in value or b"\0" in value:
        lines = value.replace(b"\0", b" ").replace(CRLF, b"\n").split(b"\n")
        folds = (line if line[:1] in (b" ", b"\t") else b" " + line for line in lines[1:])
        value = b"\n".join((lines[0], *folds))
    if not leading_space and value.startswith(b" "):
        return value[1:]
    return value


def from_wire(value: bytes, leading_space: bool) -> bytes:
    """A value as `Field` holds it."""
    if b"\n" in value:
        value = value.replace(CRLF, b"\n").replace(b"\n", CRLF)
    return value if leading_space else b" " + value


def same_body(left: Body, right: Body) -> bool:
    """Whether the octets are the same; reads them only when the sizes are."""
    if left is right:
        return True
    if left.size != right.size:
        return False
    return all(mine == theirs for mine, theirs in zip(left.chunks(), right.chunks(), strict=True))
