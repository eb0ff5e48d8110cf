"""Real scanners: what is in a mail is found, however it is wrapped and however long it is."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from plugins.antivirus.conftest import MakeDesk
from plugins.antivirus.scanners import (
    FOUND_NAME,
    LOOPBACK,
    Desk,
    clean,
    infected,
    infected_deep_inside,
    long_mail,
    mail,
)
from postroom.backends.deadline import Deadline
from postroom.backends.octets import PIECE
from postroom.config import Size, SocketAddress
from postroom.hookspecs import FindingLevel
from postroom.mail import BodyCollector, InsertField, Message, parse_message
from postroom.testing.cicap import CIcapInstance
from postroom.testing.clamd import EICAR, ClamdInstance
from postroom.verdict import Action, Category, Verdict
from postroom_antivirus import ScanFinding, Status
from postroom_antivirus.blind_spots import BlindSpot, encrypted, nested, probe
from postroom_antivirus.engines import engines_of
from postroom_antivirus.settings import Consequence, Protocol
from requirements import require, require_root

MEGABYTE = 1 << 20


def result_of(verdict: Verdict) -> Any:
    assert isinstance(verdict.finding, ScanFinding)
    return verdict.finding.result


@pytest.mark.parametrize("make_mail", [infected, infected_deep_inside])
def test_a_virus_is_found_and_refused(make_desk: MakeDesk, make_mail: Any) -> None:
    desk = make_desk()
    verdict = desk.receive(make_mail())
    assert verdict.action is Action.REJECT
    assert verdict.category is Category.INFECTED
    assert verdict.reply is not None
    assert verdict.reply.line(verdict.action) == "550 5.7.1 Message refused: it contains malicious content"
    assert f"infected: {FOUND_NAME}" in verdict.reason
    assert result_of(verdict).signatures == (FOUND_NAME,)
    assert desk.logged("virus found") == [{"signatures": [FOUND_NAME], "server": str(desk.settings.servers[0])}]


def test_a_clean_mail_goes_on_as_it_is(make_desk: MakeDesk) -> None:
    verdict = make_desk().receive(clean())
    assert (verdict.action, verdict.edits) == (Action.PASS, ())
    assert result_of(verdict).status is Status.CLEAN


@pytest.mark.parametrize("octets", [b"", b"\r\n", b"Subject: empty\r\n\r\n", b"no header at all\r\n"])
def test_mails_with_nothing_in_them_are_clean(make_desk: MakeDesk, octets: bytes) -> None:
    assert result_of(make_desk().receive(parse_message(octets))).status is Status.CLEAN


@pytest.mark.parametrize("size", [4096, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * MEGABYTE])
def test_lengths_at_the_edges_of_chunks(make_desk: MakeDesk, size: int) -> None:
    mail = long_mail(size)
    assert mail.size() == size
    assert result_of(make_desk().receive(mail)).status is Status.CLEAN


def test_a_virus_at_the_end_of_a_long_mail_is_found(make_desk: MakeDesk) -> None:
    collector = BodyCollector()
    for _ in range(5 * 16):
        collector.append(b"x" * PIECE)
    collector.append(EICAR)
    assert result_of(make_desk().receive(Message((), collector.finish()))).status is Status.FOUND


class Pieces:
    """A stream in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def chunks(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def size(self) -> int:
        return sum(map(len, self._pieces))


def test_an_empty_stream_is_clean_and_no_error(make_desk: MakeDesk) -> None:
    (engine,) = engines_of(make_desk().settings)
    assert engine.scan(Pieces(), Deadline(10)).status is Status.CLEAN


def test_an_empty_piece_does_not_end_the_stream(make_desk: MakeDesk) -> None:
    (engine,) = engines_of(make_desk().settings)
    pieces = (b"", EICAR[:20], b"", EICAR[20:], b"")
    assert engine.scan(Pieces(*pieces), Deadline(10)).signatures == (FOUND_NAME,)


def test_fifty_megabytes_are_scanned_in_bounded_memory(make_desk: MakeDesk) -> None:
    desk = make_desk(max_size=Size(50 * MEGABYTE))
    mail = long_mail(50 * MEGABYTE)
    tracemalloc.start()
    verdict = desk.receive(mail)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result_of(verdict).status is Status.CLEAN
    assert peak < 2 * MEGABYTE


@pytest.mark.parametrize("family", ["unix", "inet"])
def test_over_clamds_own_limit_is_too_large_and_no_error(tmp_path: Any, clamd: ClamdInstance, family: str) -> None:
    address = (
        SocketAddress("unix", path=str(clamd.socket))
        if family == "unix"
        else SocketAddress("inet", LOOPBACK, clamd.port)
    )
    desk = Desk("clamav", tmp_path, address, max_size=Size(60 * MEGABYTE))
    for _ in range(5):  # the answer may come at any moment of the sending
        verdict = desk.receive(long_mail(51 * MEGABYTE))
        assert verdict.action is Action.PASS
        assert result_of(verdict).status is Status.TOO_LARGE
        assert "StreamMaxLength" in verdict.reason


def test_what_is_longer_than_our_limit_is_not_even_sent(make_desk: MakeDesk) -> None:
    desk = make_desk(max_size=Size(MEGABYTE), too_large=Consequence.REJECT)
    verdict = desk.receive(long_mail(MEGABYTE + 1))
    assert verdict.reply is not None
    assert verdict.reply.line(verdict.action) == "552 5.3.4 Message refused: too large to be checked for viruses"
    assert verdict.category is None
    assert result_of(verdict).server == ""
    assert result_of(desk.receive(long_mail(MEGABYTE))).status is Status.CLEAN


def test_many_threads_get_each_its_own_result(make_desk: MakeDesk) -> None:
    desk = make_desk()
    mails = {Status.FOUND: infected_deep_inside(), Status.CLEAN: clean()}
    wanted = [Status.FOUND, Status.CLEAN, Status.CLEAN] * 60
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda status: result_of(desk.receive(mails[status])).status, wanted))
    assert found == wanted
    assert Counter(found) == {Status.FOUND: 60, Status.CLEAN: 120}


