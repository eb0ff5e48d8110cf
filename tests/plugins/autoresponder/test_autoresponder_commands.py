"""`postroom autoresponder …`, over both stores."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from plugins.autoresponder.responding import BOB, MAIL, Console, Desk, parsed
from postroom.config import Size
from postroom.registration import Registration, Stage, Type
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.settings import AutoresponderSettings


def shown(console: Console) -> dict[str, object]:
    console("show", BOB)
    return {row[0]: row[1] for row in console.shown}


def test_a_new_responder_is_on_and_registered(console: Console) -> None:
    output = console("set", BOB, "--text", "I am away.")
    assert output.startswith(f"{BOB}: set, on\n")
    assert console.registered == [
        Registration("autoresponder", Stage.BEFORE_LOCAL, Type.RECIPIENT, BOB, priority=90, enabled=True)
    ]
    assert console("set", BOB, "--subject", "Away") == f"{BOB}: changed, on\n"
    assert len(console.registered) == 1


def test_a_change_registers_what_has_lost_its_registration_and_leaves_what_is_disabled(console: Console) -> None:
    console("set", BOB, "--text", "I am away.")
    (registered,) = console.registered
    console.registered[:] = [dataclasses.replace(registered, enabled=False)]
    assert console("set", BOB, "--subject", "Away") == f"{BOB}: changed, on\n"
    assert not console.registered[0].enabled
    console.registered.clear()
    assert console("set", BOB, "--subject", "Gone").endswith(f"registered and enabled: {registered}\n")
    assert console.registered == [registered]


@pytest.mark.parametrize(("type_", "address"), [(Type.GLOBAL, ""), (Type.RECIPIENT_DOMAIN, "recipient.example")])
def test_a_wider_registration_will_do(console: Console, type_: Type, address: str) -> None:
    console.registered.append(Registration("autoresponder", Stage.BEFORE_LOCAL, type_, address, enabled=True))
    console.set()
    assert len(console.registered) == 1
    console.set(address="carl@other.example")
    assert len(console.registered) == (1 if type_ is Type.GLOBAL else 2)


def test_everything_set_is_shown_and_unset(console: Console, tmp_path: Path) -> None:
    text, page = tmp_path / "away.txt", tmp_path / "page.pdf"
    text.write_text("\ufeffI am away.\n")
    page.write_bytes(b"%PDF")
    console(
        "set", "BOB+x@Recipient.Example", "--text-file", str(text), "--name", "Bob",
        "--reply-to", "o@recipient.example", "--address", "r@recipient.example",
        "--start", "2023-01-01", "--end", "2030-01-01T12:30", "--time-zone", "Europe/Berlin",
        "--if-subject", "a", "--if-body", "b", "--interval", "2d", "--daily-limit", "3", "--attach", str(page),
    )  # fmt: skip
    facts = shown(console)
    assert facts["state"] == "on"
    assert facts["text"] == "I am away.\n"
    assert facts["subject"] == "Re: ${subject}"
    assert facts["interval"] == "2d"
    assert facts["conditions"] == ["subject contains 'a'", "body contains 'b'"]
    assert facts["attachments"] == ["page.pdf (application/pdf, 4 octets)"]
    assert facts["end"] == "2030-01-01T12:30"
    console("set", BOB, "--unset", "interval", "--unset", "name", "--always", "--no-attachments")
    facts = shown(console)
    assert (facts["interval"], facts["name"], facts["conditions"], facts["attachments"]) == ("7d", "", [], [])
    assert facts["text"] == "I am away.\n"


def test_a_text_comes_from_standard_input(console: Console, desk: Desk) -> None:
    console("set", BOB, "--text-file", "-", standard_input="Grüße aus dem Urlaub\n".encode())
    assert desk.receive() is None
    assert desk.reply().get_content() == "Grüße aus dem Urlaub\n"


def test_an_attachment_of_the_same_name_is_replaced(console: Console, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    for octets in (b"one", b"three"):
        page.write_bytes(octets)
        console("set", BOB, "--text", "x", "--attach", str(page))
    assert shown(console)["attachments"] == ["page.txt (text/plain, 5 octets)"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to set"),
        (["--subject", "only"], "it has nothing to say"),
        (["--text", "x", "--forward", "nowhere"], "is no address"),
        (["--text", "x", "--reply-to", "a@b, c@d"], "is no address"),
        (["--text", "x", "--address", "bob"], "is no address"),
        (["--text", "x", "--subject", "a\nBcc: e@e.example"], "one line"),
        (["--text", "x", "--name", "a\nBcc: e@e.example"], "name"),
        (["--text", "x", "--interval", "often"], "is no duration"),
        (["--text", "x", "--if-subject", " "], "always holds"),
        (["--text", "x" * (1 << 19)], "too many"),
    ],
)
def test_what_would_not_work_is_refused_in_one_line(console: Console, words: list[str], says: str) -> None:
    result = console.run("set", BOB, *words)
    assert result.exit_code == 2, result.output
    assert says in result.output + str(result.exception)
    assert console.run("show", BOB).exit_code == 1
    assert not console.registered


def test_a_file_that_is_no_text_or_too_large_is_refused(console: Console, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"Gr\xfc\xdfe")
    assert "is no UTF-8" in console.run("set", BOB, "--text-file", str(odd)).output
    console.settings = AutoresponderSettings(max_attachments=Size(3))
    assert "larger than 3" in console.run("set", BOB, "--text", "x", "--attach", str(odd)).output


@pytest.mark.parametrize("command", ["enable", "disable", "remove", "show", "preview"])
def test_a_mailbox_without_a_responder_is_named(console: Console, command: str) -> None:
    result = console.run(command, BOB)
    assert result.exit_code == 1
    assert f"{BOB} has no responder" in result.output


def test_removing_takes_everything(console: Console, desk: Desk) -> None:
    console.set()
    desk.receive()
    assert "no longer registered" in console("remove", BOB)
    assert not console.registered
    assert console.counts() == {"remembered addresses": 0}
    console("list")
    assert console.shown == []


def test_list_shows_who_answers_now(console: Console, desk: Desk) -> None:
    console.set()
    console.set("--text", "x", "--start", "2040-01-01", address="carl@recipient.example")
    console.set("--text", "x", "--end", "2020-01-01", address="dora@recipient.example")
    console.set("--text", "x", "--disabled", address="eve@recipient.example")
    desk.receive()
    console("list")
    assert [(row[0].partition("@")[0], row[1], row[-1]) for row in console.shown] == [
        ("bob", "on", 1),
        ("carl", "begins 2040-01-01", 0),
        ("dora", "ended 2020-01-01", 0),
        ("eve", "off", 0),
    ]


def test_status_sums_up_all(console: Console, desk: Desk) -> None:
    console.set()
    console.set(address="carl@recipient.example")
    desk.receive()
    desk.receive(b"List-Id: <x>\r\n" + MAIL)
    desk.receive(sender="", recipient="carl@recipient.example")
    console("status", "--json")
    rows = {(row[0], row[1]): row[2] for row in console.shown}
    assert rows["all", "replied"] == rows["all", "list"] == rows["all", "null-sender"] == 1
    assert rows["carl@recipient.example", "null-sender"] == 1
    assert json.dumps(console.shown)


def test_a_broken_responder_can_be_set_anew(console: Console, desk: Desk) -> None:
    from postroom_autoresponder.backends import open_store
    from postroom_autoresponder.store import StoredResponder

    open_store(desk.services.state).replace_responder(BOB, "", StoredResponder("v1", "{"))
    console("list")
    assert console.shown[0][1] == "broken"
    assert "cannot be read" in console.run("show", BOB).output
    console.set()
    assert desk.receive() is None


def test_preview_prints_the_reply_and_sends_nothing(console: Console, desk: Desk) -> None:
    console.set("--text", "Dear ${name}", "--name", "Bob")
    output = console("preview", BOB, "--mail", "-", standard_input=MAIL)
    reply = parsed(output.encode())
    assert reply["To"] == "sender@example.org"
    assert reply.get_content() == "Dear Alice\n"
    assert "Re: A sample" in console("preview", BOB)
    result = console.run("preview", BOB, "--mail", "-", standard_input=b"List-Id: <x>\r\n" + MAIL)
    assert result.exit_code == 1
    assert "no reply: list" in result.output
    assert not desk.sent
    assert console.counts() == {"remembered addresses": 0}
    assert desk.receive() is None


def test_a_named_responder_says_how_it_is_used(console: Console) -> None:
    assert "--context responder=closed" in console("set", "closed", "--text", "We are closed.")
    assert not console.registered


ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "handlers" / "autoresponder.md").read_text()
README = (ROOT / "plugins" / "autoresponder" / "README.md").read_text()


def test_the_page_names_every_setting_command_option_and_reason() -> None:
    import dataclasses

    from postroom_autoresponder.commands import autoresponder
    from postroom_autoresponder.template import FIELDS

    section = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| (.*) \|$", section, re.MULTILINE)
    words = {True: "yes", False: "no"}
    assert listed == [
        (
            field.name,
            (words[field.default] if isinstance(field.default, bool) else str(field.default)) or "none",
            field.metadata["help"],
        )
        for field in dataclasses.fields(AutoresponderSettings)
    ]
    assert set(re.findall(r"^\| `postroom autoresponder (\w+)", PAGE, re.MULTILINE)) == set(autoresponder.commands)
    for option in autoresponder.commands["set"].params:
        for name in option.opts:
            assert not name.startswith("--") or f"`{name}`" in PAGE, name
    assert [reason for reason in Silence if f"`{reason}`" not in PAGE] == []
    assert [name for name in FIELDS if f"`${{{name}}}`" not in PAGE] == []


EXAMPLES = sorted(
    {*re.findall(r"^\| `postroom autoresponder ([^`]+)` \|", PAGE, re.MULTILINE)}
    | {found.strip() for found in re.findall(r"^    postroom autoresponder ([^#\n]+)", README, re.MULTILINE)}
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_run(console: Console, example: str) -> None:
    import shlex

    console("set", "bob@example.org", "--text", "x")
    console(*shlex.split(example))
