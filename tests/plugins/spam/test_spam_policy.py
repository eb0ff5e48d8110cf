"""Pure: scores, lists and thresholds to consequences, and the header fields, octet by octet."""

from __future__ import annotations

import email.header

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import ConfigError, build_from_context
from postroom.edit_rules import check_edits
from postroom.lists.senders import Listing, ListName
from postroom.mail import AddField, Field, FileInto, InsertField, Message, RemoveField, ReplaceField, parse_message
from postroom.registration import Stage
from postroom.verdict import Action, Category
from postroom_spam.engine import Report
from postroom_spam.fields import level, number, report, status, tag_subject, without_forged
from postroom_spam.policy import SpamFinding, decide, judge
from postroom_spam.rspamd import read_report
from postroom_spam.settings import Consequence, SpamSettings

MAIL = b"From: a@b.example\r\nSubject: hello\r\n\r\nhello\r\n"


def reported(score: float, *symbols: str, required: float = 5.0) -> Report:
    return Report(score, required, score >= required, symbols)


@pytest.mark.parametrize(
    ("context", "score", "action"),
    [
        ("", 6.99, Action.PASS),
        ("", 7.0, Action.PASS),
        ("action=quarantine", 6.99, Action.PASS),
        ("action=quarantine", 7.0, Action.QUARANTINE),
        ("action=discard", 7.0, Action.STOP),
        ("action=reject", 7.0, Action.REJECT),
        ("threshold=3, action=discard", 3.0, Action.STOP),
        ("high_threshold=12", 11.9, Action.PASS),
        ("high_threshold=12", 12.0, Action.STOP),
        ("high_threshold=12, high_action=quarantine", 12.0, Action.QUARANTINE),
        ("engine_threshold, action=discard", 5.0, Action.STOP),
        ("engine_threshold, action=discard", 4.9, Action.PASS),
    ],
)
def test_what_a_score_comes_to(context: str, score: float, action: Action) -> None:
    settings = build_from_context(SpamSettings, context, "context")
    verdict = decide(judge(reported(score), None, settings), "", None, parse_message(MAIL), settings)
    assert verdict.action is action
    assert verdict.finding == SpamFinding(
        score, 5.0 if settings.engine_threshold else settings.threshold, score >= verdict.finding.required, "spamd"
    )
    assert f"score {number(score)} of" in verdict.reason


def test_a_refusal_says_that_it_is_about_spam() -> None:
    for action in (Consequence.REJECT, Consequence.QUARANTINE):
        settings = SpamSettings(action=action)
        verdict = decide(judge(reported(9, "SECRET_RULE"), None, settings), "", None, parse_message(MAIL), settings)
        assert verdict.category is Category.SPAM
        assert "SECRET_RULE" not in (verdict.reply.text if verdict.reply else "")


def test_spam_is_filed_where_the_mailbox_wants_it() -> None:
    settings = SpamSettings(action=Consequence.JUNK, folder="Lists.Spam")
    verdict = decide(judge(reported(9), None, settings), "", None, parse_message(MAIL), settings)
    assert verdict.edits[-1] == FileInto("Lists.Spam")
    verdict = decide(judge(reported(1), None, settings), "", None, parse_message(MAIL), settings)
    assert not any(isinstance(edit, FileInto) for edit in verdict.edits)


@pytest.mark.parametrize(
    ("name", "scanned", "score", "is_spam"),
    [
        (ListName.ALLOW, reported(50.0), -50.0, False),
        (ListName.ALLOW, reported(1000.0), 900.0, True),  # the test mail is spam from anybody, as in the reference
        (ListName.DENY, reported(-20.0), 80.0, True),
        (ListName.DENY, None, 100.0, True),
        (ListName.ALLOW, None, -100.0, False),
    ],
)
def test_lists_are_worth_a_hundred_points(name: ListName, scanned: Report | None, score: float, is_spam: bool) -> None:
    for settings in (SpamSettings(), SpamSettings(engine_threshold=True)):
        finding = judge(scanned, Listing(name, "sender x@y at server"), settings)
        assert (finding.score, finding.is_spam, finding.scanned) == (score, is_spam, scanned is not None)


def test_a_mail_that_nobody_looked_at_is_no_spam() -> None:
    assert not judge(None, None, SpamSettings(threshold=-10)).is_spam


