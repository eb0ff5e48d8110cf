"""Cases as files: a mail, and what it shall come to.

`.expect` is TOML: the envelope, `results` of earlier stages, words for `autoresponder set`, and either `silence` or a
table of the reply's fields ("": not there; `body`: in the text).
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from plugins.autoresponder.responding import ALICE, BOB, Console, Desk
from postroom.authentication_results import FINDING, parse_value
from postroom.testing import FakeServices

CASES = sorted((Path(__file__).parent / "cases").glob("*.eml"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_case_comes_to_what_it_shall(case: Path, here: FakeServices) -> None:
    expect = tomllib.loads(case.with_suffix(".expect").read_text())
    sender = expect.get("sender", ALICE)
    vouched = f"spf=pass smtp.mailfrom={sender.rpartition('@')[2] or 'none'}"
    results = parse_value(f"mx.example; {expect.get('results', vouched) or 'none'}".encode())
    assert results is not None
    here.findings[FINDING] = results
    Console(here).set("--text", "I am away.", *expect.get("set", ()))
    desk = Desk(here)
    silence = desk.receive(case.read_bytes(), sender=sender, recipient=expect.get("recipient", BOB))
    if "silence" in expect:
        assert silence == expect["silence"]
        assert not desk.sent
        return
    assert silence is None
    (submission,) = desk.sent
    assert not submission.sender
    assert [str(each) for each in submission.recipients] == [sender]
    reply = desk.reply()
    for name, value in expect.get("reply", {}).items():
        if name == "body":
            assert value in reply.get_content()
        else:
            assert (reply[name] or "") == value, name


def test_there_are_two_files_a_case() -> None:
    assert len(CASES) > 60
    assert all(case.with_suffix(".expect").exists() for case in CASES)
