"""`postroom grey …`, over both stores."""

from __future__ import annotations

import json

import pytest
from plugins.grey.greylisting import Console, Desk
from postroom.config import parse_config
from postroom.testing import FakeServices, envelope
from postroom.verdict import Action

MINUTE = 60


def test_status_shows_the_defaults_and_where_they_come_from(console: Console) -> None:
    shown = console.table("status")
    assert shown["wait"] == ("5m", "default")
    assert shown["expire"] == ("36d", "default")
    assert shown["penalty"] == ("2m", "default")
    assert shown["penalize"] == (False, "default")
    assert shown["personal"] == (True, "default")
    assert shown["white list"] == (0, "server")


def test_status_names_the_place_that_decides(console: Console, services: FakeServices) -> None:
    services.config = parse_config("[handlers.grey]\nexpire = '30d'\n", "test")
    console("set", "wait=10m", "penalize=yes")
    console("set", "wait=2m", "--domain", "Example.ORG")
    console("set", "penalize=no", "--mailbox", "bob+tag@example.org")
    assert console.table("status")["wait"] == ("10m", "server")
    assert console.table("status")["expire"][1] == "configuration"
    assert console.table("status", "--domain", "example.org")["wait"] == ("2m", "domain example.org")
    shown = console.table("status", "--mailbox", "bob@example.org")
    assert shown["wait"] == ("2m", "domain example.org")
    assert shown["penalize"] == (False, "mailbox bob@example.org")
    assert console.table("status", "--mailbox", "eve@example.org")["penalize"] == (True, "server")
    assert console.table("status")["domains of their own"][0] == 1


def test_unset_goes_back_to_what_holds_without(console: Console) -> None:
    console("set", "wait=10m", "penalty=3m")
    console("set", "--unset", "wait")
    shown = console.table("status")
    assert shown["wait"] == ("5m", "default")
    assert shown["penalty"] == ("3m", "server")
    console("set", "--unset", "penalty")
    console("status", "--all")
    assert console.shown == []


def test_status_of_all_shows_every_place(console: Console) -> None:
    console("set", "wait=10m")
    console("allow", "*@x.example", "--domain", "example.org")
    console("deny", "203.0.113.0/24", "--mailbox", "bob@example.org")
    console("status", "--all")
    assert console.shown == [
        ("domain example.org", "allow", "sender *@x.example"),
        ("mailbox bob@example.org", "deny", "client 203.0.113.0/24"),
        ("server", "wait", "10m"),
    ]


def test_lists_are_added_to_shown_and_taken_from(console: Console) -> None:
    console("allow", "b@x.example", "*.mail.example", "10.1.2.3/8")
    console("allow", "A@x.example", "b@x.example")
    console("allow")
    assert console.shown == [
        ("client", "10.0.0.0/8"),
        ("name", "*.mail.example"),
        ("sender", "a@x.example"),
        ("sender", "b@x.example"),
    ]
    console("allow", "--remove", "a@x.example", "10.0.0.0/8")
    console("allow")
    assert len(console.shown) == 2
    console("deny")
    assert console.shown == []


