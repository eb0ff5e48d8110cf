"""Wrappers are put in and taken out, by the command, and whatever was left half done is repaired."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from postroom.cli.main import postroom, run
from postroom.mta.qmail import wrappings
from postroom.mta.script import wrapper_name
from postroom.mta.wrapping import NOTES, State, Step, run_steps
from qmail.house import PYTHON, House, envelope, make_house, make_root, make_stand_in, serving, surroundings
from requirements import require_root

PROGRAMS = ("qmail-queue", "qmail-local", "qmail-remote")


@pytest.fixture
def root(directory: Path) -> Path:
    """qmail as its own installation leaves it: qmail-queue set-user-id, closed to readers."""
    root = directory / "qmail"
    make_root(root)
    queue = root / "bin/qmail-queue"
    if os.geteuid() == 0:
        os.chown(queue, 1, 1)
        os.chown(root / "bin/qmail-local", 0, 1)
    queue.chmod(0o4711)
    return root


def command(root: Path, verb: str, *more: str) -> int:
    where = ["--root", str(root)]
    if verb != "uninstall":
        where += ["--socket", str(root / "handover.sock"), "--python", PYTHON]
    return run(postroom, ["qmail", verb, *where, *more], "postroom")


def look(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything in it: mode with set-id bits, owner, group, content."""
    found = {}
    for path in sorted(directory.iterdir()):
        facts = path.lstat()
        found[path.name] = (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, path.read_bytes())
    return found


def states(root: Path) -> list[State]:
    return [each.state() for each in wrappings(root, surroundings(root))]


def test_install_and_uninstall_leave_everything_as_it_was(root: Path) -> None:
    before = look(root / "bin")
    assert command(root, "install") == 0
    during = look(root / "bin")
    for name in PROGRAMS:
        assert during[f"{name}.moved"] == before[name]
        mode, owner, group, _ = during[name]
        assert (mode, owner) == (0o755, os.geteuid())
        assert group == before[name][2]
        assert wrapper_name(root / "bin" / name) == name
    assert command(root, "uninstall") == 0
    assert look(root / "bin") == before


def test_again_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(root, "install") == 0
    once = {path: path.stat().st_ino for path in (root / "bin").iterdir()}
    capsys.readouterr()
    assert command(root, "install") == 0
    assert "everything is in place" in capsys.readouterr().out
    assert {path: path.stat().st_ino for path in (root / "bin").iterdir()} == once
    assert command(root, "uninstall") == 0
    capsys.readouterr()
    assert command(root, "uninstall") == 0
    assert "nothing is in place" in capsys.readouterr().out


def test_taking_it_out_of_a_directory_that_is_not_there_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "misspelt", "uninstall") == 1
    assert f"{tmp_path}/misspelt/bin is not there" in capsys.readouterr().err


