"""Greylisting as a mail sees it, over both stores."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from plugins.grey.greylisting import Console, Desk
from postroom.config import Duration
from postroom.hookspecs import FindingLevel
from postroom.mail import TrafficClass
from postroom.registration import OnError
from postroom.testing import FakeServices, envelope
from postroom.verdict import Action
from postroom_grey.backends import open_store
from postroom_grey.decision import Result
from postroom_grey.greylist import Greylist
from postroom_grey.handler import GreyFinding, GreyHandler
from postroom_grey.settings import GreySettings
from postroom_grey.store import Request

MINUTE, DAY = 60, 86400
DEFER, REJECT, SKIP = Action.DEFER, Action.REJECT, Action.SKIP


@dataclass(frozen=True)
class Policy:
    """What spf leaves, as far as grey reads it."""

    result: str
    domain: str = "sender.example"


def test_clients_that_the_domain_vouches_for_are_one_when_set(desk: Desk) -> None:
    desk.settings = replace(desk.settings, by_domain=True)
    desk.services.findings["spf"] = Policy("pass")
    assert desk.receive(envelope(client="203.0.113.5")).action is DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope(client="198.51.100.7")).action is SKIP
    desk.services.findings["spf"] = Policy("pass", "other.example")
    assert desk.receive(envelope(client="198.51.100.7")).action is DEFER


@pytest.mark.parametrize(("result", "by_domain"), [("softfail", True), ("fail", True), ("none", True), ("pass", False)])
def test_a_domain_that_does_not_vouch_leaves_each_network_for_itself(desk: Desk, result: str, by_domain: bool) -> None:
    desk.settings = replace(desk.settings, by_domain=by_domain)
    desk.services.findings["spf"] = Policy(result)
    assert desk.receive(envelope(client="203.0.113.5")).action is DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope(client="198.51.100.7")).action is DEFER


def test_a_stranger_waits_five_minutes(desk: Desk) -> None:
    first = desk.receive(envelope())
    assert first.action is DEFER
    assert first.reply is not None
    assert first.reply.line(DEFER) == "451 4.7.1 Service unavailable - try again later"
    assert first.reason == "first attempt, wait 5m"
    desk.clock.advance(299)
    assert desk.receive(envelope()).reason == "came back too early, wait another 1s"
    desk.clock.advance(1)
    assert desk.receive(envelope()).reason == "came back after 5m"
    assert desk.receive(envelope()).action is SKIP


def test_a_stranger_is_remembered_for_36_days(desk: Desk) -> None:
    desk.receive(envelope())
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope()).action is SKIP
    desk.clock.advance(36 * DAY - 1)
    assert desk.receive(envelope()).action is SKIP
    desk.clock.advance(36 * DAY)
    assert desk.receive(envelope()).action is DEFER


def test_the_penalty_is_off_until_it_is_switched_on(services: FakeServices) -> None:
    kind, strict = Desk(services), Desk(services, GreySettings(penalize=True))
    for desk, sender, expected in ((kind, "a@x.example", SKIP), (strict, "b@x.example", DEFER)):
        desk.receive(envelope(sender))
        desk.clock.advance(MINUTE)
        desk.receive(envelope(sender))
        desk.clock.advance(4 * MINUTE)
        assert desk.receive(envelope(sender)).action is expected
    strict.clock.advance(4 * MINUTE)  # the early one and the one after it cost two minutes each
    assert strict.receive(envelope("b@x.example")).action is SKIP


@pytest.mark.parametrize(
    ("first", "second", "settings", "known"),
    [
        ("203.0.113.5", "203.0.113.99", GreySettings(), True),
        ("203.0.113.5", "203.0.114.5", GreySettings(), False),
        ("203.0.113.5", "203.0.113.99", GreySettings(ipv4_prefix=32), False),
        ("2001:db8::1", "2001:db8::ffff:1", GreySettings(), True),
        ("2001:db8::1", "2001:db8:0:1::1", GreySettings(), False),
    ],
)
def test_a_client_is_its_network(
    services: FakeServices, first: str, second: str, settings: GreySettings, known: bool
) -> None:
    desk = Desk(services, settings)
    desk.receive(envelope(client=first))
    desk.clock.advance(5 * MINUTE)
    assert (desk.receive(envelope(client=second)).action is SKIP) is known


def test_sender_and_recipient_count_without_case(desk: Desk) -> None:
    desk.receive(envelope("Alice@Sender.example", "Bob@Recipient.example"))
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("alice@sender.example", "bob@recipient.example")).action is SKIP
    assert desk.receive(envelope("carol@sender.example", "bob@recipient.example")).action is DEFER
    assert desk.receive(envelope("alice@sender.example", "dave@recipient.example")).action is DEFER


def test_a_changing_sender_address_is_recognised(desk: Desk) -> None:
    desk.receive(envelope("bounce-123=bob@list.example"))
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("bounce-456=bob@list.example")).action is SKIP
    exact = Desk(desk.services, GreySettings(strip_tags=False))
    assert exact.receive(envelope("bounce-789=bob@list.example")).action is DEFER


def test_the_null_sender_waits_like_any_other(desk: Desk) -> None:
    assert desk.receive(envelope("")).action is DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("")).action is SKIP


def test_odd_addresses_are_remembered_too(desk: Desk) -> None:
    odd = envelope("\udcff\udcfe'\"\x00@\udcff", "\udcff@r.example", "nodomain", "x" * 2000 + "@r.example")
    assert desk.receive(odd).action is DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(odd).action is SKIP
    other = envelope("\udcff\udcfe'\"\x00@\udcff", "\udcff@r.example", "nodomain", "x" * 2001 + "@r.example")
    assert desk.receive(other).action is DEFER


def test_a_client_without_address_waits_and_never_makes_the_others_known(services: FakeServices) -> None:
    desk = Desk(services, GreySettings(auto_allow=1))
    for sender in ("a@x.example", "b@x.example"):
        unknown = replace(envelope(sender).session, client_address=None)
        mail = replace(envelope(sender), session=unknown)
        assert desk.receive(mail).action is DEFER
        desk.clock.advance(5 * MINUTE)
        assert desk.receive(mail).action is SKIP


def test_what_is_submitted_on_this_host_passes(desk: Desk) -> None:
    assert desk.receive(envelope(client=None)).action is SKIP


def test_authenticated_clients_and_own_networks_are_exempt() -> None:
    info = GreyHandler().describe()
    assert info.exempt == {TrafficClass.AUTHENTICATED, TrafficClass.LOCAL}
    assert info.on_error is OnError.DEFER


# Several recipients


def test_all_recipients_pass_together_on_the_retry(desk: Desk) -> None:
    mail = envelope("alice@s.example", "a@r.example", "b@r.example", "c@other.example")
    assert desk.receive(mail).action is DEFER
    desk.clock.advance(5 * MINUTE)
    verdict = desk.receive(mail)
    assert verdict.action is SKIP
    assert isinstance(verdict.finding, GreyFinding)
    assert [one.attempted.result for one in verdict.finding.decisions if one.attempted] == [Result.WAITED] * 3


def test_one_new_recipient_makes_the_mail_wait_and_the_known_ones_stay_known(desk: Desk) -> None:
    desk.receive(envelope("alice@s.example", "a@r.example"))
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("alice@s.example", "a@r.example", "b@r.example")).action is DEFER
    assert desk.receive(envelope("alice@s.example", "a@r.example")).reason == "known"
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("alice@s.example", "a@r.example", "b@r.example")).action is SKIP


def test_two_tags_of_one_mailbox_are_one_recipient(services: FakeServices) -> None:
    desk = Desk(services, GreySettings(penalize=True))
    mail = envelope("alice@s.example", "bob+x@r.example", "bob+y@r.example", "bob@r.example")
    verdict = desk.receive(mail)
    assert isinstance(verdict.finding, GreyFinding)
    assert [one.attempted.result for one in verdict.finding.decisions if one.attempted] == [Result.FIRST] * 3
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(mail).action is SKIP


def test_ten_thousand_recipients_are_one_attempt(desk: Desk) -> None:
    mail = envelope("alice@s.example", *(f"user{number}@r.example" for number in range(10_000)))
    assert desk.receive(mail).action is DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(mail).action is SKIP


def test_a_policy_that_changes_between_two_pieces_tries_nobody_twice(
    services: FakeServices, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(services.state)
    attempt = store.attempt

    def attempt_and_change(request: Request) -> object:
        made = attempt(request)
        console("set", f"wait={request.recipients[0][1].wait // 1000 + 1}s")
        return made

    monkeypatch.setattr(store, "attempt", attempt_and_change)
    mail = envelope("alice@s.example", *(f"user{number}@r.example" for number in range(1500)))
    decisions = Greylist(store).decide(mail, GreySettings(), services.clock.now(), "+")
    assert {one.attempted.result for one in decisions if one.attempted} == {Result.FIRST}


# Client networks that are known by now


def pass_once(desk: Desk, sender: str, *recipients: str, client: str = "203.0.113.5") -> None:
    desk.receive(envelope(sender, *recipients, client=client))
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope(sender, *recipients, client=client)).action is SKIP


def test_a_network_is_allowed_after_five_mails_that_came_back(desk: Desk) -> None:
    for number in "abcd":
        pass_once(desk, f"{number}@s.example", "x@r.example", "y@r.example", "z@r.example")
    assert desk.receive(envelope("e@s.example")).action is DEFER
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("e@s.example")).action is SKIP
    assert desk.receive(envelope("new@s.example", client="203.0.113.77")).reason == "the client's network is known"
    assert desk.receive(envelope("new@s.example", client="203.0.114.77")).action is DEFER
    desk.clock.advance(36 * DAY)
    assert desk.receive(envelope("late@s.example")).action is DEFER


def test_no_network_is_allowed_when_that_is_off(services: FakeServices) -> None:
    desk = Desk(services, GreySettings(auto_allow=0))
    for number in "abcdefgh":
        pass_once(desk, f"{number}@s.example")
    assert desk.receive(envelope("new@s.example")).action is DEFER


# Policies


def test_nothing_is_on_any_list_by_default(desk: Desk) -> None:
    for name in ("pool-1.dynamic.example", "dsl.dialup.example", "dhcp-ppp.cable.example"):
        assert desk.receive(envelope(client_name=name)).action is DEFER


@pytest.mark.parametrize("pattern", ["*@sender.example", "203.0.113.0/24", "*.client.example", "alice@*"])
def test_who_is_on_the_white_list_does_not_wait(desk: Desk, console: Console, pattern: str) -> None:
    console("allow", pattern)
    assert desk.receive(envelope(client_name="mail.client.example")).action is SKIP


@pytest.mark.parametrize("pattern", ["*@sender.example", "203.0.113.5", "mail.*.example", "*lice@sender*"])
def test_who_is_on_the_black_list_is_refused_for_good(desk: Desk, console: Console, pattern: str) -> None:
    console("deny", pattern)
    verdict = desk.receive(envelope(client_name="mail.client.example"))
    assert verdict.action is REJECT
    assert verdict.reply is not None
    assert verdict.reply.line(REJECT) == "550 5.7.1 Command rejected"
    assert pattern.split("/")[0] in verdict.reason


def test_the_null_sender_can_be_allowed(desk: Desk, console: Console) -> None:
    console("allow", "<>")
    assert desk.receive(envelope("")).action is SKIP
    assert desk.receive(envelope("a@x.example")).action is DEFER


def test_a_name_that_does_not_resolve_back_opens_no_door_but_may_shut_one(desk: Desk, console: Console) -> None:
    forged = envelope()
    forged = replace(forged, session=replace(forged.session, client_name="unknown", client_ptr="mail.bank.example"))
    console("allow", "*.bank.example")
    assert desk.receive(forged).action is DEFER
    console("deny", "*.bank.example", "--domain", "recipient.example")
    assert desk.receive(forged).action is REJECT


LEVELS = (("--mailbox", "bob@recipient.example"), ("--domain", "recipient.example"), ())


@pytest.mark.parametrize("near", [0, 1])
@pytest.mark.parametrize("kinds", [("allow", "deny"), ("deny", "allow")])
def test_mailbox_goes_before_domain_before_server(
    desk: Desk, console: Console, near: int, kinds: tuple[str, str]
) -> None:
    console(kinds[0], "*@sender.example", *LEVELS[near])
    console(kinds[1], "alice@sender.example", *LEVELS[near + 1])
    expected = SKIP if kinds[0] == "allow" else REJECT
    assert desk.receive(envelope("alice@sender.example", "bob+tag@recipient.example")).action is expected


@pytest.mark.parametrize("level", LEVELS)
def test_white_goes_before_black_at_the_same_level(desk: Desk, console: Console, level: tuple[str, ...]) -> None:
    console("deny", "alice@sender.example", *level)
    console("allow", "*@sender.example", *level)
    assert desk.receive(envelope()).action is SKIP


def test_lists_of_one_mailbox_are_no_matter_to_another(desk: Desk, console: Console) -> None:
    console("allow", "*@sender.example", "--mailbox", "bob@recipient.example")
    console("set", "enabled=no", "--domain", "open.example")
    assert desk.receive(envelope("a@sender.example", "carol@recipient.example")).action is DEFER
    assert desk.receive(envelope("a@sender.example", "anybody@open.example")).action is SKIP


def test_one_answer_for_all_waits_before_it_refuses_before_it_goes_on(desk: Desk, console: Console) -> None:
    console("deny", "*@sender.example", "--mailbox", "black@r.example")
    console("allow", "*@sender.example", "--mailbox", "white@r.example")
    new, black, white = "new@r.example", "black@r.example", "white@r.example"
    assert desk.receive(envelope("a@sender.example", new, black, white)).action is DEFER
    assert desk.receive(envelope("a@sender.example", black, white)).action is REJECT
    assert desk.receive(envelope("a@sender.example", white)).action is SKIP
    desk.clock.advance(5 * MINUTE)
    assert desk.receive(envelope("a@sender.example", new, white)).action is SKIP


def test_settings_of_mailbox_and_domain_go_before_the_servers(desk: Desk, console: Console) -> None:
    console("set", "wait=1m")
    console("set", "wait=2m", "--domain", "r.example")
    console("set", "wait=3m", "--mailbox", "slow@r.example")
    senders = {"x@elsewhere.example": 1, "x@r.example": 2, "slow@r.example": 3}
    for recipient in senders:
        desk.receive(envelope("a@s.example", recipient))
    for minutes in (1, 2, 3):
        desk.clock.advance(MINUTE)
        passed = {to for to in senders if desk.receive(envelope("a@s.example", to)).action is SKIP}
        assert passed == {to for to, wait in senders.items() if wait <= minutes}


def test_greylisting_can_be_off_for_all_and_on_for_one(desk: Desk, console: Console) -> None:
    console("set", "enabled=no")
    console("set", "enabled=yes", "--mailbox", "careful@r.example")
    assert desk.receive(envelope("a@s.example", "x@r.example")).action is SKIP
    assert desk.receive(envelope("a@s.example", "careful@r.example")).action is DEFER


def test_mailboxes_count_only_when_personal_settings_are_allowed(desk: Desk, console: Console) -> None:
    console("allow", "*", "--kind", "sender", "--mailbox", "bob@recipient.example")
    assert desk.receive(envelope()).action is SKIP
    console("set", "personal=no")
    assert desk.receive(envelope()).action is DEFER


def test_a_change_acts_on_the_next_mail_in_every_worker(services: FakeServices, console: Console) -> None:
    workers = [Desk(services) for _ in range(3)]
    for _ in range(2):
        assert all(worker.receive(envelope()).action is DEFER for worker in workers)
        console("allow", "*@sender.example", "--mailbox", "bob@recipient.example")
        assert all(worker.receive(envelope()).action is SKIP for worker in workers)
        console("allow", "--remove", "*@sender.example", "--mailbox", "bob@recipient.example")


def test_two_changes_at_once_are_both_kept(console: Console, services: FakeServices) -> None:
    consoles = [Console(services) for _ in range(4)]
    barrier = threading.Barrier(4)

    def change(number: int) -> None:
        barrier.wait()
        consoles[number]("allow", f"u{number}@x.example")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert console.table("status")["white list"][0] == 4


def test_the_reply_can_be_worded(desk: Desk, console: Console) -> None:
    console("set", "reply=Greylisted, come back in 5 minutes")
    reply = desk.receive(envelope()).reply
    assert reply is not None
    assert reply.line(DEFER) == "451 4.7.1 Greylisted, come back in 5 minutes"


# Many at once


def test_exactly_one_of_many_threads_is_first(services: FakeServices) -> None:
    workers = [Desk(services) for _ in range(4)]
    barrier = threading.Barrier(16)

    def receive(number: int) -> Result:
        barrier.wait()
        finding = workers[number % 4].receive(envelope()).finding
        assert isinstance(finding, GreyFinding)
        assert finding.decisions[0].attempted is not None
        return finding.decisions[0].attempted.result

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(receive, range(16)))
        assert sorted(found) == [Result.EARLY] * 15 + [Result.FIRST]
        services.clock.advance(5 * MINUTE)
        found = list(pool.map(receive, range(16)))
        assert sorted(found) == [Result.KNOWN] * 15 + [Result.WAITED]


def test_the_doctor_finds_the_store_well(services: FakeServices) -> None:
    found = list(GreyHandler().diagnose(GreySettings(), services))
    assert found
    assert not [one for one in found if one.level is FindingLevel.ERROR]
    assert any("0 senders remembered" in one.text for one in found)


def test_the_doctor_warns_of_a_wait_that_outlives_its_memory(services: FakeServices) -> None:
    settings = GreySettings(wait=Duration(600), expire=Duration(300))
    assert any("not shorter" in one.text for one in GreyHandler().diagnose(settings, services))