def test_a_list_holds_thousands_of_patterns(console: Console, desk: Desk) -> None:
    console("deny", *(f"*@d{number}.example" for number in range(5000)))
    assert desk.receive(envelope("a@d4999.example")).action is Action.REJECT
    assert desk.receive(envelope("a@d5000.example")).action is Action.DEFER


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "wait=soon"], "no duration"),
        (["set", "wiat=1m"], "did you mean 'wait'"),
        (["set", "wait"], "SETTING=VALUE"),
        (["set"], "SETTING=VALUE"),
        (["set", "--unset", "wiat"], "no setting"),
        (["set", "ipv4_prefix=33"], "at most 32"),
        (["set", "ipv4_prefix=30", "--domain", "x.example"], "whole server"),
        (["set", "wait=1m", "--domain", "a@x.example"], "takes a domain"),
        (["set", "wait=1m", "--mailbox", "x.example"], "no address"),
        (["set", "wait=1m", "--mailbox", "a@x.example", "--domain", "x.example"], "exclude"),
        (["allow", "a b"], "client name"),
        (["allow", "*"], "--kind"),
        (["allow", "10.0.0.0/33"], "no network"),
        (["allow", "--remove"], "needs the patterns"),
        (["release"], "whom to release"),
        (["release", "some.name"], "neither sender nor client"),
        (["forget"], "whom to forget"),
        (["forget", "a@x.example", "--all"], "whom to forget"),
        (["list", "some.name"], "neither sender nor client"),
        (["list", "--all", "--limit", "2"], "exclude each other"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changes(console: Console, words: list[str], says: str) -> None:
    result = console.run(*words)
    message = result.output + str(result.exception)
    assert result.exit_code != 0
    assert says in message
    console("status", "--all")
    assert console.shown == []


def test_taking_off_what_is_not_listed_is_a_no(console: Console) -> None:
    console("deny", "a@x.example")
    result = console.run("deny", "--remove", "a@x.example", "b@x.example")
    assert result.exit_code == 1
    assert "b@x.example is not on the deny list" in result.output
    console("deny")
    assert len(console.shown) == 1


def test_list_shows_who_waits_who_passed_and_which_networks_are_allowed(console: Console, desk: Desk) -> None:
    console("set", "auto_allow=1")
    desk.receive(envelope("alice@s.example", "bob@r.example"))
    desk.clock.advance(5 * MINUTE)
    desk.receive(envelope("alice@s.example", "bob@r.example"))
    desk.receive(envelope("eve@e.example", "bob@r.example", client="198.51.100.7"))
    console("list")
    assert [row[:5] for row in sorted(console.shown)] == [
        ("allowed", "203.0.113.0/24", None, None, 1),
        ("passed", "203.0.113.0/24", "alice@s.example", "bob@r.example", 2),
        ("waiting", "198.51.100.0/24", "eve@e.example", "bob@r.example", 1),
    ]
    (waiting,) = [row for row in console.shown if row[0] == "waiting"]
    assert waiting[5:8] == ("2023-11-14T22:18:20Z", "2023-11-14T22:18:20Z", "2023-11-14T22:23:20Z")
    shown = console.table("status")
    assert (shown["waiting"][0], shown["passed"][0], shown["networks allowed"][0]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--state", "waiting"], 3),
        (["--state", "passed"], 0),
        (["a@s.example"], 2),
        (["*@s.example", "--recipient", "*@r.example"], 2),
        (["203.0.113.77"], 2),
        (["198.51.0.0/16"], 1),
        (["--recipient", "x@q.example"], 1),
        (["--limit", "2"], 2),
    ],
)
def test_list_shows_what_is_asked_for(console: Console, desk: Desk, words: list[str], count: int) -> None:
    desk.receive(envelope("a@s.example", "x@r.example"))
    desk.receive(envelope("b@s.example", "x@r.example"))
    desk.receive(envelope("a@s.example", "x@q.example", client="198.51.100.7"))
    console("list", *words)
    assert len(console.shown) == count


@pytest.mark.parametrize("who", ["bounce-7=bob@s.example", "bounce-#=bob@s.example", "*@s.example", "203.0.113.9"])
def test_release_lets_one_that_waits_through_at_once(console: Console, desk: Desk, who: str) -> None:
    mail, other = envelope("bounce-123=bob@s.example"), envelope("eve@e.example", client="198.51.100.7")
    desk.receive(mail)
    desk.receive(other)
    assert console("release", who) == "released: 1\n"
    assert console.run("release", who).exit_code == 1
    assert desk.receive(other).action is Action.DEFER
    assert desk.receive(mail).action is Action.SKIP
    assert console.run("release", who).exit_code == 1


def test_release_can_be_for_one_recipient(console: Console, desk: Desk) -> None:
    one, other = envelope("a@s.example", "one@r.example"), envelope("a@s.example", "other@r.example")
    desk.receive(one)
    desk.receive(other)
    console("release", "a@s.example", "--recipient", "one@r.example")
    assert desk.receive(one).action is Action.SKIP
    assert desk.receive(other).action is Action.DEFER


def test_nobody_to_release_is_a_no(console: Console) -> None:
    result = console.run("release", "nobody@s.example")
    assert result.exit_code == 1
    assert "nobody like that waits" in result.output


def test_the_forgotten_wait_again(console: Console, desk: Desk) -> None:
    console("set", "auto_allow=1")
    for sender in ("a@s.example", "b@s.example"):
        desk.receive(envelope(sender))
    desk.clock.advance(5 * MINUTE)
    desk.receive(envelope("a@s.example"))
    assert console("forget", "203.0.113.5") == "forgotten: 3\n"
    assert desk.receive(envelope("a@s.example")).action is Action.DEFER
    assert console("forget", "--all") == "forgotten: 1\n"
    assert console.run("forget", "a@s.example").exit_code == 1
    assert console.table("status")["auto_allow"] == (1, "server")


def test_json_is_asked_of_the_core(console: Console) -> None:
    result = console.run("status", "--json")
    assert result.exit_code == 0
    assert json.dumps(console.shown)


def test_many_rows_are_shown_and_released(console: Console, desk: Desk) -> None:
    desk.receive(envelope("a@s.example", *(f"u{number}@r.example" for number in range(1700))))
    result = console.run("list")
    assert len(set(console.shown)) == len(console.shown) == 100
    assert "and 1600 more: see them with --all" in result.output
    assert "and 1590 more" in console.run("list", "--limit", "110", "--recipient", "*@r.example").output
    assert "more" not in console.run("list", "--limit", "1700").output
    console("list", "--json", "--limit", "3")
    assert len(console.shown) == 3
    for option in ("--all", "--json"):
        console("list", option)
        assert len(set(console.shown)) == len(console.shown) == 1700
    assert console("release", "a@s.example") == "released: 1700\n"
    assert console("forget", "a@s.example") == "forgotten: 1700\n"
