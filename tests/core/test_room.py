"""`postroom doctor` tells when the file system is nearly full, or the quarantine large."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from postroom import diagnosis
from postroom.config import Config, Duration, LogSettings, Paths
from postroom.hookspecs import Diagnosis, FindingLevel
from postroom.mail import parse_message
from postroom.quarantine import Quarantine
from postroom.registration import Stage
from postroom.testing import ManualClock, envelope

GIB = 1 << 30


def room(total: int, free: int, files: int = 1000, free_files: int = 500) -> os.statvfs_result:
    """A file system of so many octets and inodes, in blocks of 4096."""
    return os.statvfs_result(
        (4096, 4096, total // 4096, free // 4096, free // 4096, files, free_files, free_files, 0, 255)
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "state").mkdir()
    return Config(paths=Paths(state=tmp_path / "state", run=tmp_path / "run"))


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (room(100 * GIB, 50 * GIB), FindingLevel.OK),
        (room(100 * GIB, 4 * GIB), FindingLevel.WARNING),
        (room(10000 * GIB, 90 * GIB), FindingLevel.OK),  # less than one in a hundred, and much all the same
        (room(100 * GIB, GIB // 2), FindingLevel.ERROR),
        (room(100 * GIB, 0), FindingLevel.ERROR),
        (room(GIB, GIB // 2), FindingLevel.OK),  # little, but most of it is free
        (room(100 * GIB, 50 * GIB, 1000, 40), FindingLevel.WARNING),
        (room(100 * GIB, 50 * GIB, 1000, 0), FindingLevel.ERROR),
        (room(100 * GIB, 50 * GIB, 0, 0), FindingLevel.OK),  # btrfs counts no inodes
    ],
)
def test_a_file_system_that_is_nearly_full(config: Config, found: os.statvfs_result, level: FindingLevel) -> None:
    (finding,) = diagnosis.check_room(config, lambda path: found)
    assert finding.level is level
    assert bool(finding.remedy) is (level is not FindingLevel.OK)


def test_each_file_system_once_and_none_that_is_not_there(config: Config, tmp_path: Path) -> None:
    log = replace(config, log=LogSettings(target=f"{tmp_path}/log"))
    assert len(list(diagnosis.check_room(log))) == 1
    away = replace(config, paths=Paths(state=tmp_path / "away", run=tmp_path))
    assert list(diagnosis.check_room(away)) == []


def test_a_large_quarantine(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(total: int = 100 * GIB, settings: Config = config) -> Diagnosis:
        (found,) = diagnosis.check_quarantine(settings, lambda path: room(total, total))
        return found

    assert look().text == "nothing was ever held"
    held = Quarantine(config.paths.state / "quarantine", ManualClock())
    mail = parse_message(b"Subject: x\r\n\r\n" + b"x" * 5000)
    for _ in range(3):
        held.keep(envelope("a@sender.test", "bob@local.test"), Stage.BEFORE_LOCAL, mail, "why", "spam")
    assert look().level is FindingLevel.OK
    assert look().text.startswith("3 mails, 14.7 KiB")
    assert look(total=20 << 12).level is FindingLevel.WARNING
    monkeypatch.setattr(diagnosis, "MANY_HELD", 2)
    assert look().level is FindingLevel.WARNING
    assert "30d" in look().remedy
    forever = replace(config, quarantine=replace(config.quarantine, keep=Duration(0)))
    assert "for ever" in look(settings=forever).remedy
