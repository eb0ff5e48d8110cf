"""Scanners that are stopped, hung, slow, broken or mad: never clean, never infected, never late."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plugins.antivirus.scanners import (
    FOUND_NAME,
    QUICK,
    Desk,
    answering,
    clean,
    infected,
    long_mail,
    read_icap,
    read_stream,
    unused_address,
)
from postroom.config import Duration, SocketAddress
from postroom.hookspecs import FindingLevel
from postroom.mail import Message
from postroom.testing.clamd import ClamdInstance
from postroom.testing.standin import Script, StandIn, drips, hangs, reset
from postroom.verdict import Action
from postroom_antivirus import ScanFinding, Status
from postroom_antivirus.policy import ScanFailed, ScanTimedOut
from requirements import require, require_root

WELL = {"clamav": b"stream: OK\n", "kaspersky": b"ICAP/1.0 204 Unmodified\r\n\r\n"}
READ: dict[str, Callable[[socket.socket], Any]] = {"clamav": read_stream, "kaspersky": read_icap}
LATE = "does not answer in time|does not take the connection"  # the second on a machine that stands still meanwhile
AMPLE = 30.0  # seconds: more than any of these may take on a busy machine, less than a hang

both_protocols = pytest.mark.parametrize("name", ["clamav", "kaspersky"])


def status_of(verdict: Any) -> Status:
    assert isinstance(verdict.finding, ScanFinding)
    return verdict.finding.result.status


@both_protocols
def test_a_server_that_is_not_there(name: str, tmp_path: Path) -> None:
    for address in (unused_address(), SocketAddress("unix", path=str(tmp_path / "none.sock"))):
        desk = Desk(name, tmp_path, address)
        with pytest.raises(ScanFailed, match="cannot be reached"):
            desk.receive(clean())


@both_protocols
def test_a_server_that_accepts_and_never_answers_costs_no_more_than_the_deadline(name: str, tmp_path: Path) -> None:
    with StandIn(hangs) as hung:
        desk = Desk(name, tmp_path, hung.address)
        desk.services.seconds_left = 0.4
        for mail in (clean(), long_mail(20 << 20)):  # the second one fills the connection's buffers
            begun = time.monotonic()
            with pytest.raises(ScanTimedOut, match=LATE):
                desk.receive(mail)
            assert 0.3 < time.monotonic() - begun < AMPLE


@both_protocols
def test_an_answer_that_trickles_does_not_stretch_the_deadline(name: str, tmp_path: Path) -> None:
    def script(connection: socket.socket, over: threading.Event) -> None:
        READ[name](connection)
        drips(b"x")(connection, over)

    with StandIn(script) as mill:
        desk = Desk(name, tmp_path, mill.address)
        desk.services.seconds_left = 0.5
        begun = time.monotonic()
        with pytest.raises(ScanTimedOut):
            desk.receive(clean())
        assert time.monotonic() - begun < AMPLE


@both_protocols
def test_a_slow_server_is_waited_for(name: str, tmp_path: Path) -> None:
    def script(connection: socket.socket, over: threading.Event) -> None:
        READ[name](connection)
        over.wait(0.3)
        connection.sendall(WELL[name])

    with StandIn(script) as slow:
        assert status_of(Desk(name, tmp_path, slow.address).receive(clean())) is Status.CLEAN


def ending_in(answer: bytes, end: Callable[[socket.socket], None], *, after: int = 100) -> Script:
    """Reads so many octets and no more, answers, and ends the connection."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        came = 0
        while came < after:
            came += len(connection.recv(after - came))
        connection.sendall(answer)
        end(connection)

    return script


close_in_the_middle = ending_in(b"", reset)
ends = pytest.mark.parametrize("end", [socket.socket.close, reset])


@ends
@both_protocols
@pytest.mark.parametrize("size", [300, 5 << 20])
def test_a_server_that_closes_in_the_middle(
    name: str, size: int, end: Callable[[socket.socket], None], tmp_path: Path
) -> None:
    without = "closed the connection without an answer"
    with StandIn(ending_in(b"", end)) as rude, pytest.raises(ScanFailed, match=without):
        Desk(name, tmp_path, rude.address).receive(long_mail(size))


