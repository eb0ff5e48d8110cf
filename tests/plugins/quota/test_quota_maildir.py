"""How much is in a Maildir: the file maildirsize against a model, real Maildirs against a plain sum, in time."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom_quota import maildir
from postroom_quota.maildir import Counter, count, read_total
from postroom_quota.maildirsize import MAX_FILE, Total, parse, write


def make(place: Path, *folders: str) -> Path:
    for folder in ("", *folders):
        for name in ("cur", "new", "tmp"):
            (place / folder / name).mkdir(parents=True)
    return place


def age(place: Path, seconds: float = 3600) -> None:
    """As if the last delivery was a while ago."""
    for directory in [*place.rglob("new"), *place.rglob("cur")]:
        then = directory.stat().st_mtime - seconds
        os.utime(directory, (then, then))


def usage(
    counter: Counter, place: Path, limit: int | None = 1000, room: int = 1, **more: object
) -> maildir.Usage | None:
    given_ = {"trash": False, "cache": 60.0, "patience": 5.0} | more
    return counter.usage(place, limit, room, **given_)  # type: ignore[arg-type]  # as the test says


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(-100, 100)), min_size=1, max_size=100))
def test_the_total_is_the_sum_of_the_lines(lines: list[tuple[int, int]]) -> None:
    text = b"1000000S,100C\n" + b"".join(b"%d %d\n" % line for line in lines)
    octets, messages = sum(line[0] for line in lines), sum(line[1] for line in lines)
    expected = None if octets < 0 or messages < 0 else Total("1000000S,100C", octets, messages, len(lines))
    assert parse(text) == (expected if len(text) <= MAX_FILE else None)


@given(st.binary(max_size=200))
def test_garbage_never_breaks_it(octets: bytes) -> None:
    found = parse(octets)
    assert found is None or found.octets >= 0


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\n",
        b"1000S",
        b"1000S\n",
        b"1000S\n12\n",
        b"1000S\n12 1 1\n",
        b"1000S\n0x10 1\n",
        b"1000S\n1e9 1\n",
        b"-1000S\n1 1\n",
        b"1000S\n-5 1\n",
        b"1000S\n5 1\n99999999999999999999999 1\n",
        b"1000S\n" + b"1 1\n" * 2000,
        b"lots\n1 1\n",
        b"\xff\xfe\n1 1\n",
        "1000S\n١٢ 1\n".encode(),
    ],
)
def test_what_is_no_maildirsize(octets: bytes) -> None:
    assert parse(octets) is None


def test_what_others_write_is_read() -> None:
    assert parse(b"1048576S\n       12345 10\n-345 -1\n") == Total("1048576S", 12000, 9, 2)
    assert parse(b"\n5 1\r\n") == Total("", 5, 1, 1)
    assert parse(write("", 5, 1)) == Total("", 5, 1, 1)


def test_a_maildir_is_counted_with_its_folders(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir", ".Sent", ".Trash", ".Trash.old", ".Lists.python")
    (place / "new/1.a.host,S=100").write_bytes(b"x")  # the name counts, whatever the disk says
    (place / "cur/2.b.host,S=200,W=210:2,S").write_bytes(b"x")
    (place / "cur/3.c.host:2,ST").write_bytes(b"x" * 5000)  # trashed
    (place / "cur/4.d.host").write_bytes(b"x" * 30)
    (place / "cur/.hidden").write_bytes(b"x" * 999)
    (place / "tmp/5.e.host,S=999").write_bytes(b"x")
    (place / ".Sent/cur/6.f.host:2,RS").write_bytes(b"x" * 7)
    (place / ".Trash/cur/7.g.host").write_bytes(b"x" * 5000)
    (place / ".Trash.old/cur/8.g.host").write_bytes(b"x" * 5000)
    (place / ".Lists.python/new/9.h.host,S=1000:2,").write_bytes(b"")
    (place / "cur/10.dir").mkdir()
    (place / "cur/11.link").symlink_to("/etc/passwd")
    age(place)
    found = count(place, trash=False, definition="5000S")
    assert (found.octets, found.messages, found.recorded) == (100 + 200 + 30 + 7 + 1000, 5, True)
    assert (place / "maildirsize").read_bytes() == b"5000S\n1337 5\n"
    assert count(place, trash=True, definition="").octets == 1337 + 15000


def test_folders_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    place, other = make(tmp_path / "Maildir"), make(tmp_path / "other")
    (other / "cur/1,S=5000").write_bytes(b"")
    (place / ".Away").symlink_to(other)
    (place / ".Half").mkdir()
    (place / ".Half/cur").symlink_to(other / "cur")
    age(place)
    found = count(place, trash=False, definition="")
    assert found.octets in (0, 5000)
    assert count(make(tmp_path / "x"), trash=False, definition="").octets == 0


def test_no_maildir_is_an_empty_one(tmp_path: Path) -> None:
    assert usage(Counter(), tmp_path / "nowhere") == maildir.Usage(0, 0)
    (tmp_path / "bare").mkdir()
    assert usage(Counter(), tmp_path / "bare") == maildir.Usage(0, 0, recorded=False)


def test_a_maildirsize_is_believed_while_there_is_room(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (place / "cur/1,S=10").write_bytes(b"")
    (place / "maildirsize").write_text("1000S\n500 1\n100 1\n")
    found = usage(Counter(), place)
    assert found is not None
    assert (found.octets, found.recorded) == (600, True)


def test_a_changed_maildirsize_is_not_believed_that_there_is_none(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (place / "cur/1,S=10").write_bytes(b"")
    age(place)
    (place / "maildirsize").write_text("1000S\n500 1\n500 1\n")
    found = usage(Counter(), place)
    assert found is not None
    assert found.octets == 10
    assert (place / "maildirsize").read_text() == "1000S\n10 1\n"


def test_a_fresh_count_is_believed_and_an_old_one_is_not(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    age(place)
    size = place / "maildirsize"
    size.write_text("1000S\n1000 1\n")
    assert usage(Counter(), place) == maildir.Usage(1000, 1, recorded=True)
    os.utime(size, (0, 0))
    assert usage(Counter(), place) == maildir.Usage(0, 0, recorded=True)


@pytest.mark.parametrize("content", ["garbage", "1000S\n" + "1 1\n" * 3000, ""])
def test_a_bad_maildirsize_is_made_anew(tmp_path: Path, content: str) -> None:
    place = make(tmp_path / "Maildir")
    (place / "new/1,S=10").write_bytes(b"")
    age(place)
    (place / "maildirsize").write_text(content)
    assert usage(Counter(), place) == maildir.Usage(10, 1, recorded=True)
    assert (place / "maildirsize").read_text() == "1000S\n10 1\n"


def test_a_maildirsize_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (tmp_path / "secret").write_text("1000S\n7 7\n")
    (place / "maildirsize").symlink_to(tmp_path / "secret")
    assert read_total(place) is None
    (place / "maildirsize").unlink()
    os.mkfifo(place / "maildirsize")
    assert read_total(place) is None


def test_a_full_mailbox_whose_maildirsize_stays_is_not_counted_for_each_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make(tmp_path / "Maildir")
    (place / "cur/1,S=990").write_bytes(b"")
    age(place)
    (place / "tmp").rmdir()  # nothing can be written anew
    (place / "maildirsize").write_text("1000S\n500 1\n500 1\n")
    count, counted = maildir.count, []

    def counting(*given: object, **more: object) -> maildir.Usage:
        counted.append(given)
        return count(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(maildir, "count", counting)
    now = [0.0]
    counter = Counter(monotonic=lambda: now[0])
    for _ in range(3):
        assert usage(counter, place) == maildir.Usage(990, 1)
    assert len(counted) == 1
    (place / "cur/1,S=990").unlink()  # the owner makes room, and his IMAP server says so
    os.utime(place / "maildirsize", (1_000_000_000, 1_000_000_000))
    assert usage(counter, place) == maildir.Usage(0, 0)
    now[0] = 61.0
    assert usage(counter, place) == maildir.Usage(0, 0)
    assert len(counted) == 3


def test_what_an_owner_puts_in_place_of_his_maildirsize_keeps_no_mail_from_him(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (place / "new/1,S=10").write_bytes(b"")
    age(place)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "maildirsize"))
    assert usage(Counter(), place) == maildir.Usage(10, 1, recorded=True)
    assert (place / "maildirsize").read_text() == "1000S\n10 1\n"


def test_a_count_that_breaks_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make(tmp_path / "Maildir")
    counter = Counter()

    def broken(*_: object, **__: object) -> maildir.Usage:
        raise ValueError("nobody thought of this")

    with monkeypatch.context() as patched:
        patched.setattr(maildir, "count", broken)
        with pytest.raises(ValueError, match="nobody thought"):
            usage(counter, place)
    assert usage(counter, place) is not None


def test_where_nothing_can_be_written_a_count_holds_for_a_while(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    (place / "tmp").rmdir()
    now = [0.0]
    counter = Counter(monotonic=lambda: now[0])
    assert usage(counter, place) == maildir.Usage(0, 0)
    (place / "new/1,S=10").write_bytes(b"")
    assert usage(counter, place) == maildir.Usage(0, 0)
    now[0] = 61.0
    assert usage(counter, place) == maildir.Usage(10, 1)


def test_a_delivery_while_it_is_counted_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make(tmp_path / "Maildir")
    age(place)
    real = maildir._record

    def record(descriptor: int, text: bytes) -> bool:
        (place / "new/1,S=10").write_bytes(b"")
        return real(descriptor, text)

    monkeypatch.setattr(maildir, "_record", record)
    assert not count(place, trash=False, definition="").recorded
    assert not (place / "maildirsize").exists()


def test_a_huge_maildir_holds_up_no_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make(tmp_path / "Maildir")
    (place / "new/1,S=10").write_bytes(b"")
    age(place)
    go, counts = threading.Event(), []
    real = maildir.count

    def slow(*arguments: object, **more: object) -> maildir.Usage:
        counts.append(1)
        go.wait(20)
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(maildir, "count", slow)
    counter = Counter()
    assert usage(counter, place, patience=0.01) is None
    assert usage(counter, place, patience=0.01) is None
    go.set()
    assert usage(counter, place, patience=10.0) == maildir.Usage(10, 1, recorded=True)
    assert counts == [1]


def test_counting_many_mails_by_name_is_quick(tmp_path: Path) -> None:
    place = make(tmp_path / "Maildir")
    descriptor = os.open(place / "cur", os.O_RDONLY)
    source = place / "cur/0,S=10"
    source.write_bytes(b"")
    for number in range(1, 20_000):
        os.link(source, f"{number},S=10", dst_dir_fd=descriptor)
    os.close(descriptor)
    age(place)
    begun = os.times().elapsed
    assert count(place, trash=False, definition="").octets == 200_000
    assert os.times().elapsed - begun < 20
