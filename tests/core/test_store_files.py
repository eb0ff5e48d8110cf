"""Files that other programs watch: whole, and noticed by one that looks at the second of the change and the size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from postroom.stores.files import replace_noticeably


def write(path: Path, text: str, changed: float) -> Path:
    path.write_text(text)
    os.utime(path, (changed, changed))
    return path


@pytest.mark.parametrize(
    ("before", "now", "then"),
    [
        pytest.param(100.2, 100.9, 101, id="the same second"),
        pytest.param(500, 100, 501, id="a clock that was set back"),
        pytest.param(100, 107, 107, id="later"),
    ],
)
def test_the_second_of_the_change_goes_on(tmp_path: Path, before: float, now: float, then: int) -> None:
    target = write(tmp_path / "passwd", "one", before)
    new = write(tmp_path / "new", "two", now)
    replace_noticeably(new, target)
    assert int(target.stat().st_mtime) == then
    assert target.read_text() == "two"
    assert not new.exists()


def test_where_nothing_was_the_time_stays(tmp_path: Path) -> None:
    replace_noticeably(write(tmp_path / "new", "one", 100.5), tmp_path / "passwd")
    assert (tmp_path / "passwd").stat().st_mtime == 100.5