CUT = {
    "clamd": ("clamav", b"stream: OK"),
    "in the status line": ("kaspersky", b"ICAP/1.0 20"),
    "before the field that tells": ("kaspersky", b"ICAP/1.0 204 Unmodified\r\nISTag: x\r\n"),
    "before the mail that comes back": ("kaspersky", b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=0\r\n\r\n"),
    "in the mail that comes back": ("kaspersky", b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=0\r\n\r\n64\r\nSub"),
}


@ends
@pytest.mark.parametrize("cut", CUT)
def test_half_an_answer_is_none(cut: str, end: Callable[[socket.socket], None], tmp_path: Path) -> None:
    name, answer = CUT[cut]

    def script(connection: socket.socket, _: threading.Event) -> None:
        READ[name](connection)
        connection.sendall(answer)
        end(connection)

    with StandIn(script) as rude, pytest.raises(ScanFailed, match="closed the connection within its answer"):
        Desk(name, tmp_path, rude.address).receive(clean())


@ends
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("clamav", b"stream: Win.Bad FOUND\n"),
        ("kaspersky", b"ICAP/1.0 200 OK\r\nX-Virus-ID: Win.Bad\r\n\r\n"),
    ],
)
def test_an_answer_that_came_before_the_connection_broke_counts(
    name: str, answer: bytes, end: Callable[[socket.socket], None], tmp_path: Path
) -> None:
    with StandIn(ending_in(answer, end)) as hasty:
        for _ in range(5):  # the end may come at any moment of the sending
            verdict = Desk(name, tmp_path, hasty.address).receive(long_mail(5 << 20))
            assert verdict.finding.result.signatures == ("Win.Bad",)


@pytest.mark.parametrize("end", [socket.socket.close, reset, lambda connection: connection.recv(1 << 24)])
def test_clean_before_it_had_the_whole_mail_is_not_clean(tmp_path: Path, end: Callable[[socket.socket], Any]) -> None:
    with StandIn(ending_in(b"stream: OK\n", end)) as hasty:
        for _ in range(5):  # the answer may come at any moment of the sending
            with pytest.raises(ScanFailed, match="clean before it had all of it"):
                Desk("clamav", tmp_path, hasty.address).receive(long_mail(20 << 20))


def test_clean_with_more_behind_it_is_not_clean(tmp_path: Path) -> None:
    for answer in (b"stream: OK\nstream: Win.Bad FOUND\n", b"stream: OK\n\n"):
        with (
            StandIn(answering(answer, read_stream)) as server,
            pytest.raises(ScanFailed, match="clean, and said more"),
        ):
            Desk("clamav", tmp_path, server.address).receive(clean())


def test_a_clamd_that_breaks_off_is_told_by_the_doctor(tmp_path: Path) -> None:
    with StandIn(ending_in(b"", reset, after=1)) as rude:
        desk = Desk("clamav", tmp_path, rude.address)
        (told,) = desk.handler.diagnose(desk.settings, desk.services)
    assert (told.level, told.text) == (FindingLevel.ERROR, "closed the connection without an answer")


GARBAGE = [
    b"\xff\xfe\x00garbage\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"ICAP/1.0 200 OK\r\nbroken header\r\n\r\n",
    b"ICAP/1.0 204\r\n" + b"X: y\r\n" * 200,
    b"ICAP/1.0 700 What\r\n\r\n",
    b"ICAP/1.0 100 Continue\r\n\r\n",
    b"stream: OK FOUND and more\n",
    b"stream: \n",
    b"OK\n",
    b"FOUND\n",
    b": \n",
    b"x" * 100_000,
    b"220 mail.example ESMTP\r\n",
    b"ICAP/1.0 500 Server error\r\n\r\n",
    b"ICAP/1.0 503 Service overloaded\r\n\r\n",
    b"stream: Can't allocate memory ERROR\n",
]


@both_protocols
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_no_result(name: str, garbage: bytes, tmp_path: Path) -> None:
    with StandIn(answering(garbage, READ[name])) as mad, pytest.raises(ScanFailed) as told:
        Desk(name, tmp_path, mad.address).receive(infected())
    assert str(mad.address) in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


# Several servers


@both_protocols
def test_the_next_server_is_asked_when_one_fails(name: str, tmp_path: Path) -> None:
    rude: Script = close_in_the_middle
    with StandIn(rude) as first, StandIn(hangs) as hung, StandIn(answering(WELL[name], READ[name])) as last:
        desk = Desk(name, tmp_path, unused_address(), first.address, hung.address, last.address, attempt_timeout=QUICK)
        verdict = desk.receive(clean())
        assert status_of(verdict) is Status.CLEAN
        assert verdict.finding.result.server == str(last.address)
        assert [facts["status"] for facts in desk.logged("scanner fails")] == ["error", "error", "timeout"]


