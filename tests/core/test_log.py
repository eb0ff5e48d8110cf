"""Logs: no peer forges a line, what was logged can be read again, and every target takes it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import LogFormat, LogLevel, LogSettings
from postroom.log import FileTarget, SyslogTarget, Timestamp, configure, get_logger
from postroom.logline import MAX_VALUE, format_line, parse_line, read_line

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,12}", fullmatch=True)


class Lines:
    """A target that keeps what it gets."""

    def __init__(self, *, stamps: bool = False) -> None:
        self.stamps = stamps
        self.written: list[tuple[str, str]] = []

    def write(self, level: str, line: str) -> None:
        self.written.append((level, line))


@pytest.fixture(autouse=True)
def structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@given(event=ANY_TEXT, facts=st.dictionaries(KEYS, ANY_TEXT, max_size=6))
def test_what_was_logged_is_read_again(event: str, facts: dict[str, str]) -> None:
    line = format_line(event, facts)
    assert line.isprintable()
    read = parse_line(line)
    assert (read.event, read.facts) == (event, facts)


@given(event=ANY_TEXT, facts=st.dictionaries(KEYS, ANY_TEXT, max_size=4), sink_format=st.sampled_from(LogFormat))
def test_through_the_logger_too(event: str, facts: dict[str, str], sink_format: LogFormat) -> None:
    reserved = {"level", "event", "time", "pid", "exc_info", "stack_info", "self"}
    facts = {key: value for key, value in facts.items() if key.lower() not in reserved | {"key", "token", "secret"}}
    lines = Lines()
    configure(LogSettings(format=sink_format), target=lines)
    get_logger().info(event, **facts)
    [(level, line)] = lines.written
    assert level == "info"
    assert line.isprintable()
    if "://" in line:
        return
    read = read_line(line)
    assert read is not None
    assert read.pid == os.getpid()
    if sink_format is LogFormat.TEXT:
        assert (read.event, read.facts) == (event, facts)
    else:
        assert set(read.facts) == {*facts, "level"}


def test_a_peer_can_not_forge_a_line() -> None:
    attack = "x\" queue_id=FORGED\nNov 23 04:29:00 host postroom[1]: PASS during call 'spf' handler queue_id=4Q"
    line = format_line("DEFER during call 'grey' handler", {"helo": attack, "queue_id": "4QREAL"})
    assert "\n" not in line
    read = parse_line(line)
    assert read.facts == {"helo": attack, "queue_id": "4QREAL"}
    assert read.event == "DEFER during call 'grey' handler"


def test_the_form_of_a_line_is_what_the_documentation_shows() -> None:
    facts = {
        "queue_id": "4Q",
        "reason": "first seen",
        "ms": 1.5,
        "first": ["a@x", "b@x"],
        "raw": b"j\xf6rg",
        "no": None,
    }
    assert (
        format_line("DEFER during call 'grey' handler", facts)
        == 'DEFER during call \'grey\' handler queue_id=4Q reason="first seen" ms=1.5 first=a@x,b@x raw="j\\xf6rg"'
    )


def test_a_long_value_is_cut() -> None:
    assert len(format_line("event", {"value": "x" * 100000})) < MAX_VALUE + 30


def test_raw_octets_do_not_stop_json() -> None:
    lines = Lines()
    configure(LogSettings(format=LogFormat.JSON), target=lines)
    get_logger(queue_id="4Q").info("event", sender=b"j\xf6rg@x".decode("utf-8", "surrogateescape"), raw=b"\xff")
    facts = json.loads(lines.written[0][1].encode("ascii"))
    assert (facts["sender"], facts["raw"], facts["queue_id"]) == ("j\\xf6rg@x", "\\xff", "4Q")


@pytest.mark.parametrize("format", LogFormat)
def test_secrets_stay_out(format: LogFormat) -> None:
    lines = Lines()
    configure(LogSettings(format=format), target=lines)
    get_logger().error("no redis", url="redis://user:hunter2@h:6379/0", password="hunter2", error="at x://:hunter2@h")
    assert "hunter2" not in lines.written[0][1]
    assert "6379" in lines.written[0][1]


def test_an_exception_is_one_line_that_names_the_place() -> None:
    lines = Lines()
    configure(LogSettings(), target=lines)
    try:
        raise ValueError("what\nnow")
    except ValueError:
        get_logger().exception("it broke")
    read = read_line(lines.written[0][1])
    assert read is not None
    assert read.facts["error"] == "ValueError: what\nnow"
    assert "test_log.py:" in read.facts["at"]
    assert read.facts["level"] == "error"


def test_the_level_decides() -> None:
    lines = Lines()
    configure(LogSettings(level=LogLevel.WARNING), target=lines)
    log = get_logger()
    log.info("not this")
    log.warning("this")
    assert [level for level, _ in lines.written] == ["warning"]


def test_a_file_that_was_moved_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "postroom.log"
    configure(LogSettings(target=str(path)))
    log = get_logger()
    log.info("one")
    path.rename(tmp_path / "postroom.log.1")
    log.info("two")
    path.unlink()
    log.info("three")
    assert " one" in (tmp_path / "postroom.log.1").read_text()
    [line] = path.read_text().splitlines()
    read = read_line(line)
    assert read is not None
    assert read.event == "three"
    assert read.time


def test_a_file_whose_directory_vanished_goes_to_standard_error(tmp_path: Path) -> None:
    fallback = Lines()
    directory = tmp_path / "logs"
    directory.mkdir()
    target = FileTarget(directory / "log", fallback=fallback)
    (directory / "log").unlink()
    directory.rmdir()
    target.write("info", "line")
    assert fallback.written == [("info", "line")]


def test_syslog_gets_facility_mail_and_survives_its_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    fallback = Lines(stamps=True)
    with _syslog(path) as server:
        target = SyslogTarget(path, fallback=fallback)
        target.write("warning", "one")
        assert server.recv(9000).decode().startswith("<20>")  # mail (2) * 8 + warning (4)
    Path(path).unlink()
    target.write("info", "two")
    target.write("info", "three")
    assert [line for _, line in fallback.written][1:] == ["two", "three"]
    assert fallback.written[0][1].startswith("no syslog")
    with _syslog(path) as server:
        target.write("info", "four queue_id=4Q")
        read = read_line(server.recv(9000).decode().partition(">")[2])
    target.close()
    assert read is not None
    assert (read.event, read.pid) == ("four", os.getpid())


@contextlib.contextmanager
def _syslog(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(path)
        yield server


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-02T03:04:05.678901+01:00 postroom[7]: PASS during call 'spf' handler queue_id=4Q",
        "2026-01-02T03:04:05.678901+01:00 mx postroom[7]: PASS during call 'spf' handler queue_id=4Q",
        "Jan  2 03:04:05 mx postroom[7]: PASS during call 'spf' handler queue_id=4Q",
        'Jan  2 03:04:05 mx postroom[7]: {"event": "PASS during call \'spf\' handler", "queue_id": "4Q"}',
        '{"time": "2026-01-02T03:04:05Z", "pid": 7, "event": "PASS during call \'spf\' handler", "queue_id": "4Q"}',
    ],
)
def test_every_writer_of_log_files_is_understood(line: str) -> None:
    read = read_line(line + "\n")
    assert read is not None
    assert (read.event, dict(read.facts), read.pid) == ("PASS during call 'spf' handler", {"queue_id": "4Q"}, 7)
    assert read.time


@pytest.mark.parametrize("line", ["", "Jan  2 03:04:05 mx postfix/smtpd[7]: 4Q: client=x", "{", "[1]", '{"a": 1}'])
def test_lines_of_others_are_not_ours(line: str) -> None:
    assert read_line(line) is None


def test_time_is_local_with_its_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert Timestamp()(1_700_000_000.25) == "2023-11-15T03:43:20.250000+05:30"
    finally:
        monkeypatch.undo()
        time.tzset()