def test_a_preview_is_answered_and_followed_by_the_rest(tmp_path: Any, cicap: CIcapInstance) -> None:
    address = SocketAddress("inet", LOOPBACK, cicap.port)
    for preview in (1, 100, 1024, 65536):
        desk = Desk("kaspersky", tmp_path, address, preview=Size(preview))
        assert result_of(desk.receive(infected())).signatures == (FOUND_NAME,), preview
        assert result_of(desk.receive(clean())).status is Status.CLEAN, preview
        assert result_of(desk.receive(long_mail(200_000))).status is Status.CLEAN, preview


def test_a_missing_icap_service_is_named(tmp_path: Any, cicap: CIcapInstance) -> None:
    desk = Desk("drweb", tmp_path, SocketAddress("inet", LOOPBACK, cicap.port), service="nope")
    with pytest.raises(Exception, match="has no service 'nope': set `service`"):
        desk.receive(clean())


def test_doctor_is_told_that_a_scanner_is_well(make_desk: MakeDesk) -> None:
    desk = make_desk()
    (told,) = desk.handler.diagnose(desk.settings, desk.services)
    assert told.level is FindingLevel.OK
    assert told.subject == f"{desk.name} {desk.settings.servers[0]}"
    protocol = getattr(desk.settings, "protocol", "")
    is_clamd = desk.name == "clamav" or protocol == Protocol.CLAMD
    assert ("ClamAV" in told.text) is is_clamd
    assert ("C-ICAP" in told.text) is not is_clamd


class Sighted(NamedTuple):
    """What the doctor says of a clamd by its settings."""

    alerts: bool
    warnings: tuple[str, ...]


SIGHTED = (
    Sighted(True, ()),
    Sighted(
        False,
        (
            'archives inside each other beyond its limits: set "AlertExceedsMax yes" in its clamd.conf',
            'an encrypted archive: set "AlertEncrypted yes" in its clamd.conf',
        ),
    ),
)