@both_protocols
def test_servers_that_failed_are_asked_last_for_a_while(name: str, tmp_path: Path) -> None:
    well = answering(WELL[name], READ[name])
    with StandIn(close_in_the_middle) as first, StandIn(well) as second:
        desk = Desk(name, tmp_path, first.address, second.address)
        for _ in range(4):
            desk.receive(clean())
        assert (first.connections, second.connections) == (1, 4)
        assert len(desk.logged("scanner fails")) == 1
        desk.services.clock.advance(31)
        first.script = well
        desk.receive(clean())
        desk.receive(clean())
        assert (first.connections, second.connections) == (3, 4)
        assert desk.logged("scanner works again") == [{"server": str(first.address)}]


@both_protocols
def test_servers_that_all_failed_are_tried_all_the_same(name: str, tmp_path: Path) -> None:
    with StandIn(close_in_the_middle) as first, StandIn(close_in_the_middle) as second:
        desk = Desk(name, tmp_path, first.address, second.address)
        for attempts in (1, 2):
            with pytest.raises(ScanFailed) as told:
                desk.receive(clean())
            assert str(first.address) in str(told.value)
            assert str(second.address) in str(told.value)
            assert (first.connections, second.connections) == (attempts, attempts)


@both_protocols
def test_hung_servers_share_the_time_that_there_is(name: str, tmp_path: Path) -> None:
    with StandIn(hangs) as first, StandIn(hangs) as second, StandIn(answering(WELL[name], READ[name])) as third:
        desk = Desk(name, tmp_path, first.address, second.address, third.address)
        desk.services.seconds_left = 6.0
        begun = time.monotonic()
        assert status_of(desk.receive(clean())) is Status.CLEAN
        assert time.monotonic() - begun < AMPLE


def test_a_server_that_could_not_scan_this_mail_is_not_remembered_as_dead(tmp_path: Path) -> None:
    sick = answering(b"stream: Can't create temporary file ERROR\n", read_stream)
    with StandIn(sick) as first, StandIn(answering(WELL["clamav"], read_stream)) as second:
        desk = Desk("clamav", tmp_path, first.address, second.address)
        for _ in range(2):
            assert status_of(desk.receive(clean())) is Status.CLEAN
        assert (first.connections, second.connections) == (2, 2)


@pytest.mark.parametrize(("said", "of_this_mail"), [(b"stream: Bad archive ERROR\n", True), (b"nonsense\n", False)])
def test_a_mail_that_a_scanner_gives_up_on_is_no_failure_of_the_scanner(
    said: bytes, of_this_mail: bool, tmp_path: Path
) -> None:
    with StandIn(answering(said, read_stream)) as server, pytest.raises(ScanFailed) as told:
        Desk("clamav", tmp_path, server.address).receive(infected())
    assert told.value.of_this_mail is of_this_mail


def test_a_clamd_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    require("clamd")
    require_root()
    with ClamdInstance() as server:
        desk = Desk("clamav", tmp_path, SocketAddress("unix", path=str(server.socket)))
        assert desk.receive(infected()).action is Action.REJECT
        server.kill()
        with pytest.raises(ScanFailed, match="cannot be reached"):
            desk.receive(infected())
        (told,) = desk.handler.diagnose(desk.settings, desk.services)
        assert told.level is FindingLevel.ERROR
        assert "servers in [handlers.clamav]" in told.remedy


# What the documented servers say: forms from their manuals, since the products are not at hand


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: text/html\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (status.encode(), len(body), body)


def icap(fields: str, rest: bytes = b"", status: str = "200 OK") -> bytes:
    head = f"ICAP/1.0 {status}\r\n{fields}".replace("\n", "\r\n").replace("\r\r", "\r")
    if rest:
        head += f"Encapsulated: res-hdr=0, res-body={rest.index(bytes(2 * [13, 10])) + 4}\r\n"
    return head.encode() + b"\r\n" + rest


BLOCKED = http("403 Forbidden", b"<html>blocked</html>")
KASPERSKY = icap(
    'ISTag: "5BDEEEA9"\nX-Infection-Found: Type=0; Resolution=0; Threat=Trojan;\nX-Virus-ID: EICAR-Test-File\n', BLOCKED
)
DRWEB = icap(
    "X-Infection-Found: Type=0; Resolution=2; Threat=EICAR Test File (NOT a Virus!);\n"
    "X-Virus-ID: EICAR Test File (NOT a Virus!)\n",
    BLOCKED,
)
DRWEB_ERROR = icap("X-Violations-Found: 1\n\tmessage.eml\n\tScan timed out\n\t0\n\t0\n", BLOCKED)
ENCRYPTED = icap("X-Infection-Found: Type=2; Resolution=0; Threat=Encrypted Archive;\n", BLOCKED)