def test_the_fields_octet_by_octet() -> None:
    settings = SpamSettings(report=True)
    message = parse_message(MAIL)
    finding = judge(reported(12.34, "RULE_A", "RULE_B"), None, settings)
    verdict = decide(finding, "Content preview:\n 9.9 RULE_A  bäd\n\n 2.4 RULE_B worse", None, message, settings)
    assert message.with_edits(verdict.edits).header() == (
        b"X-Spam-Flag: YES\r\n"
        b"X-Spam-Status: Yes, score=12.3 required=7.0\r\n\ttests=RULE_A,RULE_B\r\n"
        b"X-Spam-Score: 12.3\r\n"
        b"X-Spam-Level: ************\r\n"
        b"X-Spam-Report: rules that hit:\r\n\t* Content preview:\r\n\t* 9.9 RULE_A  b?d\r\n\t* 2.4 RULE_B worse\r\n"
        b"From: a@b.example\r\n"
        b"Subject: *****SPAM***** hello\r\n"
    )
    ham = decide(judge(reported(-0.04), None, settings), "", None, message, settings)
    assert message.with_edits(ham.edits).header() == (
        b"X-Spam-Status: No, score=0.0 required=7.0\r\n\ttests=none\r\nX-Spam-Score: 0.0\r\n"
        b"From: a@b.example\r\nSubject: hello\r\n"
    )


def test_what_was_not_scanned_says_so() -> None:
    settings = SpamSettings()
    message = parse_message(MAIL)
    edited = message.with_edits(decide(judge(None, None, settings), "", None, message, settings).edits)
    assert edited.get(b"X-Spam-Status") == "No, not scanned (larger than 512K)"
    assert edited.get(b"X-Spam-Score") is None
    listing = Listing(ListName.DENY, "sender x@y at server")
    edited = message.with_edits(decide(judge(None, listing, settings), "", listing, message, settings).edits)
    assert edited.get(b"X-Spam-Status") == (
        "Yes, score=100.0 required=7.0 not scanned (larger than 512K)\ttests=ON_BLACK_LIST"
    )


def test_without_headers_only_forged_ones_go() -> None:
    settings = SpamSettings(headers=False, tag="")
    verdict = decide(
        judge(reported(9), None, settings), "", None, parse_message(b"X-Spam-Flag: NO\r\n" + MAIL), settings
    )
    assert verdict.edits == (RemoveField(b"X-Spam-Flag"),)


def test_forged_fields_are_removed_however_they_are_written() -> None:
    forged = b"X-Spam-Flag: NO\r\nx-sPAM-stAtus : No,\r\n score=-99\r\nX-Spam-Flag: NO\r\nX-Spam-Other: a\r\n"
    forged += b"X-Spammer: b\r\n"
    message = parse_message(forged + MAIL)
    edits = list(without_forged(message))
    assert check_edits(edits, Stage.BEFORE_LOCAL) == ""
    assert message.with_edits(edits).header() == b"X-Spammer: b\r\n" + MAIL.partition(b"\r\n\r\n")[0] + b"\r\n"


@pytest.mark.parametrize(
    ("value", "tagged"),
    [
        (b" hello", b" TAG hello"),
        (b"hello", b" TAG hello"),
        (b"", b" TAG "),
        (b"\thello", b" TAG\thello"),
        (b"\r\n =?utf-8?Q?gr=C3=BC?=\r\n =?utf-8?Q?n?=", b" TAG\r\n =?utf-8?Q?gr=C3=BC?=\r\n =?utf-8?Q?n?="),
        (b" raw \xff\xfc 8 bit", b" TAG raw \xff\xfc 8 bit"),
        (b" nul \0 cr \r lf \n end", b" TAG nul   cr   lf   end"),
        (b" folded\r\n\tonce", b" TAG folded\r\n\tonce"),
        (b" " + b"x" * 989, b" TAG\r\n " + b"x" * 989),
    ],
)
def test_the_tag_leaves_the_subject_s_octets(value: bytes, tagged: bytes) -> None:
    message = Message((Field(b"SUBJECT", value, 0), Field(b"Subject", b" another", 1)))
    edit = tag_subject(message, "TAG")
    assert edit == ReplaceField(b"SUBJECT", tagged)
    assert check_edits([edit], Stage.BEFORE_LOCAL) == ""
    assert tag_subject(message.with_edits([edit]), "TAG") is None, "tagged twice"


def test_a_mail_without_subject_gets_one() -> None:
    assert tag_subject(parse_message(b"From: a\r\n\r\n"), "TAG") == AddField(b"Subject", b" TAG")


