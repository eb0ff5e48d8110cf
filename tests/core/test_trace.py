"""`postroom trace`: a mail's way out of whatever log there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result
from postroom.cli.main import postroom
from postroom.config import LogFormat, LogSettings
from postroom.log import configure, get_logger


@pytest.fixture(autouse=True)
def structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def write_log(path: Path, format: LogFormat) -> None:
    configure(LogSettings(format=format, target=str(path)), now=lambda: 1_700_000_000.0)
    log = get_logger()
    for queue_id in ("4OTHER", "4QUEUE"):
        log.info(
            "PASS during call 'spf' handler",
            queue_id=queue_id,
            stage="before-queue",
            handler="spf",
            recipients=["b@x.example", "c@x.example"],
            ms=3.4,
            generation=7,
            reason="pass: 192.0.2.1 is allowed",
        )
    log.warning(
        "DEFER during call 'av' handler",
        queue_id="4QUEUE",
        stage="before-queue",
        handler="av",
        error="timeout",
        consequence="defer",
        reason="av failed",
        mode="shadow",
    )
    log.info("mail handled", queue_id="4QUEUE", stage="before-queue", outcome="PASS:2", generation=7)
    log.info("something else", helo="queue_id=4QUEUE")


def trace(tmp_path: Path, *arguments: str, input: str = "") -> Result:
    config = tmp_path / "postroom.toml"
    config.write_text(f'[log]\ntarget = "{tmp_path}/log"\n')
    return CliRunner().invoke(postroom, ["--config", str(config), "trace", *arguments], input=input)


@pytest.mark.parametrize("format", LogFormat)
def test_a_mail_is_found_with_all_its_stages(tmp_path: Path, format: LogFormat) -> None:
    write_log(tmp_path / "log", format)
    result = trace(tmp_path, "4QUEUE", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["handler"], row["verdict"], row["reason"]) for row in rows] == [
        ("spf", "PASS", "pass: 192.0.2.1 is allowed"),
        ("av", "DEFER (shadow)", "av failed [timeout: defer]"),
        ("", "PASS:2", "mail handled"),
    ]
    assert (rows[0]["ms"], rows[0]["generation"], rows[0]["recipients"]) == ("3.4", "7", "b@x.example,c@x.example")
    assert rows[0]["time"].startswith("2023-11-1")


def test_a_log_of_syslog_from_standard_input(tmp_path: Path) -> None:
    write_log(tmp_path / "log", LogFormat.TEXT)
    lines = [line.partition(" ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    syslog = "".join(
        f"Nov 14 22:13:20 mx {line}\nNov 14 22:13:20 mx postfix/smtpd[1]: 4QUEUE: client=x\n" for line in lines
    )
    result = trace(tmp_path, "4QUEUE", "--log", "-", input=syslog)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 4
    assert "Nov 14 22:13:20" in result.stdout


def test_nothing_found_is_the_answer_no(tmp_path: Path) -> None:
    write_log(tmp_path / "log", LogFormat.TEXT)
    result = trace(tmp_path, "4NOWHERE")
    assert result.exit_code == 1
    assert "nothing about 4NOWHERE" in result.output