def receive(name: str, answer: bytes, directory: Path, mail: Message | None = None, **settings: Any) -> Any:
    with StandIn(answering(answer, read_icap)) as server:
        return Desk(name, directory, server.address, **settings).receive(mail or clean()).finding.result


def test_the_names_that_each_product_gives(tmp_path: Path) -> None:
    assert receive("kaspersky", KASPERSKY, tmp_path).signatures == ("EICAR-Test-File", "Trojan")
    assert receive("drweb", DRWEB, tmp_path).signatures == ("EICAR Test File (NOT a Virus!)",)
    by_clamd = answering(b"stream: EICAR Test File (NOT a Virus!) FOUND\n", read_stream)
    with StandIn(by_clamd) as server:
        from postroom_antivirus.settings import Protocol

        desk = Desk("drweb", tmp_path, server.address, protocol=Protocol.CLAMD)
        assert desk.receive(clean()).finding.result.signatures == ("EICAR Test File (NOT a Virus!)",)


def test_an_infection_counts_whatever_the_status_says(tmp_path: Path) -> None:
    answer = icap("X-Virus-ID: EICAR\n", status="204 No Content")
    assert receive("kaspersky", answer, tmp_path).status is Status.FOUND
    nothing = icap("X-Virus-ID: no threats\n", status="204 No Content")
    assert receive("kaspersky", nothing, tmp_path).status is Status.CLEAN


def test_a_violation_is_a_find_for_all_but_dr_web_whose_word_it_is_for_errors(tmp_path: Path) -> None:
    found = icap("X-Violations-Found: 2\n\ta.exe\n\tW32.Bad\n\t1\n\t0\n\tb.exe\n\tW32.Worse\n\t2\n\t0\n", BLOCKED)
    assert receive("kaspersky", found, tmp_path).signatures == ("W32.Bad", "W32.Worse")
    with pytest.raises(ScanFailed, match="Scan timed out"):
        receive("drweb", DRWEB_ERROR, tmp_path)


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_an_infection_in_a_form_that_nobody_knows_is_one(tmp_path: Path, status: str) -> None:
    found = icap("X-Infection-Found: Worm/Strange.A\n", status=status)
    assert receive("kaspersky", found, tmp_path).signatures == ("Worm/Strange.A",)
    for nothing in ("", "0", "None"):
        told = icap(f"X-Infection-Found: {nothing}\n", status="204 No Content")
        assert receive("kaspersky", told, tmp_path).status is Status.CLEAN


def test_an_encrypted_archive_is_unscannable_and_no_virus(tmp_path: Path) -> None:
    with StandIn(answering(ENCRYPTED, read_icap)) as server:
        verdict = Desk("kaspersky", tmp_path, server.address).receive(clean())
    assert verdict.action is Action.PASS
    assert b'unscannable; name="Encrypted Archive"; by=kaspersky' in verdict.edits[-1].value  # type: ignore[union-attr]


def test_a_block_page_without_a_reason_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ScanFailed, match="turn on its field X-Infection-Found"):
        receive("kaspersky", icap("", BLOCKED), tmp_path)


