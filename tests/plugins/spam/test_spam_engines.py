"""The engines as they really are, and as they fail."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plugins.spam.conftest import FORCED
from plugins.spam.filtering import (
    BOB,
    HAM,
    SPAM,
    Admin,
    Desk,
    says,
)
from postroom.backends.failover import NoAnswer
from postroom.config import Size, SocketAddress
from postroom.hookspecs import FindingLevel
from postroom.mail import FileInto, parse_message
from postroom.testing.ports import free_port
from postroom.testing.rspamd import RspamdInstance
from postroom.testing.spamd import SpamdInstance
from postroom.testing.standin import Script, StandIn, drips, hangs, reset
from postroom.verdict import Action
from postroom_spam.diagnosis import diagnose
from postroom_spam.engine import EngineKind
from postroom_spam.settings import Consequence, SpamSettings, UserName
from requirements import require, require_root

ODD = {
    "nothing": b"",
    "an empty header": b"\r\n\r\n",
    "NULs": HAM.replace(b"usual", b"\0\0") + b"\0" * 5000,
    "no end": b"Subject: x\r\n\r\nlunch",
    "an empty boundary": HAM.replace(b"Subject", b'Content-Type: multipart/mixed; boundary=""\r\nSubject'),
    "a hundred levels": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(100)
    ),
    "bad base64": HAM.replace(b"Subject", b"Content-Transfer-Encoding: base64\r\nSubject") + b"=!=!\r\n" * 100,
    "ten megabytes of header": b"X-Long: " + b"a" * (10 << 20) + b"\r\n" + HAM,
    "8 bit": HAM.replace(b"lunch", b"\xff\xfe\x80 lunch"),
}

DEAD = SocketAddress("inet", "127.0.0.1", 1)


# spamd


def test_spamd_knows_spam_from_ham(desk: Desk, spamd: SpamdInstance) -> None:
    desk.settings = {"servers": (spamd.address,)}
    finding = desk.find(SPAM)
    assert finding.is_spam
    assert finding.score > 900
    assert "GTUBE" in finding.symbols
    edited = desk.edited(SPAM)
    assert edited.get(b"X-Spam-Flag") == "YES"
    assert (edited.get(b"Subject") or "").startswith("*****SPAM***** lunch")
    ham = desk.find(HAM)
    assert not ham.is_spam
    assert ham.symbols
    assert desk.edited(HAM).get(b"Subject") == "lunch"


def test_a_mailbox_has_its_own_threshold(desk: Desk, spamd: SpamdInstance) -> None:
    score = desk.find(HAM, servers=(spamd.address,)).score
    assert desk.find(HAM, servers=(spamd.address,), threshold=score - 1).is_spam
    assert not desk.find(HAM, servers=(spamd.address,), threshold=score + 1).is_spam


@pytest.mark.parametrize("kind", ODD)
def test_spamd_gets_odd_mail_whole(desk: Desk, spamd: SpamdInstance, kind: str) -> None:
    finding = desk.find(ODD[kind], servers=(spamd.address,), max_size=64 << 20)
    assert finding.scanned
    assert finding.symbols


def test_preferences_are_those_of_the_recipient(desk: Desk, own_spamd: SpamdInstance) -> None:
    desk.settings = {"servers": (own_spamd.address,), "engine_threshold": True}
    assert desk.find(HAM).required == 5.0
    strict = desk.find(HAM, "strict+tag@recipient.example")
    assert (strict.required, strict.is_spam) == (-5.0, True)
    assert desk.find(HAM, "strict@recipient.example", user=UserName.NONE).required == 5.0
    assert desk.find(HAM, "strict@elsewhere.example").required == 5.0
    without = b"".join(HAM.partition(b"From:")[1:])
    local = desk.find(without, "strict@elsewhere.example", user=UserName.LOCAL).score
    assert local > desk.find(without, "strict@elsewhere.example").score + 5


@pytest.mark.parametrize(
    "recipient",
    ["../../x@recipient.example", "a b@recipient.example", "a\r\nUser: strict@recipient.example", "\udcff@x"],
)
def test_no_recipient_can_be_more_than_a_name(desk: Desk, own_spamd: SpamdInstance, recipient: str) -> None:
    assert desk.find(HAM, recipient, servers=(own_spamd.address,), engine_threshold=True).required == 5.0


def test_the_report_has_the_rules_with_their_points(desk: Desk, spamd: SpamdInstance) -> None:
    edited = desk.edited(SPAM, servers=(spamd.address,), report=True)
    assert "1000 GTUBE" in (edited.get(b"X-Spam-Report") or "")
    assert "GTUBE" in (edited.get(b"X-Spam-Status") or "")


CHOKES = HAM + b"x" * 200 + b" q\r\n"
"""Takes ages with the rule below: no perl can match that pattern in less than exponential time."""
SLOW_RULES = (r"body SLOW_RULE /(?:(x+)\1?x*)+[yz]/", "score SLOW_RULE 1", "time_limit 2")


def test_a_mail_that_spamd_chokes_on_is_not_clean(tmp_path: Path) -> None:
    require("spamd")
    require_root()
    with SpamdInstance(SLOW_RULES) as server:
        desk = Desk(tmp_path, {"servers": (server.address,)}, seconds=AMPLE)
        for report in (False, True):
            with pytest.raises(NoAnswer, match="came to its time_limit before all rules were tried") as told:
                desk.judge(CHOKES, report=report)
            assert told.value.of_this_mail, "five of them would let spam pass for half a minute"
        assert not desk.services.log.lines, "the server is well"
        assert desk.find(CHOKES, threshold=-50).is_spam, "what is spam already stays spam"
        assert not desk.find(HAM).is_spam
        found = Admin(tmp_path, servers=[str(server.address)])("spam", "check", "-", stdin=CHOKES)
    assert found.exit_code == 75
    assert "what on_error says: it came to its time_limit" in found.output


def test_many_mails_at_once(tmp_path: Path, spamd: SpamdInstance) -> None:
    desk = Desk(tmp_path, {"servers": (spamd.address,)})
    found: list[tuple[bool, bool]] = []

    def work(spam: bool) -> None:
        found.append((spam, desk.find(SPAM if spam else HAM).is_spam))

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [(False, False)] * 8 + [(True, True)] * 8


# rspamd


@pytest.mark.xdist_group("rspamd")
def test_rspamd_knows_spam_from_ham(desk: Desk, learning_rspamd: RspamdInstance) -> None:
    desk.settings = {"engine": EngineKind.RSPAMD, "servers": (learning_rspamd.address,)}
    finding = desk.find(SPAM)
    assert (finding.is_spam, finding.engine) == (True, "rspamd")
    assert "GTUBE" in finding.symbols
    ham = desk.find(HAM, threshold=14)
    assert not ham.is_spam
    assert len(ham.symbols) > 3
    assert "MIME_GOOD" in (desk.edited(HAM, threshold=-50, report=True).get(b"X-Spam-Report") or "")


@pytest.mark.xdist_group("rspamd")
@pytest.mark.parametrize("kind", ODD)
def test_rspamd_gets_odd_mail_whole(desk: Desk, learning_rspamd: RspamdInstance, kind: str) -> None:
    desk.settings = {"engine": EngineKind.RSPAMD, "servers": (learning_rspamd.address,)}
    finding = desk.find(ODD[kind], "b\r\nIP: 127.0.0.1\udcff@x", max_size=64 << 20)
    assert finding.scanned
    assert finding.symbols


@pytest.mark.xdist_group("rspamd")
@pytest.mark.parametrize("action", FORCED)
def test_rspamds_own_action_counts_where_it_shall(desk: Desk, learning_rspamd: RspamdInstance, action: str) -> None:
    desk.settings = {"engine": EngineKind.RSPAMD, "servers": (learning_rspamd.address,), "engine_threshold": True}
    mail = b"X-Act: " + action.encode() + b"\r\n" + HAM
    if action == "soft reject":
        with pytest.raises(NoAnswer, match="wants to be asked later: as the field says"):
            desk.judge(mail)
        assert not desk.services.log.lines, "the server is well"
        return
    finding = desk.find(mail)
    assert finding.is_spam is (action != "greylist")
    ends = action in ("discard", "quarantine", "reject")
    assert desk.find(mail, engine_threshold=False, threshold=finding.required).is_spam is ends


@pytest.mark.xdist_group("rspamd")
def test_what_rspamd_shall_not_look_at_is_not_scanned_and_no_failure(
    desk: Desk, learning_rspamd: RspamdInstance
) -> None:
    desk.settings = {"engine": EngineKind.RSPAMD, "servers": (learning_rspamd.address,)}
    for engine_threshold in (False, True):
        verdict = desk.judge(HAM, sender="skip@friend.example", engine_threshold=engine_threshold, threshold=-50)
        message = parse_message(HAM).with_edits(verdict.edits)
        assert message.get(b"X-Spam-Status") == "No, not scanned (skipped by rspamd's settings)"
        assert message.get(b"X-Spam-Score") is None
        assert verdict.reason == "no spam, not scanned, skipped by rspamd's settings"
    assert not desk.services.log.lines


@pytest.mark.xdist_group("rspamd")
def test_rspamd_goes_by_no_proxy(desk: Desk, learning_rspamd: RspamdInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert desk.find(SPAM, engine=EngineKind.RSPAMD, servers=(learning_rspamd.address,)).is_spam


# Failure


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


LATE = "does not answer in time|does not take the connection"  # the second on a machine that stands still meanwhile
AMPLE = 30.0  # seconds: more than any of these may take on a busy machine, less than a hang

FAULTS: dict[str, tuple[EngineKind, Script, str]] = {
    "hangs": (EngineKind.SPAMD, hangs, LATE),
    "drips": (EngineKind.SPAMD, drips(b"SPAMD/1.1 0 EX_OK\r\nX"), LATE),
    "closes": (EngineKind.SPAMD, says(b""), "closed the connection without an answer"),
    "hangs up at once": (EngineKind.SPAMD, says(b"", until=b""), "closed the connection"),
    "garbage": (EngineKind.SPAMD, says(b"\0\xff\x01\r\n"), "speaks something else"),
    "a line without end": (EngineKind.SPAMD, says(b"x" * 20000), "a line that does not end"),
    "an error": (EngineKind.SPAMD, says(b"SPAMD/1.0 79 Timeout: (30 second timeout)\r\n\r\n"), "Timeout"),
    "no score": (EngineKind.SPAMD, says(b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n"), "gave no score"),
    "nan": (EngineKind.SPAMD, says(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; nan / 5.0\r\n\r\n"), "gave no score"),
    "a comma": (EngineKind.SPAMD, says(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 12,5 / 5,0\r\n\r\n"), "gave no score"),
    "perhaps": (EngineKind.SPAMD, says(b"SPAMD/1.1 0 EX_OK\r\nSpam: Maybe ; 1.0 / 5.0\r\n\r\n"), "gave no score"),
    "yes and no": (
        EngineKind.SPAMD,
        says(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 15 / 5\r\nSpam: False ; 0 / 5\r\n\r\n"),
        "sent the header spam twice",
    ),
    "closes within": (
        EngineKind.SPAMD,
        says(b"SPAMD/1.1 0 EX_OK\r\nContent-length: 99\r\nSpam: False ; 1.0 / 5.0\r\n\r\nGTU"),
        "within its answer",
    ),
    "closes in a header": (EngineKind.SPAMD, says(b"SPAMD/1.1 0 EX_OK\r\nContent-le"), "within its answer"),
    "far too long": (EngineKind.SPAMD, says(b"SPAMD/1.1 0 EX_OK\r\nContent-length: 99999999999\r\n\r\n"), "length"),
    "http hangs": (EngineKind.RSPAMD, hangs, LATE),
    "http drips": (EngineKind.RSPAMD, drips(b"HTTP/1.1 200 OK\r\nX-A: X"), LATE),
    "http closes": (EngineKind.RSPAMD, says(b""), "closed the connection without an answer"),
    "http garbage": (EngineKind.RSPAMD, says(b"\0\xff\x01\r\n"), "no valid answer"),
    "http a well": (EngineKind.RSPAMD, says(http(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)), "answered no JSON"),
    "http an error as deep": (EngineKind.RSPAMD, says(http(b"[" * 50_000, b"500 No")), "answered 500 to /checkv2"),
    "http no JSON": (EngineKind.RSPAMD, says(http(b"hello")), "answered no JSON"),
    "http a list": (EngineKind.RSPAMD, says(http(b"[1]")), "something else"),
    "http no score": (EngineKind.RSPAMD, says(http(b"{}")), "gave no score"),
    "http nan": (EngineKind.RSPAMD, says(http(b'{"score": NaN, "required_score": 15}')), "gave no score"),
    "http no action": (EngineKind.RSPAMD, says(http(b'{"score": 1.0, "required_score": 15}')), "gave no action"),
    "http forbidden": (EngineKind.RSPAMD, says(http(b'{"error": "Unauthorized"}', b"403 No")), "403 to /checkv2: Unau"),
    "http closes within": (
        EngineKind.RSPAMD,
        says(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"score": 1.0'),
        "within its answer",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_is_named_and_never_taken_for_an_answer(tmp_path: Path, fault: str) -> None:
    engine, behaviour, problem = FAULTS[fault]
    with StandIn(behaviour) as server:
        patience = 1.0 if problem == LATE else AMPLE
        desk = Desk(tmp_path, {"engine": engine, "servers": (server.address,)}, seconds=patience)
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match=problem) as raised:
            desk.judge(SPAM)
        assert time.monotonic() - begun < AMPLE
        assert str(server.address) in str(raised.value)
    assert [event for _, event, _ in desk.services.log.lines] == ["spam filter fails"]


def ending_in(answer: bytes, end: Callable[[socket.socket], None], *, until: bytes) -> Script:
    """Reads up to these octets and no further, answers, and ends the connection."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        with connection.makefile("rb", buffering=0) as file:
            while until not in (file.readline() or until):
                pass
        connection.sendall(answer)
        end(connection)

    return script