@pytest.mark.parametrize("sighted", SIGHTED)
@pytest.mark.parametrize("most", ["", "MaxRecursion 100"])
def test_doctor_sees_what_clamd_calls_clean_without_a_look(tmp_path: Path, sighted: Sighted, most: str) -> None:
    require("clamd")
    require_root()
    with ClamdInstance(alerts=sighted.alerts, more=(most,)) as clamd:
        desk = Desk("clamav", tmp_path, SocketAddress("unix", path=str(clamd.socket)))
        for _ in range(2):  # clamd remembers what was clean
            well, *told = desk.handler.diagnose(desk.settings, desk.services)
            assert well.level is FindingLevel.OK
            assert {each.level for each in told} <= {FindingLevel.WARNING}
            assert [f"{each.text.partition(': ')[2]}: {each.remedy}" for each in told] == list(sighted.warnings)
        desk = Desk("clamav", tmp_path, SocketAddress("unix", path=str(clamd.socket)), unscannable=Consequence.PASS)
        assert len(list(desk.handler.diagnose(desk.settings, desk.services))) == 1, "who lets it pass is not warned"


def test_doctor_sees_through_icap_what_is_called_clean_without_a_look(tmp_path: Path) -> None:
    require("clamd", "c-icap")
    require_root()
    with ClamdInstance(alerts=False) as clamd, CIcapInstance(clamd) as cicap:
        desk = Desk("kaspersky", tmp_path, SocketAddress("inet", LOOPBACK, cicap.port))
        _, told = desk.handler.diagnose(desk.settings, desk.services)
    assert told.level is FindingLevel.WARNING
    assert told.text == "it calls clean what it did not look into: an encrypted archive"


@pytest.mark.parametrize("spot", BlindSpot)
def test_what_could_not_be_looked_into_is_no_virus_and_not_clean(make_desk: MakeDesk, spot: BlindSpot) -> None:
    desk = make_desk()
    verdict = desk.receive(parse_message(probe(spot)))
    name = {
        BlindSpot.LIMITS: "Heuristics.Limits.Exceeded.MaxRecursion",
        BlindSpot.ENCRYPTED: "Heuristics.Encrypted.Zip",
    }
    assert verdict.action is Action.PASS
    assert f"unscannable: {name[spot]}" in verdict.reason
    (edit,) = verdict.edits
    assert isinstance(edit, InsertField)
    assert edit.value == f' unscannable; name="{name[spot]}"; by={desk.name}'.encode()
    assert not desk.logged("virus found")
    assert desk.logged("mail not looked into") == [
        {"signatures": [name[spot]], "server": str(desk.settings.servers[0])}
    ]
    refused = make_desk(unscannable=Consequence.REJECT).receive(parse_message(probe(spot)))
    assert refused.reply is not None
    assert refused.reply.text == "Message refused: it contains content that cannot be checked for viruses"
    assert refused.category is None, "its sender may be told"


def test_a_virus_beside_what_cannot_be_looked_into_counts(make_desk: MakeDesk) -> None:
    found = mail()
    found.add_attachment(nested(), maintype="application", subtype="gzip", filename="a.gz")
    found.add_attachment(encrypted(), maintype="application", subtype="zip", filename="b.zip")
    found.add_attachment(EICAR, maintype="application", subtype="octet-stream", filename="run.com")
    assert result_of(make_desk().receive(parse_message(found.as_bytes()))).signatures == (FOUND_NAME,)


def test_doctor_compares_our_limit_with_clamds_without_sending_a_mail(tmp_path: Any, clamd: ClamdInstance) -> None:
    address = SocketAddress("unix", path=str(clamd.socket))
    limit = 50 * MEGABYTE  # StreamMaxLength of the fixture
    for size, level in ((limit, FindingLevel.OK), (limit + 1, FindingLevel.WARNING)):
        desk = Desk("clamav", tmp_path, address, max_size=Size(size))
        told = list(desk.handler.diagnose(desk.settings, desk.services))
        assert told[0].level is FindingLevel.OK
        assert told[-1].level is level
    assert "raise its StreamMaxLength" in told[-1].text