def echo(change: Callable[[bytes], bytes] = bytes) -> Script:
    """A server that does not know 204: it sends the mail back."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        octets = read_icap(connection)[1]
        connection.sendall(icap("", http("200 OK", change(octets))))

    return script


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda octets: octets + b"disinfected",
    lambda octets: octets[:-1] + b"?",
    lambda octets: octets[:-1],
]


@pytest.mark.parametrize("mail", [clean(), long_mail(300_000)])
def test_the_same_mail_sent_back_is_clean_and_a_changed_one_is_not(tmp_path: Path, mail: Message) -> None:
    with StandIn(echo()) as server:
        assert status_of(Desk("kaspersky", tmp_path, server.address).receive(mail)) is Status.CLEAN
    for change in CHANGES:
        with StandIn(echo(change)) as server, pytest.raises(ScanFailed, match="blocked or changed"):
            Desk("kaspersky", tmp_path, server.address).receive(mail)


def test_a_server_that_does_not_wait_for_the_whole_mail_has_not_scanned_it(tmp_path: Path) -> None:
    def early(answer: bytes) -> Script:
        def script(connection: socket.socket, _: threading.Event) -> None:
            connection.recv(1000)
            connection.sendall(answer)
            while connection.recv(1 << 16):
                pass

        return script

    with StandIn(early(icap("", status="204 No Content"))) as server:
        assert status_of(Desk("drweb", tmp_path, server.address).receive(long_mail(20 << 20))) is Status.TOO_LARGE
    with StandIn(early(icap("", http("200 OK", b"Sub")))) as server, pytest.raises(ScanFailed, match="early answers"):
        Desk("drweb", tmp_path, server.address).receive(long_mail(20 << 20))
    with StandIn(early(DRWEB)) as server:
        assert status_of(Desk("drweb", tmp_path, server.address).receive(long_mail(20 << 20))) is Status.FOUND


def test_413_is_too_large(tmp_path: Path) -> None:
    assert receive("kaspersky", icap("", status="413 Too Large"), tmp_path).status is Status.TOO_LARGE


def test_dr_web_is_asked_for_the_versions_of_its_bases(tmp_path: Path) -> None:
    heads: list[list[bytes]] = []

    def script(connection: socket.socket, _: threading.Event) -> None:
        head = read_icap(connection)[0]
        heads.append(head)
        is_mail = head[0].startswith(b"RESPMOD")
        connection.sendall(
            ENCRYPTED
            if is_mail
            else icap("Methods: RESPMOD\nService: Dr.Web ICAPD\nAllow: 204\nX-Allow-Out: X-Virus-ID\n")
        )

    with StandIn(script) as server:
        desk = Desk("drweb", tmp_path, server.address)
        (told,) = desk.handler.diagnose(desk.settings, desk.services)
    assert told.level is FindingLevel.OK
    assert b"DrWeb-Get-Scan-Status: Yes" in heads[0]
    assert "Dr.Web ICAPD" in told.text


def test_names_are_made_safe_before_anybody_sees_them(tmp_path: Path) -> None:
    with StandIn(
        answering('stream: Evil"\x1b[31m\u2603\\'.encode() + b"x" * 1000 + b" FOUND\n", read_stream)
    ) as server:
        verdict = Desk("clamav", tmp_path, server.address, name_in_reply=True).receive(clean())
    (name,) = verdict.finding.result.signatures
    assert len(name) <= 200
    assert name.isascii()
    assert name.isprintable()
    assert verdict.reply is not None
    assert name in verdict.reply.text


def test_details_that_clamd_appends_to_a_name_are_no_part_of_it(tmp_path: Path) -> None:
    reply = f"stream: {FOUND_NAME}(44d88612fea8a8f36de82e1278abb02f:68) FOUND\n".encode()
    with StandIn(answering(reply, read_stream)) as server:
        assert Desk("clamav", tmp_path, server.address).receive(clean()).finding.result.signatures == (FOUND_NAME,)


def clamd_of(built: str, *, commands: bool) -> Script:
    """A server that answers clamd's commands, with signatures of that day; others than clamd know fewer commands."""
    replies = {b"nPING": b"PONG\n", b"nVERSION": f"ClamAV 1.4.6/27420/{built}\n".encode()}
    if commands:
        replies[b"nVERSIONCOMMANDS"] = b"ClamAV 1.4.6| COMMANDS: SCAN PING INSTREAM\n"
        replies[b"nSTATS"] = b"POOLS: 1\n\nQUEUE: 3 items\nEND\n"

    def script(connection: socket.socket, _: threading.Event) -> None:
        command = connection.recv(100, socket.MSG_PEEK).partition(b"\n")[0]
        if command == b"nINSTREAM":
            read_stream(connection)
            connection.sendall(b"stream: Heuristics.Encrypted.Zip FOUND\n")
        else:
            connection.sendall(replies.get(connection.recv(100).strip(), b"UNKNOWN COMMAND\n"))

    return script


def test_doctor_sees_a_server_that_talks_and_does_not_scan(tmp_path: Path) -> None:
    talks = clamd_of("x", commands=True)
    streams: list[bytes] = []

    def script(connection: socket.socket, over: threading.Event) -> None:
        command = connection.recv(20, socket.MSG_PEEK)
        if command.startswith(b"nINSTREAM"):
            streams.append(command)
        if len(streams) > 1:  # the first one asks whether a length is taken
            over.wait(60)
        talks(connection, over)

    with StandIn(script) as server:
        desk = Desk("clamav", tmp_path, server.address)
        desk.services.seconds_left = 1.0
        told = list(desk.handler.diagnose(desk.settings, desk.services))
    assert told[-1].level is FindingLevel.ERROR
    assert re.search(f"does not scan: ({LATE})", told[-1].text)


