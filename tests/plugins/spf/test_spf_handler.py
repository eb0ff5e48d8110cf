"""What a result means for the mail: levels, replies, exemptions, the administrator's own rules, DNS in trouble."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from plugins.spf.spf_desk import CLIENT, Desk, Zone, authentication, received_spf
from postroom.config import Config, ConfigError, build_from_context, parse_config
from postroom.hookspecs import Answer, LookupFailed, Need
from postroom.mail import InsertField, TrafficClass
from postroom.plugins import LoadedHandler, load_plugin
from postroom.registration import OnError, Stage, Type
from postroom.services.clock import SystemClock
from postroom.services.dns import DnsResolver
from postroom.testing import DeadResolver, FakeServices, envelope, message
from postroom.testing.nameserver import Behaviour, Nameserver
from postroom.verdict import Action
from postroom_spf.handler import SpfHandler, handler
from postroom_spf.result import Identity, SpfFinding, SpfResult
from postroom_spf.settings import Authenticated, HeloCheck, Level, SpfSettings

RECORDS: dict[SpfResult, Zone] = {
    SpfResult.NONE: {},
    SpfResult.NEUTRAL: {("sender.example", "TXT"): (b"v=spf1 ?all",)},
    SpfResult.PASS: {("sender.example", "TXT"): (b"v=spf1 ip4:203.0.113.5 -all",)},
    SpfResult.FAIL: {("sender.example", "TXT"): (b"v=spf1 -all",)},
    SpfResult.SOFTFAIL: {("sender.example", "TXT"): (b"v=spf1 ~all",)},
    SpfResult.TEMPERROR: {("sender.example", "TXT"): LookupFailed("no answer")},
    SpfResult.PERMERROR: {("sender.example", "TXT"): (b"v=spf1 moo -all",)},
}
# The reference's levels: from which one on a result refuses the mail, and how.
REFUSED_FROM = {
    SpfResult.TEMPERROR: (2, "451 4.4.3"),
    SpfResult.FAIL: (3, "550 5.7.23"),
    SpfResult.SOFTFAIL: (4, "550 5.7.23"),
    SpfResult.NEUTRAL: (5, "550 5.7.23"),
    SpfResult.NONE: (6, "550 5.7.23"),
    SpfResult.PERMERROR: (6, "550 5.7.24"),
}


@pytest.mark.parametrize("result", SpfResult)
@pytest.mark.parametrize("level", Level)
def test_every_level_with_every_result(desk: Desk, level: Level, result: SpfResult) -> None:
    desk.zone(RECORDS[result])
    verdict = desk.receive(level=level)
    assert verdict.finding.result is result
    least, reply = REFUSED_FROM.get(result, (7, ""))
    if level < least:
        assert verdict.action is Action.PASS
        assert received_spf(verdict).startswith(f"{result} (")
        assert [found.result for found in authentication(verdict)] == [result]
    else:
        assert verdict.action is (Action.DEFER if result is SpfResult.TEMPERROR else Action.REJECT)
        assert verdict.reply is not None
        assert verdict.reply.line(verdict.action).startswith(reply + " SPF check of MAIL FROM")
        assert verdict.edits == ()


def test_the_default_is_level_one(desk: Desk) -> None:
    assert SpfSettings().level is Level.RECORD
    desk.policy("v=spf1 -all")
    assert desk.receive().action is Action.PASS


def test_the_reply_says_why_in_our_words_or_the_domains(desk: Desk) -> None:
    desk.policy("v=spf1 -all")
    verdict = desk.receive(level=Level.REJECT_FAIL)
    assert verdict.reply is not None
    assert verdict.reply.lines() == [
        "SPF check of MAIL FROM failed",
        "203.0.113.5 is not allowed to send mail for sender.example",
    ]
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 -all exp=why.%{d}",),
            ("why.sender.example", "TXT"): (b"%{i} is no host of %{o}",),
        }
    )
    verdict = desk.receive(level=Level.REJECT_FAIL)
    assert verdict.reply is not None
    assert verdict.reply.lines() == [
        "SPF check of MAIL FROM failed",
        "The domain sender.example explains:",
        "203.0.113.5 is no host of sender.example",
    ]
    verdict = desk.receive(level=Level.REJECT_FAIL, domain_explanation=False, explanation="see https://x.example/?%{S}")
    assert verdict.reply is not None
    assert verdict.reply.lines()[-1] == "see https://x.example/?alice%40sender.example"


def test_an_explanation_cannot_break_out_of_the_reply(desk: Desk) -> None:
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 -all exp=why.sender.example",),
            ("why.sender.example", "TXT"): (b"one\r\n250 OK\x07 %{l}",),
        }
    )
    verdict = desk.receive(envelope("a\r\nb@sender.example"), level=Level.REJECT_FAIL)
    assert verdict.reply is not None
    assert verdict.reply.lines()[-1] == "one??250 OK? a??b"


def test_local_rules_stand_before_all(desk: Desk) -> None:
    desk.policy("v=spf1 ip4:192.0.2.1 -all")
    assert desk.check().result is SpfResult.FAIL
    assert desk.check(local_rules="ip4:203.0.113.0/24").result is SpfResult.PASS
    assert desk.check(local_rules="~ip4:203.0.113.0/24").result is SpfResult.SOFTFAIL
    assert desk.check(local_rules="ip4:198.51.100.0/24").result is SpfResult.FAIL


def test_the_senders_own_mechanisms_come_before_local_rules(desk: Desk) -> None:
    desk.policy("v=spf1 -ip4:203.0.113.5 ?all")
    assert desk.check(local_rules="ip4:203.0.113.0/24").result is SpfResult.FAIL


@pytest.mark.parametrize("target", [b"v=spf1 ip4:192.0.2.1 -all", b"v=spf1 redirect=deeper.example"])
def test_local_rules_act_behind_a_redirect(desk: Desk, target: bytes) -> None:
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 redirect=_spf.example",),
            ("_spf.example", "TXT"): (target,),
            ("deeper.example", "TXT"): (b"v=spf1 -all",),
        }
    )
    assert desk.check().result is SpfResult.FAIL
    assert desk.check(local_rules="ip4:203.0.113.0/24").result is SpfResult.PASS


def test_local_rules_do_not_act_in_an_included_record(desk: Desk) -> None:
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 -include:other.example -all",),
            ("other.example", "TXT"): (b"v=spf1 -all",),
        }
    )
    assert desk.check(local_rules="ip4:203.0.113.0/24").result is SpfResult.PASS  # not fail, by way of -include


def test_local_rules_count_alone_where_there_is_no_record(desk: Desk) -> None:
    desk.zone({})
    assert desk.check(local_rules="ip4:203.0.113.0/24").result is SpfResult.PASS
    assert desk.check(local_rules="ip4:198.51.100.0/24").result is SpfResult.NONE


def test_local_rules_never_take_a_good_record_over_a_limit(desk: Desk) -> None:
    zone: dict[tuple[str, str], Any] = {(f"a{n}.example", "A"): ("192.0.2.1",) for n in range(20)}
    zone["sender.example", "TXT"] = (" ".join(["v=spf1", *(f"a:a{n}.example" for n in range(9)), "~all"]).encode(),)
    desk.zone(zone)
    assert desk.check(local_rules="a:a10.example a:a11.example").result is SpfResult.SOFTFAIL


def test_guess_rules_count_only_where_there_is_no_record(desk: Desk) -> None:
    guess = "v=spf1 a/24 mx/24 ptr ?all"
    desk.zone({("sender.example", "A"): ("203.0.113.77",)})
    verdict = desk.receive(guess_rules=guess)
    assert verdict.finding.result is SpfResult.PASS
    assert "permitted sender, by guess rules)" in received_spf(verdict)
    desk.zone({("sender.example", "A"): ("203.0.113.77",), ("sender.example", "TXT"): (b"v=spf1 -all",)})
    assert desk.check(guess_rules=guess).result is SpfResult.FAIL


@pytest.mark.parametrize(
    ("local", "guess", "expected"),
    [
        ("ip4:203.0.113.0/24", "-all", SpfResult.PASS),
        ("-ip4:203.0.113.0/24", "?all", SpfResult.NEUTRAL),
        ("~ip4:203.0.113.0/24", "-all", SpfResult.SOFTFAIL),
        ("ip4:198.51.100.0/24", "-all", SpfResult.FAIL),  # the local rules say nothing
        ("", "include:nowhere.example", SpfResult.NONE),  # an error of our own is no result
    ],
)
def test_of_local_rules_and_guess_the_more_permissive_wins(
    desk: Desk, local: str, guess: str, expected: SpfResult
) -> None:
    desk.zone({})
    assert desk.check(local_rules=local, guess_rules=guess).result is expected


def test_the_null_sender_is_checked_by_helo(desk: Desk) -> None:
    desk.policy("v=spf1 -all", "client.example")
    verdict = desk.receive(envelope(""), level=Level.REJECT_FAIL)
    assert verdict.action is Action.REJECT
    assert verdict.reply is not None
    assert verdict.reply.text.startswith("SPF check of HELO failed")
    verdict = desk.receive(envelope(""))
    assert authentication(verdict)[0].properties == (("smtp.helo", "client.example"),)
    assert "identity=helo" in received_spf(verdict)


@pytest.mark.parametrize("helo", ["", "localhost", "[192.0.2.1]", "192.0.2.1", "a b", "x" * 300, "\udcff\udcfe", "(("])
def test_an_odd_helo_is_none(desk: Desk, helo: str) -> None:
    assert desk.check(envelope("", helo=helo)).result is SpfResult.NONE
    assert desk.resolver.asked == []


def test_helo_may_be_checked_for_every_sender(desk: Desk) -> None:
    desk.zone(
        {
            ("client.example", "TXT"): (b"v=spf1 -all",),
            ("good.example", "TXT"): (b"v=spf1 ~all",),
            ("sender.example", "TXT"): (b"v=spf1 ip4:203.0.113.5 -all",),
        }
    )
    assert desk.check().result is SpfResult.PASS
    finding = desk.check(check_helo=HeloCheck.ALWAYS)
    assert (finding.result, finding.identity) == (SpfResult.FAIL, Identity.HELO)
    verdict = desk.receive(envelope(helo="good.example"), check_helo=HeloCheck.ALWAYS)
    assert (verdict.finding.result, verdict.finding.identity) == (SpfResult.PASS, Identity.MAIL_FROM)
    assert [(found.result, found.properties[0][0]) for found in authentication(verdict)] == [
        ("softfail", "smtp.helo"),
        ("pass", "smtp.mailfrom"),
    ]


def test_what_is_allowed_is_never_refused(desk: Desk) -> None:
    desk.policy("v=spf1 -all")
    for allowed in (
        {"allow_domains": ("Sender.Example",)},
        {"allow_domains": (".example",)},
        {"allow_clients": SpfSettings(allow_clients=Config().host.networks).allow_clients},
    ):
        verdict = desk.receive(envelope(client="127.0.0.1"), level=Level.REQUIRE_PASS, **allowed)
        assert verdict.action is Action.PASS
        assert verdict.finding.result is SpfResult.FAIL
        assert received_spf(verdict).startswith("fail (")
    for other in ({"allow_domains": ("other.example", ".sender", "")}, {"allow_domains": ("ender.example",)}):
        assert desk.receive(level=Level.REJECT_FAIL, **other).action is Action.REJECT


def test_dead_dns_is_a_temporary_error(desk: Desk) -> None:
    desk.services.dns = DeadResolver()
    assert desk.receive().action is Action.PASS
    assert desk.receive(level=Level.DEFER_TROUBLE).action is Action.DEFER
    assert desk.receive(level=Level.REQUIRE_PASS).action is Action.DEFER


def test_what_is_left_for_the_call_bounds_the_look_ups(desk: Desk) -> None:
    given: list[float] = []

    class Asked:
        def lookup(self, name: str, kind: str, timeout: float | None = None) -> Answer:
            given.append(timeout or 0)
            return Answer(exists=False)

    desk.services.dns = Asked()
    for left in (300.0, 10.0, 1.0, 0.1):
        desk.services.seconds_left = left
        desk.check()
    assert given == pytest.approx([20, 9, 0.75, 0.05])


@pytest.mark.parametrize("behaviour", [Behaviour.SERVFAIL, Behaviour.SILENCE, Behaviour.REFUSED])
def test_a_real_nameserver_in_trouble_is_a_temporary_error_in_time(tmp_path: Path, behaviour: Behaviour) -> None:
    with Nameserver(everything=behaviour) as nameserver:
        clock = SystemClock()
        services = FakeServices(tmp_path, dns=DnsResolver(nameserver.settings(timeout=10), clock), seconds_left=4)
        services.clock = clock  # type: ignore[assignment]  # time that moves by itself
        begun = time.monotonic()
        verdict = SpfHandler().before_queue(envelope(), message(), SpfSettings(level=Level.DEFER_TROUBLE), services)
        assert verdict.action is Action.DEFER
        assert time.monotonic() - begun < 4


def test_a_hung_nameserver_in_the_middle_of_a_record_is_a_temporary_error(tmp_path: Path) -> None:
    zone = {("sender.example", "TXT"): (b"v=spf1 a:hung.example ptr -all",)}
    with Nameserver(zone, behaviours={"hung.example": Behaviour.SILENCE}) as nameserver:
        clock = SystemClock()
        services = FakeServices(tmp_path, dns=DnsResolver(nameserver.settings(timeout=10), clock))
        services.clock = clock  # type: ignore[assignment]  # time that moves by itself
        settings = build_from_context(SpfSettings, "time_limit=400ms", "context")
        begun = time.monotonic()
        finding = SpfHandler().before_queue(envelope(), message(), settings, services).finding
        assert isinstance(finding, SpfFinding)
        assert finding.result is SpfResult.TEMPERROR
        assert time.monotonic() - begun < 8


def test_time_that_runs_out_during_ptr_is_a_temporary_error_too(desk: Desk) -> None:
    desk.policy("v=spf1 ptr -all")
    record = desk.services.dns

    class Slow:
        def lookup(self, name: str, kind: str, timeout: float | None = None) -> Any:
            desk.services.clock.advance(15)
            if kind == "PTR":
                raise LookupFailed("no answer in time")
            return record.lookup(name, kind)

    desk.services.dns = Slow()
    assert desk.check().result is SpfResult.TEMPERROR


def test_authenticated_clients_pass_with_a_header_that_says_so(desk: Desk) -> None:
    desk.policy("v=spf1 -all")
    mail = envelope(client=CLIENT, auth_user="alice")
    verdict = desk.receive(mail, level=Level.REQUIRE_PASS)
    assert verdict.action is Action.PASS
    assert received_spf(verdict).startswith("pass (")
    assert "connection is authenticated" in received_spf(verdict)
    assert authentication(verdict) == []
    assert verdict.finding is None
    checked = desk.receive(mail, level=Level.REQUIRE_PASS, authenticated=Authenticated.CHECK)
    assert checked.action is Action.REJECT


def test_mail_without_a_client_is_skipped(desk: Desk) -> None:
    assert desk.receive(envelope(client=None), level=Level.REQUIRE_PASS).action is Action.SKIP


def test_what_the_handler_says_of_itself() -> None:
    loaded = load_plugin("spf", handler, Config())
    assert isinstance(loaded, LoadedHandler)
    info = loaded.info
    (placement,) = info.placements
    assert (placement.stage, placement.type, placement.priority) == (Stage.BEFORE_QUEUE, Type.GLOBAL, 10)
    assert info.needs is Need.HEADERS
    assert info.on_error is OnError.SKIP
    assert info.exempt == {TrafficClass.AUTHENTICATED, TrafficClass.LOCAL}


def test_debug_logs_every_step(desk: Desk) -> None:
    desk.zone(
        {
            ("sender.example", "TXT"): (b"v=spf1 include:other.example -all",),
            ("other.example", "TXT"): (b"v=spf1 ip4:192.0.2.1 ~all",),
        }
    )
    settings = build_from_context(SpfSettings, "debug", "context")
    assert settings.debug
    desk.receive()
    assert desk.services.log.lines == []
    desk.handler.before_queue(envelope(), message(), settings, desk.services)
    assert [facts["step"] for _, event, facts in desk.services.log.lines if event == "spf step"] == [
        "dns sender.example TXT: b'v=spf1 include:other.example -all'",
        "record sender.example: v=spf1 include:other.example -all",
        "dns other.example TXT: b'v=spf1 ip4:192.0.2.1 ~all'",
        "record other.example: v=spf1 ip4:192.0.2.1 ~all",
        "result other.example: softfail",
        "result sender.example: fail",
        "mailfrom sender.example: fail by record",
    ]


@pytest.mark.parametrize(
    ("context", "place"),
    [
        ("level=7", "level"),
        ("level=three", "level"),
        ("local_rules=all", "local_rules: 'all'"),
        ("local_rules=ip4:1.2.3", "local_rules: 'ip4:1.2.3'"),
        ("local_rules=redirect=x.example", "local_rules: 'redirect=x.example' is a modifier"),
        ("local_rules=ipv4:192.0.2.1", "no mechanism"),
        ("local_rules=include", "include"),
        ("local_rules=a:example", "RFC 7208"),
        ("local_rules=a/33", "RFC 7208"),
        ("guess_rules=+a/24 mx//129", "guess_rules"),
        ("explanation=%{z}", "explanation"),
        ("check_helo=never", "check_helo"),
        ("debugging", "debug"),
        ("time_limit=30s", "time_limit"),
    ],
)
def test_wrong_settings_are_named(context: str, place: str) -> None:
    with pytest.raises(ConfigError, match=place.replace("{", r"\{").replace(".", r"\.")):
        build_from_context(SpfSettings, context, "context")


def test_settings_come_from_the_file_and_the_context() -> None:
    config = parse_config(
        '[handlers.spf]\nlevel = 3\nguess_rules = "v=spf1 +a/24 +mx/24 +ptr ?all"\nlocal_rules = "include:x.example"\n',
        "test",
    )
    loaded = load_plugin("spf", handler, config)
    assert isinstance(loaded, LoadedHandler)
    base = loaded.base_settings
    assert isinstance(base, SpfSettings)
    assert (base.level, base.guess_rules) == (Level.REJECT_FAIL, "+a/24 +mx/24 +ptr ?all")
    settings = build_from_context(SpfSettings, 'level=4, local_rules="a:x.example mx/24", debug', "context", base)
    assert (settings.level, settings.local_rules, settings.debug) == (Level.REJECT_SOFTFAIL, "a:x.example mx/24", True)


HOSTILE = [
    "a\r\nBcc: x@y.example@sender.example",
    '"(\\"@sender.example',
    "jürgen@sender.example",
    "\udcff@sender.example",
    "x" * 5000 + "@sender.example",
    "a\0b@sender.example",
    "(((@sender.example",
    "a@((x)\\",
    "a@\r\nBcc: x",
]


@pytest.mark.parametrize("helo", ["client.example", "x\r\nBcc: y", "\udcff", '"(;=\\', "h" * 3000])
@pytest.mark.parametrize("sender", HOSTILE)
def test_no_stranger_writes_header_lines(desk: Desk, sender: str, helo: str) -> None:
    desk.policy("v=spf1 ?exists:%{l}.x.example -all")
    verdict = desk.receive(envelope(sender, helo=helo))
    for edit in verdict.edits:
        if isinstance(edit, InsertField):
            lines = edit.value.split(b"\r\n")
            assert all(line.startswith(b" ") for line in lines)
            assert all(len(line) < 998 for line in lines)
            assert not any(octet < 32 or octet > 126 for line in lines for octet in line)
    for found in authentication(verdict):
        assert all(value.isascii() and value.isprintable() for _, value in found.properties)
    assert "\n" not in verdict.reason
    field = received_spf(verdict)
    assert field.count("(") - field.count("\\(") - _quoted(field, "(") == 1


def _quoted(field: str, character: str) -> int:
    """How often the character stands inside quoted strings."""
    count, quoted, escaped = 0, False, False
    for each in field:
        if escaped:
            escaped = False
        elif each == "\\":
            escaped = True
        elif each == '"':
            quoted = not quoted
        elif quoted and each == character:
            count += 1
    return count


def test_the_header_field_is_as_the_standard_has_it(desk: Desk) -> None:
    desk.services.config = parse_config('[host]\nname = "mx.example.net"\n', "test")
    desk.policy("v=spf1 ip6:2001:db8::/32 -all")
    verdict = desk.receive(envelope(client="2001:db8::5"))
    assert received_spf(verdict) == (
        "pass (mx.example.net: domain of sender.example designates 2001:db8::5 as permitted sender) "
        'client-ip="2001:db8::5"; envelope-from="alice@sender.example"; helo=client.example; identity=mailfrom; '
        'receiver=mx.example.net; mechanism="ip6:2001:db8::/32";'
    )
    (field,) = [edit for edit in verdict.edits if isinstance(edit, InsertField)]
    assert all(len(line) <= 78 for line in (b"Received-SPF:" + field.value).split(b"\r\n"))


@pytest.mark.parametrize("record", ["v=spf1 ip4:192.0.2.1", "v=spf1", "v=spf1 redirect=other.example"])
def test_where_no_mechanism_matches_the_header_field_says_default(desk: Desk, record: str) -> None:
    """RFC 7208 9.1."""
    desk.zone({("sender.example", "TXT"): (record.encode(),), ("other.example", "TXT"): (b"v=spf1 -ip4:192.0.2.1",)})
    field = received_spf(desk.receive())
    assert field.startswith("neutral ")
    assert field.endswith("mechanism=default;")


def test_a_sender_without_a_domain_is_named_as_he_wrote_himself(desk: Desk) -> None:
    verdict = desk.receive(envelope("root", client=CLIENT))
    assert "envelope-from=root;" in received_spf(verdict)
    assert authentication(verdict)[0].properties == (("smtp.mailfrom", "root"),)
    assert desk.resolver.asked == []


def test_the_record_of_a_domain_is_asked_once(desk: Desk) -> None:
    desk.policy("v=spf1 -all")
    desk.receive()
    assert desk.resolver.asked == [("sender.example", "TXT")]


def test_threads_do_not_disturb_each_other(desk: Desk) -> None:
    desk.zone(
        {
            **{(f"p{n}.example", "TXT"): (f"v=spf1 ip4:192.0.2.{n} -all exp=why.%{{d}}".encode(),) for n in range(20)},
            **{(f"why.p{n}.example", "TXT"): (b"%{d}",) for n in range(20)},
        }
    )

    def check(n: int) -> tuple[SpfResult, str]:
        finding = desk.check(envelope(f"a@p{n % 20}.example", client=f"192.0.2.{n % 20 if n % 2 else 250}"))
        return finding.result, finding.explanation

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(check, range(400)))
    for n, outcome in enumerate(found):
        assert outcome == ((SpfResult.PASS, "") if n % 2 else (SpfResult.FAIL, f"p{n % 20}.example"))


def test_pyspf_is_not_imported_before_mail_is_checked() -> None:
    program = "import sys, postroom_spf.handler as h; h.handler.describe(); print({'spf', 'dns'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.strip() == "set()"


def test_at_before_data_it_answers_without_the_mail_and_leaves_its_finding(desk: Desk) -> None:
    from postroom.hookspecs import SenderPolicy

    desk.policy("v=spf1 ip4:203.0.113.5 -all")
    verdict = desk.handler.before_data(envelope(client=CLIENT), SpfSettings(level=Level(3)), desk.services)
    assert (verdict.action, verdict.edits) == (Action.SKIP, ())
    assert isinstance(verdict.finding, SenderPolicy)
    assert (verdict.finding.result, verdict.finding.domain) == ("pass", "sender.example")
    refused = desk.handler.before_data(envelope(client="198.51.100.7"), SpfSettings(level=Level(3)), desk.services)
    assert refused.action is Action.REJECT


def test_at_before_data_a_gateway_of_our_own_is_not_judged(desk: Desk) -> None:
    desk.policy("v=spf1 -all")
    settings = SpfSettings(level=Level(6), trusted_relays=(ip_network("203.0.113.0/24"),))
    verdict = desk.handler.before_data(envelope(client=CLIENT), settings, desk.services)
    assert (verdict.action, verdict.finding) == (Action.SKIP, None)
