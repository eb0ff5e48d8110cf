"""The files for systemd and logrotate are understood by their programs, and agree with the server."""

from __future__ import annotations

import configparser
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from postroom.log import FileTarget
from postroom.server import WorkerKind
from requirements import require

DATA = Path(str(files("postroom") / "data"))


def parse(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment]  # as configparser's own documentation does it
    parser.read_string((DATA / name).read_text())
    return parser


def test_the_units_are_valid(tmp_path: Path) -> None:
    require("systemd-analyze")
    for name in ("postroom.service", "postroom.socket"):
        text = (DATA / name).read_text().replace("/usr/bin/postroom", "/bin/true")  # not installed here
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in ("postroom.service", "postroom.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False, timeout=30
    )
    said = [line for line in done.stderr.splitlines() if "postroom" in line]
    assert (done.returncode, said) == (0, [])


def test_the_socket_unit_says_whose_socket_it_is() -> None:
    assert parse("postroom.socket")["Socket"]["FileDescriptorName"] == WorkerKind.MILTER


def test_the_unit_relies_on_what_the_server_does() -> None:
    service = parse("postroom.service")["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith("postroom serve")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["KillMode"] == "mixed"  # the supervisor tells its workers
    assert int(service["TimeoutStopSec"]) > 30 + 5  # [server] grace, and the margin


@pytest.mark.parametrize("name", ["postroom.sysusers", "postroom.tmpfiles"])
def test_user_and_directories(name: str) -> None:
    lines = [line for line in (DATA / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all("postroom" in line.split()[1] for line in lines)


def test_logrotate_moves_the_file_and_the_log_goes_on(tmp_path: Path) -> None:
    require("logrotate")
    tmp_path.chmod(0o755)
    log = tmp_path / "postroom.log"
    target = FileTarget(log)
    target.write("info", "before")
    rules = tmp_path / "rules"
    rules.write_text((DATA / "postroom.logrotate").read_text().replace("/var/log/postroom/*.log", str(log)))
    rules.chmod(0o644)
    subprocess.run(["logrotate", "-f", "-s", str(tmp_path / "status"), str(rules)], check=True, timeout=30)
    target.write("info", "after")
    assert (tmp_path / "postroom.log.1").read_text() == "before\n"
    assert log.read_text() == "after\n"
