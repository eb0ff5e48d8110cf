"""Operations that turn the header as it came into the header as it shall be, against a model of Postfix' own list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.fronts.milter.answers import AddHeader, ChangeHeader, InsertHeader, Operation
from postroom.fronts.milter.edits import REST, UnsafeField, from_wire, operations, same_body, to_wire
from postroom.mail import (
    AddField,
    Body,
    Edit,
    Field,
    InsertField,
    Message,
    RemoveField,
    ReplaceField,
    ReplaceMessage,
    parse_message,
)

OWN = (b"Received", b" by the mail server itself")


class PostfixHeader:
    """What Postfix does with each operation: its own Received on top is hidden, and counts for insertions only."""

    def __init__(self, fields: list[tuple[bytes, bytes]], leading_space: bool) -> None:
        self.fields = [OWN, *fields]
        self._blank = b"" if leading_space else b" "
        self._inserted = False

    def make(self, operation: Operation) -> None:
        match operation:
            case ChangeHeader(name, instance, value):
                assert not self._inserted, "instances are no longer what they were"
                at = self._find(name, instance)
                if value:
                    self.fields[at] = (name, self._blank + value)
                else:
                    del self.fields[at]
            case InsertHeader(index, name, value):
                self._inserted = True
                self.fields.insert(index, (name, self._blank + value))
            case AddHeader(name, value):
                self.fields.append((name, self._blank + value))
            case _:
                raise AssertionError(operation)

    def _find(self, name: bytes, instance: int) -> int:
        found = [at for at, (each, _) in enumerate(self.fields) if each.lower() == name.lower() and at]
        return found[instance - 1]  # one that is not there would be added by Postfix: never asked for


names = st.sampled_from([b"Received", b"Subject", b"subject", b"X-A", b"x-a", b"X-B"])
values = st.sampled_from([b" a", b" b", b"none", b"\ttab", b" fold\r\n\tmore", b" \xe4\xff", b"  two"])
pairs = st.lists(st.tuples(names, values), max_size=8)
edits = st.lists(
    st.one_of(
        st.builds(AddField, names, values),
        st.builds(InsertField, names, values, st.integers(0, 9)),
        st.builds(ReplaceField, names, values, st.integers(1, 3)),
        st.builds(RemoveField, names, st.one_of(st.none(), st.integers(1, 3))),
    ),
    max_size=8,
)


def apply(
    came: list[tuple[bytes, bytes]], made: list[Operation], leading_space: bool = True
) -> list[tuple[bytes, bytes]]:
    model = PostfixHeader([(name, value.replace(b"\r\n", b"\n")) for name, value in came], leading_space)
    for operation in made:
        model.make(operation)
    return [(name, value.replace(b"\n", b"\r\n")) for name, value in model.fields]


def fields(came: list[tuple[bytes, bytes]]) -> tuple[Field, ...]:
    return tuple(Field(name, value, at) for at, (name, value) in enumerate(came))


def trace_and_rest(result: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    result = list(result)
    result.remove(OWN)
    return result


@given(pairs, edits)
def test_the_mail_server_ends_with_the_header_that_was_meant(
    came: list[tuple[bytes, bytes]], asked: list[Edit]
) -> None:
    original = Message(fields(came))
    final = original.with_edits(asked)
    made = operations(original.fields, final.fields)
    assert trace_and_rest(apply(came, made)) == [(field.name, field.value) for field in final.fields]


@given(pairs, edits)
def test_without_leading_space_all_but_the_blank_is_the_same(
    came: list[tuple[bytes, bytes]], asked: list[Edit]
) -> None:
    original = Message(fields(came))
    final = original.with_edits(asked)
    made = operations(original.fields, final.fields, leading_space=False)
    got = trace_and_rest(apply(came, made, leading_space=False))
    assert [(name, value.strip()) for name, value in got] == [(each.name, each.value.strip()) for each in final.fields]


@given(pairs, st.permutations(range(8)), st.lists(st.integers(-1, 9), min_size=8, max_size=8))
def test_fields_that_moved_or_lie_about_their_origin(
    came: list[tuple[bytes, bytes]], order: list[int], origins: list[int]
) -> None:
    """A program that is a handler may return its fields in any order, with any origin."""
    original = fields(came)
    final = [Field(came[at][0], came[at][1], origins[at]) for at in order if at < len(came)]
    made = operations(original, final)
    assert trace_and_rest(apply(came, made)) == [(field.name, field.value) for field in final]


@given(pairs, edits)
def test_a_header_that_nobody_saw(came: list[tuple[bytes, bytes]], asked: list[Edit]) -> None:
    """New fields go on top or to the end; what is there stays."""
    asked = [edit for edit in asked if isinstance(edit, AddField | InsertField)]
    shown = Message((REST,)).with_edits(asked)
    got = trace_and_rest(apply(came, operations((REST,), shown.fields)))
    at = shown.fields.index(REST)
    texts = [(field.name, field.value) for field in shown.fields]
    assert got == [*texts[:at], *came, *texts[at + 1 :]]


def test_unchanged_needs_nothing() -> None:
    came = fields([(b"Subject", b" x"), (b"X-A", b" y")])
    assert operations(came, came) == []


def test_a_program_that_adds_one_field_on_top_causes_one_operation() -> None:
    original = parse_message(b"Received: a\r\nSubject: x\r\nX-A: y\r\n\r\n")
    returned = parse_message(b"X-New: n\r\nReceived: a\r\nSubject: x\r\nX-A: y\r\n\r\n")
    final = original.with_edits([ReplaceMessage(returned)])
    assert operations(original.fields, final.fields) == [InsertHeader(0, b"X-New", b" n")]


def test_above_everything_means_above_the_mail_servers_own_field() -> None:
    came = [(b"Subject", b" x"), (b"X-A", b" y")]
    original = Message(fields(came))
    final = original.with_edits([InsertField(b"T", b" t"), InsertField(b"M", b" m", 2)])
    assert apply(came, operations(original.fields, final.fields)) == [
        (b"T", b" t"),
        OWN,
        came[0],
        (b"M", b" m"),
        came[1],
    ]


def test_a_value_changed_to_nothing_is_not_deleted() -> None:
    came = [(b"Subject", b" x")]
    original = Message(fields(came))
    final = original.with_edits([ReplaceField(b"Subject", b"")])
    assert apply(came, operations(original.fields, final.fields)) == [OWN, (b"Subject", b" ")]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (b" a\r\n\tb", b" a\n\tb"),
        (b" a\nBcc: x", b" a\n Bcc: x"),
        (b" a\r\nBcc: x\r\n\r\nbody", b" a\n Bcc: x\n \n body"),
        (b" a\0b", b" a b"),
    ],
)
def test_no_value_can_start_another_field(value: bytes, wire: bytes) -> None:
    assert to_wire(value, leading_space=True) == wire


@pytest.mark.parametrize("name", [b"A:b", b"A\nb", b"A\0", b"x" * 999])
def test_no_name_can_either(name: bytes) -> None:
    with pytest.raises(UnsafeField):
        operations((), (Field(name, b" x"),))


def test_values_from_the_wire() -> None:
    assert from_wire(b" a\n\tb", leading_space=True) == b" a\r\n\tb"
    assert from_wire(b"a", leading_space=False) == b" a"


def test_bodies_are_compared_by_their_octets() -> None:
    assert same_body(Body(b"abc"), Body(b"abc"))
    assert not same_body(Body(b"abc"), Body(b"abd"))
    assert not same_body(Body(b"abc"), Body(b"abcd"))