ends = pytest.mark.parametrize("end", [socket.socket.close, reset])
LONG = SPAM + b"x" * (5 << 20)
CUT = {
    "no line": (EngineKind.SPAMD, b"SPAMD/1.1 0 EX"),
    "no header": (EngineKind.SPAMD, b"SPAMD/1.1 0 EX_OK\r\n"),
    "no blank line": (EngineKind.SPAMD, b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1.0 / 5.0\r\n"),
    "no body": (EngineKind.SPAMD, b"SPAMD/1.1 0 EX_OK\r\nContent-length: 9\r\nSpam: False ; 1.0 / 5.0\r\n\r\nGTU"),
    "no http line": (EngineKind.RSPAMD, b"HTTP/1.1 20"),
    "no http header": (EngineKind.RSPAMD, b"HTTP/1.1 200 OK\r\n"),
    "no http blank line": (EngineKind.RSPAMD, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n"),
    "no http body": (EngineKind.RSPAMD, b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"sc'),
    "no http last chunk": (EngineKind.RSPAMD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
}


@ends
@pytest.mark.parametrize("mail", [SPAM, LONG], ids=["when it has the mail", "while it is sent to"])
@pytest.mark.parametrize("engine", list(EngineKind))
def test_a_server_that_breaks_off_gave_no_answer(
    desk: Desk, engine: EngineKind, mail: bytes, end: Callable[[socket.socket], None]
) -> None:
    told = "closed the connection without an answer"
    with StandIn(ending_in(b"", end, until=b"GTUBE")) as server, pytest.raises(NoAnswer, match=told):
        desk.judge(mail, engine=engine, servers=(server.address,), max_size=Size(64 << 20))


@ends
@pytest.mark.parametrize("cut", CUT)
def test_half_an_answer_is_none(desk: Desk, cut: str, end: Callable[[socket.socket], None]) -> None:
    engine, answer = CUT[cut]
    told = "closed the connection within its answer"
    with StandIn(ending_in(answer, end, until=b"GTUBE")) as server, pytest.raises(NoAnswer, match=told):
        desk.judge(SPAM, engine=engine, servers=(server.address,))


REFUSALS = {
    EngineKind.SPAMD: (b"SPAMD/1.0 79 Timeout: too busy\r\n\r\n", "answered Timeout: too busy"),
    EngineKind.RSPAMD: (http(b'{"error": "too busy"}', b"503 No"), "answered 503 to /checkv2: too busy"),
}


@ends
@pytest.mark.parametrize("engine", list(EngineKind))
def test_an_answer_that_came_before_the_connection_broke_counts(
    desk: Desk, engine: EngineKind, end: Callable[[socket.socket], None]
) -> None:
    answer, told = REFUSALS[engine]
    with StandIn(ending_in(answer, end, until=b"GTUBE")) as server:
        for _ in range(5):  # the end may come at any moment of the sending
            with pytest.raises(NoAnswer, match=told):
                desk.judge(LONG, engine=engine, servers=(server.address,), max_size=Size(64 << 20))


@pytest.mark.parametrize("engine", list(EngineKind))
def test_a_server_that_is_not_there(desk: Desk, engine: EngineKind) -> None:
    nobody = SocketAddress("inet", "127.0.0.1", free_port())
    with pytest.raises(NoAnswer, match="refused"):
        desk.judge(engine=engine, servers=(nobody,))
    with pytest.raises(NoAnswer, match="No such file"):
        desk.judge(engine=engine, servers=(SocketAddress("unix", path=str(desk.base / "none")),))


@pytest.mark.parametrize("behaviour", [hangs, drips(b"SPAMD/1.1 0 EX_OK\r\nX"), says(b"nonsense\r\n"), says(b"")])
def test_the_next_server_answers_instead(tmp_path: Path, spamd: SpamdInstance, behaviour: Script) -> None:
    with StandIn(behaviour) as faulty:
        desk = Desk(tmp_path, {"servers": (faulty.address, spamd.address), "attempt_timeout": 1.5})
        assert desk.find(SPAM).is_spam
        assert desk.find(SPAM).is_spam
        assert faulty.connections == 1, "a server that just failed is asked last"
        desk.services.clock.advance(31)
        assert desk.find(SPAM).is_spam
        assert faulty.connections == 2, "it is asked again after a while"
    assert [facts["server"] for _, event, facts in desk.services.log.lines] == [str(faulty.address)]


def test_a_server_that_works_again_is_told(desk: Desk) -> None:
    with StandIn(says(b"")) as server:
        desk.settings = {"servers": (server.address,)}
        with pytest.raises(NoAnswer):
            desk.judge()
        server.script = says(b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1.0 / 5.0\r\n\r\n")
        assert desk.find().score == 1.0
    assert [event for _, event, _ in desk.services.log.lines] == ["spam filter fails", "spam filter works again"]


def test_what_is_too_large_is_not_sent(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"servers": (DEAD,), "max_size": Size(1024)})
    edited = desk.edited(HAM + b"x" * 1024)
    assert edited.get(b"X-Spam-Status") == "No, not scanned (larger than 1K)"


def test_each_consequence_with_the_real_engine(desk: Desk, spamd: SpamdInstance) -> None:
    desk.settings = {"servers": (spamd.address,)}
    assert FileInto("Junk") in desk.judge(SPAM, action=Consequence.JUNK).edits
    assert desk.judge(SPAM, high_threshold=500).action is Action.STOP
    assert desk.judge(HAM, high_threshold=500).action is Action.PASS


# Lists


def test_lists_are_those_of_greylisting(desk: Desk, spamd: SpamdInstance) -> None:
    from postroom.lists.backends import open_policies
    from postroom.lists.patterns import PatternList, parse_pattern
    from postroom.lists.scopes import SERVER, scope_of
    from postroom.lists.senders import SenderLists
    from postroom.lists.store import change_lists
    from postroom_grey.backends import open_store
    from postroom_grey.change import read_policy

    desk.settings = {"servers": (spamd.address,)}
    store = open_policies(desk.services.state)
    denied = PatternList.of([parse_pattern("*@friend.example")])
    change_lists(store, SERVER, lambda _: SenderLists(deny=denied))
    assert desk.find(HAM).is_spam
    assert not desk.find(HAM, lists=False).is_spam
    assert read_policy(open_store(desk.services.state), SERVER).deny == denied
    allowed = PatternList.of([parse_pattern("alice@friend.example")])
    change_lists(store, scope_of(None, BOB, "+"), lambda _: SenderLists(allow=allowed))
    assert desk.find(HAM, "bob+tag@recipient.example").score < -90, "the mailbox goes before the server"
    assert desk.find(HAM, "eve@recipient.example").is_spam


# The doctor


def test_the_doctor_sees_that_spamd_is_well(desk: Desk, spamd: SpamdInstance) -> None:
    (line,) = diagnose(SpamSettings(servers=(spamd.address,)), desk.services)
    assert line.level is FindingLevel.OK
    assert "SpamAssassin 4" in line.text or "SpamAssassin 3" in line.text


def test_the_doctor_sees_rules_that_are_missing(desk: Desk) -> None:
    answer = b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 0.0 / 5.0\r\n\r\nX-Spam-Status: No, tests=none\r\n\r\n"

    with StandIn(says(answer, until=b"GTUBE")) as server:
        _, line = diagnose(SpamSettings(servers=(server.address,)), desk.services)
    assert line.level is FindingLevel.WARNING
    assert "sa-update" in line.remedy


@pytest.mark.xdist_group("rspamd")
def test_the_doctor_sees_that_rspamd_is_well(desk: Desk, learning_rspamd: RspamdInstance) -> None:
    settings = SpamSettings(
        engine=EngineKind.RSPAMD,
        servers=(learning_rspamd.address,),
        controller=learning_rspamd.controller,
        password=learning_rspamd.password,
    )
    (line,) = diagnose(settings, desk.services)
    assert line.level is FindingLevel.OK
    assert "rules loaded" in line.text


@pytest.mark.parametrize("engine", list(EngineKind))
def test_the_doctor_sees_a_server_that_is_gone(desk: Desk, engine: EngineKind) -> None:
    settings = SpamSettings(engine=engine, servers=(DEAD,), action=Consequence.REJECT)
    gone, bounces = diagnose(settings, desk.services)
    assert gone.level is FindingLevel.ERROR
    assert "refused" in gone.text
    assert bounces.level is FindingLevel.WARNING


def test_the_doctor_sees_that_the_user_who_runs_the_server_is_kept_out(desk: Desk) -> None:
    from postroom.config import parse_config

    place = desk.base / "spamd.sock"
    answer = b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1000.0 / 5.0\r\n\r\nX-Spam-Status: Yes, tests=GTUBE,OTHER\r\n\r\n"

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            says(answer, until=b"GTUBE")(connection, threading.Event())

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        place.chmod(0o600)
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        desk.services.config = parse_config('[server]\nuser = "nobody"\n', "test")
        settings = SpamSettings(servers=(SocketAddress("unix", path=str(place)),))
        well, barred = diagnose(settings, desk.services)
        server.join(60)
    assert well.level is FindingLevel.OK
    assert barred.level is FindingLevel.ERROR
    assert barred.text.startswith("nobody, who runs the server, may not use it")
