"""What a scan's result means for the mail: pure, so every combination is cheap."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import ConfigError, build, build_from_context
from postroom.mail import AddField, Field, InsertField, Message, ReplaceField, parse_message
from postroom.registration import Stage
from postroom.verdict import Action, Category, Verdict
from postroom_antivirus.engine import ScanResult, Status
from postroom_antivirus.handler import clamav, drweb, kaspersky
from postroom_antivirus.policy import Danger, ScanFailed, ScanTimedOut, danger_of, decide
from postroom_antivirus.settings import ClamavSettings, Consequence, DrwebSettings, KasperskySettings, Protocol

MAIL = parse_message(b"Subject: hello\r\n\r\nhello\r\n")
INFECTED = ScanResult(Status.FOUND, ("Win.Test",), server="unix:/s")
SUSPICIOUS = ScanResult(Status.FOUND, ("PUA.Win.Packer",))
UNSCANNABLE = ScanResult(Status.FOUND, ("Heuristics.Encrypted.Zip",))
TOO_LARGE = ScanResult(Status.TOO_LARGE, detail="longer than its StreamMaxLength")
CLEAN = ScanResult(Status.CLEAN)


def verdict(result: ScanResult, message: Message = MAIL, **settings: Any) -> Verdict:
    return decide(result, message, ClamavSettings(**settings), "clamav")


def made(found: Verdict, message: Message = MAIL) -> list[tuple[bytes, bytes]]:
    return [(field.name, field.value) for field in message.with_edits(found.edits).fields]


@pytest.mark.parametrize(
    ("setting", "result", "category"),
    [
        ("infected", INFECTED, Category.INFECTED),
        ("suspicious", SUSPICIOUS, Category.INFECTED),
        ("unscannable", UNSCANNABLE, None),
        ("too_large", TOO_LARGE, None),
    ],
)
def test_each_danger_has_its_own_consequence(setting: str, result: ScanResult, category: Category | None) -> None:
    wanted = {
        Consequence.REJECT: Action.REJECT,
        Consequence.QUARANTINE: Action.QUARANTINE,
        Consequence.DISCARD: Action.STOP,
        Consequence.MARK: Action.PASS,
    }
    for consequence, action in wanted.items():
        found = verdict(result, MAIL, **{setting: consequence})
        assert found.action is action
        assert found.category is (None if action is Action.PASS else category)
        assert bool(found.edits) is (consequence is Consequence.MARK)
    if setting != "infected":
        found = verdict(result, MAIL, **{setting: Consequence.PASS})
        assert (found.action, found.edits) == (Action.PASS, ())


def test_defaults() -> None:
    assert verdict(INFECTED).action is Action.REJECT
    assert verdict(SUSPICIOUS).action is Action.QUARANTINE
    assert made(verdict(UNSCANNABLE))[0] == (
        b"X-Virus-Status",
        b' unscannable; name="Heuristics.Encrypted.Zip"; by=clamav',
    )
    assert made(verdict(TOO_LARGE))[0] == (b"X-Virus-Status", b" not scanned; by=clamav")
    assert verdict(CLEAN).edits == ()


def test_no_result_is_neither_clean_nor_infected_whatever_is_set() -> None:
    with pytest.raises(ScanFailed, match="because"):
        verdict(ScanResult(Status.ERROR, detail="because"))
    with pytest.raises(ScanTimedOut, match="late"):
        verdict(ScanResult(Status.TIMEOUT, detail="late"))


def test_patterns_say_what_a_name_counts_as() -> None:
    def danger(name: str, **settings: Any) -> Danger:
        return danger_of(ScanResult(Status.FOUND, (name,)), ClamavSettings(**settings))[0]

    assert danger("Win.Trojan.Agent-1") is Danger.INFECTED
    assert danger("Heuristics.OLE2.ContainsMacros.VBA") is Danger.SUSPICIOUS
    assert danger("heuristics.encrypted.pdf") is Danger.UNSCANNABLE
    assert danger("Heuristics.Limits.Exceeded.MaxFileSize") is Danger.UNSCANNABLE
    assert danger("Heuristics.Phishing.X", ignored_names=("Heuristics.Phishing.*",)) is Danger.CLEAN
    assert danger("EICAR Test File (NOT a Virus!)", ignored_names=("EICAR Test File*",)) is Danger.CLEAN
    assert danger("Heuristics.Phishing.X", suspicious_names=()) is Danger.INFECTED


NAMES = {
    "Win.Bad": Danger.INFECTED,
    "PUA.x": Danger.SUSPICIOUS,
    "Heuristics.Encrypted.Zip": Danger.UNSCANNABLE,
    "Fine.x": Danger.CLEAN,
}


@given(st.lists(st.sampled_from(sorted(NAMES)), min_size=1))
def test_of_several_finds_the_worst_counts(names: list[str]) -> None:
    danger, name = danger_of(ScanResult(Status.FOUND, tuple(names)), ClamavSettings(ignored_names=("Fine.*",)))
    assert danger is max((NAMES[each] for each in names), key=tuple(Danger).index)
    assert NAMES[name] is danger


def test_the_name_is_in_the_log_and_in_the_reply_only_when_set() -> None:
    for result in (INFECTED, SUSPICIOUS, UNSCANNABLE):
        settings: dict[str, Any] = {"suspicious": Consequence.REJECT, "unscannable": Consequence.REJECT}
        (name,) = result.signatures
        silent, told = verdict(result, **settings), verdict(result, name_in_reply=True, **settings)
        assert silent.reply is not None
        assert told.reply is not None
        assert name not in silent.reply.text
        assert told.reply.text == f"{silent.reply.text} ({name})"
        assert name in silent.reason
    assert "says unix:/s" in verdict(INFECTED).reason


def test_a_mail_that_brings_our_header_along_loses_it() -> None:
    forged = parse_message(b"X-Virus-Status: clean\r\nSubject: a\r\nx-virus-STATUS: clean; by=me\r\n\r\nhello\r\n")
    assert made(verdict(CLEAN, forged), forged) == [(b"Subject", b" a")]
    assert made(verdict(CLEAN, forged, clean_header=True), forged) == [
        (b"X-Virus-Status", b" clean; by=clamav"),
        (b"Subject", b" a"),
    ]
    assert b"X-Virus-Status: clean\r\n" not in forged.with_edits(verdict(TOO_LARGE, forged).edits).header()


def test_a_scanner_before_us_keeps_its_header_and_our_own_is_not_doubled() -> None:
    other = Field(b"X-Virus-Status", b" clean; by=drweb")
    marked = Message((other, *MAIL.fields), MAIL.body)
    assert verdict(CLEAN, marked).edits == ()
    first = MAIL.with_edits(verdict(CLEAN, clean_header=True).edits)
    assert verdict(CLEAN, first, clean_header=True).edits == ()
    assert len(first.get_all(b"X-Virus-Status")) == 1


def test_the_subject_of_a_marked_mail_is_tagged_once() -> None:
    settings: dict[str, Any] = {"infected": Consequence.MARK, "subject_tag": "[VIRUS]"}
    edit = verdict(INFECTED, **settings).edits[-1]
    assert edit == ReplaceField(b"Subject", b" [VIRUS] hello")
    again = MAIL.with_edits([edit])
    assert [type(each) for each in verdict(INFECTED, again, **settings).edits] == [InsertField]
    assert verdict(INFECTED, Message(), **settings).edits[-1] == AddField(b"Subject", b" [VIRUS]")
    umlaut = verdict(INFECTED, infected=Consequence.MARK, subject_tag="[gefährlich]").edits[-1]
    assert isinstance(umlaut, ReplaceField)
    assert umlaut.value.isascii()
    assert umlaut.value.startswith(b" =?utf-8?")
    assert umlaut.value.endswith(b"?= hello")
    assert verdict(TOO_LARGE, **settings).edits == verdict(TOO_LARGE).edits


@given(st.text())
def test_no_name_breaks_out_of_the_header(name: str) -> None:
    from postroom.backends.trouble import safe

    found = verdict(ScanResult(Status.FOUND, (safe(name),)), infected=Consequence.MARK)
    value = found.edits[-1].value  # type: ignore[union-attr]
    assert value.isascii()
    assert b"\r" not in value
    assert b"\n" not in value
    assert value.count(b'"') in (0, 2)


@pytest.mark.parametrize(
    ("table", "remedy"),
    [
        ({"servers": []}, "servers is empty"),
        ({"servers": ["clamd:3310"]}, "is no socket"),
        ({"infected": "pass"}, "take mark, or disable the registration"),
        ({"infected": "delete"}, "is not one of pass, mark, reject, quarantine, discard"),
        ({"header": "Subject"}, "no name of an X- field"),
        ({"max_size": "1"}, "at least 1024"),
        ({"subject_tag": "a\nb"}, "one line"),
        ({"servers_": []}, "did you mean 'servers'"),
    ],
)
def test_wrong_settings_are_refused_with_the_remedy(table: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        build(ClamavSettings, table, "[handlers.clamav]")
    with pytest.raises(ConfigError, match="no path of an ICAP service"):
        build(DrwebSettings, {"service": "a b"}, "[handlers.drweb]")


def test_a_context_may_change_what_becomes_of_one_mailbox() -> None:
    text = "infected=quarantine, ignored_names=A.* B.*, clean_header, servers=inet:127.0.0.1:3310 unix:/run/s"
    settings = build_from_context(ClamavSettings, text, "context")
    assert settings.infected is Consequence.QUARANTINE
    assert settings.ignored_names == ("A.*", "B.*")
    assert settings.clean_header
    assert [str(server) for server in settings.servers] == ["inet:127.0.0.1:3310", "unix:/run/s"]
    assert build_from_context(DrwebSettings, "protocol=clamd", "context").protocol is Protocol.CLAMD
    assert KasperskySettings().servers[0].port == 1344


@pytest.mark.parametrize("handler", [clamav, drweb, kaspersky])
def test_the_places_are_the_references(handler: Any) -> None:
    info = handler.describe()
    assert [(str(each.stage), str(each.type), each.priority) for each in info.placements] == [
        (Stage.BEFORE_QUEUE, "recipient", 20),
        (Stage.BEFORE_REMOTE, "sender", 20),
    ]
    assert info.on_error == "defer"
    assert info.needs == "body"
    assert info.exempt == frozenset()
