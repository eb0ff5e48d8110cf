"""The registry as a TOML file: what is written is read again, and a bad file is named with place and remedy."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import ConfigError
from postroom.registration import Mode, OnError, Registration, Stage, Type
from postroom.registry import transfer

ENTRY = '[[registration]]\nhandler = "grey"\nstage = "before-data"\ntype = "global"\n'

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
registrations = st.builds(
    Registration,
    handler=text.filter(lambda name: name and name == name.strip() and "/" not in name),
    stage=st.sampled_from(Stage),
    type=st.just(Type.RECIPIENT),
    address=st.from_regex(r"[a-z0-9.+-]{1,9}@[a-z0-9]{1,9}\.example", fullmatch=True),
    priority=st.integers(0, 16384),
    enabled=st.booleans(),
    context=text,
    mode=st.sampled_from(Mode),
    on_error=st.sampled_from([None, *OnError]),
    executable=text.map(lambda path: f"/{path}" if path else ""),
)


@given(st.lists(registrations, max_size=5, unique_by=lambda each: each.key))
def test_what_is_written_is_read_again(wanted: list[Registration]) -> None:
    assert transfer.read("".join(transfer.write(wanted)), "file") == wanted


def test_the_form_of_the_file() -> None:
    wanted = [
        Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, priority=5, enabled=True),
        Registration("x", Stage.BEFORE_LOCAL, Type.RECIPIENT, "b@example.org", context='a="b"', executable="/bin/x"),
    ]
    written = "".join(transfer.write(wanted))
    assert tomllib.loads(written)["registration"][0] == {
        "handler": "grey",
        "stage": "before-data",
        "type": "global",
        "priority": 5,
        "enabled": True,
    }
    assert written.endswith('enabled = false\ncontext = "a=\\"b\\""\nexecutable = "/bin/x"\n')


def test_an_address_may_be_written_as_people_write_it() -> None:
    entry = ENTRY.replace("global", "recipient") + 'address = "Bob@B\u00fccher.Example"\n'
    (found,) = transfer.read(entry, "file")
    assert found.address == "bob@xn--bcher-kva.example"
    assert (found.priority, found.enabled) == (10, False)


def test_an_empty_file_is_an_empty_registry() -> None:
    assert transfer.read("# nothing\n", "file") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[registration]\n", r"file: no valid TOML: .*line 1"),
        ("[registration]\n", r"file: registration is a list of tables: write \[\[registration\]\]"),
        ("registration = [1]\n", r"write \[\[registration\]\]"),
        ("[grey]\n", r"file: unknown key 'grey'"),
        (ENTRY + "prio = 3\n", r"file:1: registration 1 \(grey\): unknown key 'prio'; did you mean 'priority'"),
        ("\n# x\n" + ENTRY + "priority = 99999\n", r"file:3: registration 1 \(grey\): priority 99999 is out of range"),
        (ENTRY + 'priority = "3"\n', r"priority '3' is wrong: write a number"),
        (ENTRY + "priority = true\n", r"priority True is wrong: write a number"),
        (ENTRY + "enabled = 1\n", r"enabled 1 is wrong: write true or false"),
        (ENTRY + "handler = 1\n", r"no valid TOML"),
        (ENTRY + "mode = 1\n", r"mode 1 is not one of active, shadow"),
        (ENTRY + "on_error = []\n", r"on_error \[\] is not one of defer, reject, skip, quarantine"),
        (ENTRY + "context = { a = 1 }\n", r"context .* is wrong: write text in quotes"),
        (ENTRY + 'address = "a@example.org"\n', r"type global takes no address"),
        (ENTRY.replace("global", "sender"), r"type sender needs an address"),
        (ENTRY.replace("before-data", "later"), r"stage 'later' is not one of before-data, before-queue"),
        (ENTRY.replace('stage = "before-data"\n', ""), r"registration 1 \(grey\): stage is missing: write stage = "),
        (ENTRY.replace("grey", "a/b"), r"'a/b' is no handler name"),
        (ENTRY + 'executable = "x"\n', r"'x' is no absolute path"),
        (ENTRY + 'context = "\\u0000"\n', r"its context holds NUL"),
        (ENTRY + "\n" + ENTRY, r"file:6: registration 2 \(grey\): grey at .* stands at file:1: registration 1 already"),
    ],
)
def test_a_bad_file_is_refused_with_place_and_remedy(content: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        transfer.read(content, "file")
    assert "\n" not in str(caught.value)
