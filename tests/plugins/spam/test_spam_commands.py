"""`postroom spam …` against real engines, as an administrator runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugins.spam.filtering import HAM, SPAM, Admin, says
from postroom.testing.ports import free_port
from postroom.testing.rspamd import RspamdInstance
from postroom.testing.spamd import SpamdInstance
from postroom.testing.standin import StandIn

LESSON = HAM + b" ".join(b"%b%d" % (word, number) for number in range(60) for word in (b"cheap", b"watch")) + b"\r\n"


def test_check_tells_score_rules_and_consequence(tmp_path: Path, spamd: SpamdInstance) -> None:
    admin = Admin(tmp_path, servers=[str(spamd.address)], action="junk")
    found = admin("spam", "check", admin.mail(SPAM))
    assert found.exit_code == 1, "spam: the answer is no"
    assert "GTUBE" in found.output
    assert "junk" in found.output
    found = admin("spam", "check", "-", "--json", stdin=HAM)
    assert found.exit_code == 0
    rows = {row["what"]: row["value"] for row in json.loads(found.output)}
    assert (rows["spam"], rows["threshold"]) == ("no", "7.0")


def test_check_goes_by_lists_and_preferences(tmp_path: Path, own_spamd: SpamdInstance) -> None:
    admin = Admin(tmp_path, servers=[str(own_spamd.address)], engine_threshold=True)
    assert admin("spam", "deny", "*@friend.example", "--domain", "recipient.example").exit_code == 0
    assert "sender" in admin("spam", "deny", "--domain", "recipient.example").output
    words = ("spam", "check", admin.mail(HAM), "--sender", "a@friend.example", "--recipient")
    assert admin(*words, "bob@recipient.example").exit_code == 1
    assert admin(*words, "bob@elsewhere.example").exit_code == 0
    assert admin(*words, "strict@recipient.example").exit_code == 1


def test_both_handlers_commands_change_the_same_lists(tmp_path: Path) -> None:
    admin = Admin(tmp_path)
    assert admin("spam", "allow", "*@friend.example").exit_code == 0
    assert admin("grey", "set", "wait=2m").exit_code == 0
    assert "*@friend.example" in admin("grey", "allow").output
    assert admin("grey", "allow", "--remove", "*@friend.example").exit_code == 0
    assert "friend" not in admin("spam", "allow").output
    assert admin("spam", "allow", "--remove", "x@friend.example").exit_code == 1
    assert admin("spam", "allow", "no pattern").exit_code == 2
    assert "2m" in admin("grey", "status").output, "what else is kept there stays"


def test_spamd_learns_for_one_user(tmp_path: Path, own_spamd: SpamdInstance) -> None:
    admin = Admin(tmp_path, servers=[str(own_spamd.address)])
    mail = admin.mail(LESSON)
    first = admin("spam", "learn", "spam", mail, "--recipient", "strict@recipient.example")
    assert "1 of 1 learnt as spam" in first.output
    again = admin("spam", "learn", "spam", mail, "--recipient", "strict@recipient.example")
    assert "0 of 1 learnt as spam; the rest were known" in again.output


def test_spamd_that_may_not_learn_says_so(tmp_path: Path, spamd: SpamdInstance) -> None:
    admin = Admin(tmp_path, servers=[str(spamd.address)])
    refused = admin("spam", "learn", "ham", admin.mail(HAM))
    assert refused.exit_code == 75
    assert "--allow-tell" in refused.output


@pytest.mark.xdist_group("rspamd")
def test_rspamd_learns_with_its_password(tmp_path: Path, learning_rspamd: RspamdInstance) -> None:
    settings = {
        "engine": "rspamd",
        "servers": [str(learning_rspamd.address)],
        "controller": str(learning_rspamd.controller),
    }
    mail = Admin(tmp_path).mail(LESSON)
    refused = Admin(tmp_path, **settings)("spam", "learn", "spam", mail)
    assert refused.exit_code == 75
    assert "403" in refused.output or "401" in refused.output
    admin = Admin(tmp_path, **settings, password=learning_rspamd.password)
    assert "1 of 1 learnt as spam" in admin("spam", "learn", "spam", mail).output
    assert "rspamd 3" in admin("spam", "status").output


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 208 Already\r\nContent-Length: 0\r\n\r\n", "0 of 1 learnt as ham; the rest were known"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "would not learn it"),
    ],
)
def test_what_rspamd_does_not_learn(tmp_path: Path, answer: bytes, said: str) -> None:
    with StandIn(says(answer)) as server:
        admin = Admin(tmp_path, engine="rspamd", servers=[str(server.address)], controller=str(server.address))
        assert said in admin("spam", "learn", "ham", admin.mail(HAM)).output


def test_status_says_who_answers(tmp_path: Path, spamd: SpamdInstance) -> None:
    gone = f"inet:127.0.0.1:{free_port()}"
    found = Admin(tmp_path, servers=[gone, str(spamd.address)], high_threshold=12)("spam", "status")
    assert found.exit_code == 0
    assert "SpamAssassin" in found.output
    assert "refused" in found.output
    assert "from 12" in found.output
    assert Admin(tmp_path, servers=[gone])("spam", "status").exit_code == 1
    nobody = Admin(tmp_path, servers=[gone])("spam", "check", Admin(tmp_path, servers=[gone]).mail(HAM))
    assert nobody.exit_code == 75
    assert nobody.output.count("\n") == 1