@pytest.mark.parametrize("commands", [True, False])
def test_doctor_warns_of_old_signatures(tmp_path: Path, commands: bool) -> None:
    for built, levels in (
        ("Mon Nov 13 10:53:02 2023", [FindingLevel.OK]),  # the test's clock stands at 14 November
        ("Mon Nov  6 10:53:02 2023", [FindingLevel.OK, FindingLevel.WARNING]),
        ("no date at all", [FindingLevel.OK]),
    ):
        with StandIn(clamd_of(built, commands=commands)) as server:
            desk = Desk("clamav", tmp_path, server.address)
            told = list(desk.handler.diagnose(desk.settings, desk.services))
        assert [each.level for each in told] == levels, built
        assert "ClamAV 1.4.6, signatures 27420" in told[0].text
        assert ("QUEUE: 3 items" in told[0].text) is commands


def test_doctor_tells_which_server_is_behind_in_its_signatures(tmp_path: Path) -> None:
    built = ("Mon Nov 13 10:53:02 2023", "Sat Nov 11 10:53:02 2023", "Sun Nov 12 22:53:02 2023")
    with (
        StandIn(clamd_of(built[0], commands=True)) as new,
        StandIn(clamd_of(built[1], commands=True)) as old,
        StandIn(clamd_of(built[2], commands=True)) as other,
    ):
        servers = (new.address, old.address, other.address)
        desk = Desk("clamav", tmp_path, *servers, max_age=Duration(30 * 86400))
        told = list(desk.handler.diagnose(desk.settings, desk.services))
    (warning,) = [each for each in told if each.level is not FindingLevel.OK]
    assert warning.subject == f"clamav {old.address}"
    assert warning.text == "its signatures are 2d older than those of another server"


def test_doctor_sees_that_the_user_who_runs_the_server_is_kept_out(tmp_path: Path, clamd: ClamdInstance) -> None:
    from postroom.config import parse_config

    desk = Desk("clamav", tmp_path, SocketAddress("unix", path=str(clamd.socket)))
    for user, level in (("nobody", FindingLevel.ERROR), (clamd.user, FindingLevel.OK), ("", FindingLevel.OK)):
        desk.services.config = parse_config(f'[server]\nuser = "{user}"\n', "test")
        mode = clamd.base.stat().st_mode
        clamd.base.chmod(0o700)
        try:
            told = list(desk.handler.diagnose(desk.settings, desk.services))
        finally:
            clamd.base.chmod(mode)
        assert told[-1].level is level, user
    desk.services.config = parse_config('[server]\nuser = "no-such-user"\n', "test")
    assert len(list(desk.handler.diagnose(desk.settings, desk.services))) == 1


def test_doctor_warns_of_mail_that_would_pass_unscanned(tmp_path: Path) -> None:
    from postroom.config import parse_config

    with StandIn(clamd_of("x", commands=True)) as server:
        desk = Desk("clamav", tmp_path, server.address)
        desk.services.config = parse_config('[handlers.clamav]\non_error = "skip"\n', "test")
        told = list(desk.handler.diagnose(desk.settings, desk.services))
    assert "passes unscanned" in told[-1].text
    assert told[-1].level is FindingLevel.WARNING


def test_doctor_says_when_no_server_of_several_works(tmp_path: Path) -> None:
    desk = Desk("kaspersky", tmp_path, unused_address(), unused_address())
    told = list(desk.handler.diagnose(desk.settings, desk.services))
    assert [each.level for each in told] == [FindingLevel.WARNING, FindingLevel.WARNING, FindingLevel.ERROR]


def test_doctor_is_not_held_up_by_a_hung_server(tmp_path: Path) -> None:
    with StandIn(hangs) as hung:
        for name in ("clamav", "kaspersky"):
            desk = Desk(name, tmp_path, hung.address)
            desk.services.seconds_left = 0.3
            begun = time.monotonic()
            (told,) = desk.handler.diagnose(desk.settings, desk.services)
            assert told.level is FindingLevel.ERROR
            assert re.fullmatch(LATE, told.text)
            assert time.monotonic() - begun < AMPLE