def test_a_tag_outside_ascii_is_an_encoded_word_that_stays_apart() -> None:
    message = parse_message(b"Subject: =?utf-8?Q?gr=C3=BC=C3=9Fe?=\r\n\r\n")
    edit = tag_subject(message, "ÄRGER")
    assert isinstance(edit, ReplaceField)
    text = str(email.header.make_header(email.header.decode_header(edit.value.decode("ascii").strip())))
    assert text == "ÄRGER grüße"


@given(
    st.binary(max_size=60), st.lists(st.from_regex(r"[A-Z_]{1,30}", fullmatch=True), max_size=40), st.floats(-1e6, 1e6)
)
def test_whatever_comes_the_edits_are_fine(value: bytes, symbols: list[str], score: float) -> None:
    message = parse_message(b"X-Spam-Flag: NO\r\nSubject:" + value + b"\r\n\r\n")
    settings = SpamSettings(report=True)
    finding = judge(reported(score, *symbols), None, settings)
    edits = decide(finding, value.decode("latin-1"), None, message, settings).edits
    assert check_edits(edits, Stage.BEFORE_LOCAL) == ""
    for edit in edits:
        if isinstance(edit, InsertField):
            assert all(len(line) <= 998 for line in edit.value.split(b"\r\n"))
            assert edit.value.isascii()


def test_long_lists_of_rules_are_folded() -> None:
    value = status(True, 9.0, 7.0, [f"RULE_NUMBER_{number}" for number in range(50)], "")
    lines = value.split(b"\r\n")
    assert len(lines) > 5
    assert max(map(len, lines)) <= 78
    assert value.replace(b"\r\n\t", b"").endswith(b"RULE_NUMBER_48,RULE_NUMBER_49")


def test_numbers_are_cut_off_and_levels_bounded() -> None:
    assert [number(each) for each in (6.96, 7.0, -0.04, 0.3, 1e6)] == ["6.9", "7.0", "0.0", "0.3", "1000000.0"]
    assert level(0.9) == b""
    assert level(3.9) == b" ***"
    assert len(level(1000)) == 51
    assert report("x" * 200).endswith(b"x" * 76)


@pytest.mark.parametrize(
    "context",
    [
        "threshold=x",
        "folder=../x",
        "action=burn",
        "high_threshold=3",
        "max_size=1",
        "engine=amavis",
        "tag=" + "x" * 101,
    ],
)
def test_wrong_settings_are_refused_when_they_are_set(context: str) -> None:
    with pytest.raises(ConfigError):
        build_from_context(SpamSettings, context, "context")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"score": 3.5, "required_score": 15, "action": "no action"}, (3.5, False)),
        ({"score": 8.0, "required_score": 15, "action": "add header"}, (8.0, True)),
        ({"score": 0.0, "required_score": 15, "action": "reject", "is_skipped": True}, (15.0, True)),
        ({"score": 0.0, "required_score": 15, "action": "discard"}, (15.0, True)),
        ({"score": 0.0, "required_score": 15, "action": "quarantine"}, (15.0, True)),
        ({"score": 5.0, "required_score": 15, "action": "greylist"}, (5.0, False)),
    ],
)
def test_rspamd_s_answer_is_read(answer: dict[str, object], expected: tuple[float, bool]) -> None:
    found = read_report(answer)
    assert (found.score, found.is_spam) == expected


SCORED = {"score": 5.0, "required_score": 15, "action": "soft reject", "symbols": {"RULE_A": {"score": 5.0}}}


@pytest.mark.parametrize(
    ("answer", "unfinished"),
    [
        (SCORED | {"messages": {"smtp_message": "Try again later"}}, ""),  # greylisting: all rules were tried
        (SCORED | {"messages": {"smtp_message": "timeout processing message"}}, ": timeout processing message"),
        (SCORED | {"symbols": {}, "messages": {"smtp_message": "Ratelimit\n\u2603"}}, ": Ratelimit??"),
        (SCORED | {"symbols": {}, "messages": []}, ""),
        (SCORED | {"symbols": {}}, ""),
    ],
)
def test_a_judgement_that_rspamd_puts_off_is_none(answer: dict[str, object], unfinished: str) -> None:
    told = read_report(answer).unfinished
    assert told == (f"wants to be asked later{unfinished}" if unfinished or not answer["symbols"] else "")