def test_a_dry_run_only_tells(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = look(root / "bin")
    assert command(root, "install", "--dry-run") == 0
    assert "put the wrapper in the place of" in capsys.readouterr().out
    assert look(root / "bin") == before
    command(root, "install")
    during = look(root / "bin")
    assert command(root, "uninstall", "--dry-run") == 0
    assert look(root / "bin") == during


def all_steps(root: Path, verb: str) -> list[Step]:
    return [step for each in wrappings(root, surroundings(root)) for step in getattr(each, verb)()]


@pytest.mark.parametrize("done", range(9))
def test_an_install_that_was_cut_short_is_repaired(root: Path, done: int) -> None:
    before = look(root / "bin")
    for step in all_steps(root, "install")[:done]:
        step.run()
        for name in PROGRAMS:  # at no moment is there no program
            assert (root / "bin" / name).exists()
    assert command(root, "install") == 0
    assert states(root) == [State.WRAPPED] * 3
    assert command(root, "uninstall") == 0
    assert look(root / "bin") == before


@pytest.mark.parametrize("done", range(9))
def test_an_install_that_was_cut_short_is_taken_back(root: Path, done: int) -> None:
    before = look(root / "bin")
    for step in all_steps(root, "install")[:done]:
        step.run()
    assert command(root, "uninstall") == 0
    assert look(root / "bin") == before


@pytest.mark.parametrize("done", range(6))
def test_an_uninstall_that_was_cut_short_is_finished(root: Path, done: int) -> None:
    before = look(root / "bin")
    command(root, "install")
    for step in all_steps(root, "uninstall")[:done]:
        step.run()
    assert command(root, "uninstall") == 0
    assert look(root / "bin") == before


def test_the_references_half_done_install_is_repaired(root: Path) -> None:
    """Moved away by hand, and nothing in its place: mail stands still."""
    queue = root / "bin/qmail-queue"
    queue.rename(root / "bin/qmail-queue.moved")
    assert states(root)[0] is State.HALF
    assert command(root, "install") == 0
    assert states(root) == [State.WRAPPED] * 3


def test_another_products_wrapper_stays_in_the_chain(directory: Path) -> None:
    root = directory / "qmail"
    make_root(root)
    queue, original = root / "bin/qmail-queue", root / "bin/qmail-queue.moved"
    queue.rename(original)
    queue.write_text(f'#!/bin/sh\necho other >> {root}/other\nexec {original} "$@"\n')
    queue.chmod(0o755)
    before = look(root / "bin")
    (root / "chained").mkdir()
    assert command(root, "install") == 0
    assert (root / "bin/qmail-queue.moved-postroom").read_bytes() == before["qmail-queue"][3]
    assert original.read_bytes() == before["qmail-queue.moved"][3]
    house = make_world(root)
    with serving(house):
        house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
        assert house.queue(envelope(b"a@b", b"c@d")).status == 0
    assert b"X-Tag: 1\n" in house.notes()[0].mail
    assert (root / "other").read_text() == "other\n"
    assert command(root, "uninstall") == 0
    assert look(root / "bin") == before


def make_world(root: Path) -> House:
    from dialogues.scripted import World
    from postroom.config import Config, Host, Paths

    config = Config(paths=Paths(state=root / "chained", run=root), host=Host(name="mx.test.example"))
    return House(root, World(root, config), config)


def test_a_wrapper_that_was_put_before_ours_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(root, "install")
    queue = root / "bin/qmail-queue"
    queue.rename(root / "bin/qmail-queue.plesk.ctch")
    queue.write_text(f'#!/bin/sh\nexec {queue}.plesk.ctch "$@"\n')
    during = look(root / "bin")
    assert states(root)[0] is State.BEHIND
    assert command(root, "install") == 0
    assert look(root / "bin") == during
    capsys.readouterr()
    assert command(root, "uninstall") == 1
    assert "take it away first" in capsys.readouterr().err
    assert look(root / "bin") == during


def test_an_upgrade_of_qmail_is_wrapped_again(root: Path) -> None:
    command(root, "install")
    make_stand_in(root / "bin/new", "\n# newer\n")
    (root / "bin/new").rename(root / "bin/qmail-queue")
    newer = (root / "bin/qmail-queue").read_bytes()
    assert states(root)[0] is State.REPLACED
    assert command(root, "install") == 0
    assert (root / "bin/qmail-queue.moved").read_bytes() == newer
    assert command(root, "uninstall") == 0
    assert (root / "bin/qmail-queue").read_bytes() == newer
    assert sorted(path.name for path in (root / "bin").iterdir()) == sorted(PROGRAMS)


def test_a_changed_socket_is_written_into_the_wrappers(root: Path) -> None:
    command(root, "install")
    again = ["qmail", "install", "--root", str(root), "--socket", "/run/other.sock", "--python", PYTHON]
    assert run(postroom, again, "postroom") == 0
    assert "SOCKET = '/run/other.sock'" in (root / "bin/qmail-queue").read_text()
    assert states(root) == [State.OUTDATED] * 3


def test_a_lost_original_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(root, "install")
    (root / "bin/qmail-queue.moved").unlink()
    capsys.readouterr()
    assert command(root, "install") == 1
    assert "is lost" in capsys.readouterr().err
    assert command(root, "status") == 1


def test_no_qmail_there(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(directory, "install") == 1
    assert "is this where the mail server is installed?" in capsys.readouterr().err


def test_status_tells_programs_and_people(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = directory / "qmail"
    house = make_house(root)
    with serving(house):
        assert command(root, "status", "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["state"] for row in rows] == ["wrapped"] * 3
    assert command(root, "status") == 1
    assert "is not there; start the server" in capsys.readouterr().err


def test_a_socket_that_others_cannot_reach_is_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = directory / "qmail"
    with serving(make_house(root)):
        root.chmod(0o750)
        assert command(root, "status") == 1
    assert f"{root} is closed to other users" in capsys.readouterr().err


def test_without_a_socket_in_the_configuration(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "postroom.toml").write_text("")
    monkeypatch.setenv("POSTROOM_CONFIG", str(directory / "postroom.toml"))
    assert run(postroom, ["qmail", "install", "--root", str(directory)], "postroom") == 2
    assert "[handover]: listen is empty" in capsys.readouterr().err


def test_not_allowed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_root()
    pid = os.fork()
    if not pid:
        os.setuid(65534)
        steps = all_steps(root, "install")
        try:
            run_steps(steps, lambda words: None, dry_run=False)
        except Exception as error:
            os._exit(0 if "do it again as root" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not (root / "bin" / NOTES).exists()


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text("")
    monkeypatch.setenv("POSTROOM_CONFIG", str(tmp_path / "own.toml"))
