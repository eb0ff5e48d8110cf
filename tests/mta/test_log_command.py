"""`postroom log`: calls of handlers out of the log, chosen and followed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from postroom.config import LogFormat, LogSettings
from postroom.log import configure, get_logger
from postroom.testing.processes import wait_until

from .conftest import Line

NOW = time.time()


@pytest.fixture(autouse=True)
def structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def write(path: Path, *calls: tuple[str, str, str, list[str], float], format: LogFormat = LogFormat.TEXT) -> None:
    for verdict, handler, sender, recipients, age in calls:
        configure(LogSettings(format=format, target=str(path)), now=lambda age=age: NOW - age)  # type: ignore[misc]
        get_logger().info(
            f"{verdict} during call '{handler}' handler",
            queue_id=f"4{handler}", stage="before-queue", handler=handler, sender=sender, recipients=recipients,
            reason="because",
        )  # fmt: skip
        get_logger().info("mail handled", queue_id="4X")


CALLS = (
    ("PASS", "spf", "a@one.example", ["b@x.example", "c@x.example"], 7200.0),
    ("DEFER", "grey", "", ["b@x.example"], 60.0),
    ("REJECT", "spf", "d@two.example", ["c@x.example"], 10.0),
)


@pytest.fixture
def log(line: Line, tmp_path: Path) -> Path:
    with line.config.open("a") as file:
        file.write(f'[log]\ntarget = "{tmp_path}/log"\n')
    return tmp_path / "log"


@pytest.mark.parametrize("format", LogFormat)
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), ["PASS", "DEFER", "REJECT"]),
        (("--since", "1h"), ["DEFER", "REJECT"]),
        (("--handler", "spf"), ["PASS", "REJECT"]),
        (("--verdict", "reject"), ["REJECT"]),
        (("--sender", "*@ONE.example"), ["PASS"]),
        (("--sender", "<>"), ["DEFER"]),
        (("--recipient", "c@*"), ["PASS", "REJECT"]),
        (("--recipient", "c@*", "--since", "1h"), ["REJECT"]),
        (("--handler", "no"), []),
    ],
)
def test_calls_are_chosen(
    line: Line, log: Path, format: LogFormat, arguments: tuple[str, ...], found: list[str]
) -> None:
    write(log, *CALLS, format=format)
    rows: list[dict[str, Any]] = line.json("log", *arguments)
    assert [row["verdict"] for row in rows] == found


@contextlib.contextmanager
def following(line: Line, log: Path) -> Iterator[Path]:
    """What `log -f` prints, once it stands at the end of the log."""
    out = log.with_name("out")
    with out.open("wb") as output:
        command = [sys.executable, "-m", "postroom.cli.main", "--config", str(line.config), "log", "-f"]
        follower = subprocess.Popen(command, stdout=output, env={"PYTHONUNBUFFERED": "1"})

    def at_the_end() -> bool:
        for each in Path(f"/proc/{follower.pid}/fd").iterdir():
            if each.exists() and each.samefile(log):
                facts = Path(f"/proc/{follower.pid}/fdinfo/{each.name}").read_text()
                return int(facts.split()[1]) == log.stat().st_size  # pos: N, proc(5)
        return False

    try:
        wait_until(at_the_end, "the end of the log")
        yield out
    finally:
        follower.terminate()
        follower.wait(60)


def test_a_log_is_followed_through_its_rotation(line: Line, log: Path) -> None:
    write(log, CALLS[0])
    with following(line, log) as out:
        write(log, CALLS[1])
        wait_until(lambda: "DEFER" in out.read_text(), "the new line is shown")
        log.rename(log.with_name("log.1"))
        write(log, CALLS[2])
        wait_until(lambda: "REJECT" in out.read_text(), "the line in the new file is shown")
        assert "PASS" not in out.read_text()


def test_a_log_that_is_emptied_in_place_is_followed(line: Line, log: Path) -> None:
    write(log, *CALLS[:2])
    with following(line, log) as out:
        write(log, CALLS[1])
        wait_until(lambda: "DEFER" in out.read_text(), "the new line is shown")
        log.write_bytes(b"")
        write(log, CALLS[2])  # shorter than what was there, so that it does not matter when it is seen
        wait_until(lambda: "REJECT" in out.read_text(), "the line in the emptied file is shown")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_log_is_read(line: Line, log: Path, pack: Callable[[bytes], bytes]) -> None:
    write(log, *CALLS)
    packed = log.with_name("log.2")
    packed.write_bytes(pack(log.read_bytes()))
    assert [row["verdict"] for row in line.json("log", "--log", str(packed))] == ["PASS", "DEFER", "REJECT"]
    assert "because" in line("trace", "4grey", "--log", str(packed))
    packed.write_bytes(pack(log.read_bytes() * 100)[:-20])
    line("log", "--log", str(packed), status=1)
    assert f"{packed} cannot be read to its end" in line.err


def test_a_log_that_cannot_be_unpacked_is_named(line: Line, log: Path) -> None:
    log.write_bytes(b"\x28\xb5\x2f\xfd\x24\x00")  # RFC 8878 3.1.1
    line("trace", "4grey", status=1)
    assert "compressed by zstd" in line.err


def test_wrong_use_is_said(line: Line, log: Path) -> None:
    write(log, CALLS[0])
    line("log", "--since", "soon", status=2)
    line("log", "-f", "--log", "-", status=2)
    line("log", "--verdict", "REJCT", status=2)
    assert "'REJCT' is not one of" in line.err
