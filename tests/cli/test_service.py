"""`postroom service`: the files for systemd are written for this host, again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from postroom.cli.main import postroom, run
from postroom.mta.service_files import unreachable
from postroom.server.sockets import make_directory
from requirements import require, require_root

SETTINGS = """
[milter]
listen = ["inet6:[::1]:12768", "unix:/run/postroom/milter.sock"]
[server]
user = "keeper"
group = "mail"
"""
HANDOVER = '[handover]\nlisten = ["unix:/run/postroom/handover.sock"]\n'


class Host:
    def __init__(self, root: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.config, self.capsys = root, config, capsys

    def __call__(self, verb: str, *arguments: str, status: int = 0) -> str:
        line = ["--config", str(self.config), "service", verb, "--dir", str(self.root), *arguments]
        got = run(postroom, line, "postroom")
        out, self.err = self.capsys.readouterr()
        assert got == status, (out, self.err)
        return out

    def files(self) -> dict[Path, str]:
        return {path: path.read_text() for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()}

    def read(self, place: str) -> str:
        return (self.root / "etc" / place).read_text()


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    config = tmp_path / "my postroom.toml"
    config.write_text(SETTINGS)
    return Host(tmp_path / "root", config, capsys)


def test_the_unit_starts_this_interpreter_with_this_configuration(host: Host) -> None:
    host("install")
    assert f'ExecStart={sys.executable} -m postroom.cli.main --config "{host.config}" serve\n' in host.read(
        "systemd/system/postroom.service"
    )
    done = subprocess.run(
        [sys.executable, "-m", "postroom.cli.main", "serve", "--help"], capture_output=True, check=True
    )
    assert b"Usage" in done.stdout
    assert "d /run/postroom 0750 keeper mail -" in host.read("tmpfiles.d/postroom.conf")
    assert "u keeper - " in host.read("sysusers.d/postroom.conf")
    assert not (host.root / "etc/systemd/system/postroom.socket").exists()


def test_systemd_takes_what_is_written(host: Host) -> None:
    require("systemd-analyze")
    host("install", "--activation")
    socket = host.read("systemd/system/postroom.socket")
    assert "\nListenStream=[::1]:12768\nListenStream=/run/postroom/milter.sock\n" in socket
    units = sorted(map(str, (host.root / "etc/systemd/system").iterdir()))
    verify = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=30)
    assert [line for line in done.stderr.splitlines() if "postroom" in line] == []
    limit = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=34", units[0]]
    assert subprocess.run(limit, capture_output=True, check=False, timeout=30).returncode == 0


def test_only_what_differs_is_written_and_what_is_not_ours_stays(host: Host) -> None:
    assert "missing" in host("install", "--dry-run")
    assert not host.root.exists()
    host("install")
    unit, rules = (host.root / "etc" / each for each in ("systemd/system/postroom.service", "logrotate.d/postroom"))
    before = unit.stat().st_ino
    assert set(host("install").split()[2:][1::2]) == {"current"}
    assert unit.stat().st_ino == before
    whole = unit.read_text()
    unit.write_text(whole.replace("Restart=always", "Restart=no"))
    rules.write_text("# my own\n")
    assert "not ours" in host("install", status=1)
    assert "logrotate.d/postroom" in host.err
    assert (unit.read_text(), rules.read_text()) == (whole, "# my own\n")


def test_uninstall_takes_away_what_install_wrote_and_nothing_else(host: Host) -> None:
    other = host.root / "etc/logrotate.d/other"
    host("install", "--activation")
    other.write_text("# somebody else\n")
    before = host.files()
    shown = host("uninstall", "--dry-run")
    assert shown.count("would be removed") == 5
    assert host.files() == before
    assert host("uninstall").count("removed") == 5
    assert host.files() == {other: "# somebody else\n"}
    assert set(host("uninstall").split()[2:][1::2]) == {"missing"}
    host("install")
    assert host("uninstall").count("removed") == 4


def test_uninstall_knows_what_another_configuration_wrote(host: Host) -> None:
    host("install")
    host.config.write_text("[milter\n")  # uninstalling needs no configuration
    assert host("uninstall").count("removed") == 4
    assert host.files() == {}


def test_uninstall_leaves_and_names_what_was_changed(host: Host) -> None:
    host("install")
    unit, rules = (host.root / "etc" / each for each in ("systemd/system/postroom.service", "logrotate.d/postroom"))
    masked = host.root / "etc/tmpfiles.d/postroom.conf"
    edited = unit.read_text().replace("Restart=always", "Restart=no")
    unit.write_text(edited)
    rules.write_text("# my own\n")
    masked.unlink()
    masked.symlink_to("/dev/null")
    drop_in = host.root / "etc/systemd/system/postroom.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNice=5\n")
    shown = host("uninstall", status=1)
    assert str(unit) in host.err
    assert str(rules) not in host.err
    for path, word in ((unit, "left: changed"), (rules, "left: not ours"), (masked, "left: not ours")):
        assert f"{path} {word}" in " ".join(shown.split())
    assert f"{drop_in} left: yours" in " ".join(shown.split())
    assert (unit.read_text(), rules.read_text(), masked.is_symlink(), drop_in.exists()) == (
        edited, "# my own\n", True, True,
    )  # fmt: skip
    assert not (host.root / "etc/sysusers.d/postroom.conf").exists()
    assert "left: changed" in host("uninstall", status=1)
    unit.unlink()
    host("uninstall")


def test_nothing_goes_while_systemd_still_starts_it(host: Host) -> None:
    host("install")
    link = host.root / "etc/systemd/system/multi-user.target.wants/postroom.service"
    link.parent.mkdir()
    link.symlink_to("/etc/systemd/system/postroom.service")
    before = host.files()
    assert host("uninstall", status=1) == ""
    assert f"systemctl disable --root={host.root} postroom.service" in host.err
    host("uninstall", "--dry-run")
    assert "systemctl disable" in host.err
    assert host.files() == before
    assert "enabled" in host("status")
    link.unlink()
    host("uninstall")


def test_status_tells_what_is_not_as_it_should_be(host: Host) -> None:
    assert host("status", status=1).count("missing") == 4
    host("install", "--activation")
    assert host("status").count("current") == 5
    unit, socket = (host.root / f"etc/systemd/system/postroom.{each}" for each in ("service", "socket"))
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=no"))
    host.config.write_text(SETTINGS.replace("12768", "12769"))
    shown = " ".join(host("status", status=1).split())
    assert f"{unit} changed" in shown
    assert f"{socket} different" in shown
    assert "2 of 5 files" in host.err
    host("install")
    assert "different" in host("status", status=1)
    host("install", "--activation")
    host("status")


def test_show_prints_and_writes_nothing(host: Host) -> None:
    assert f"==> {host.root}/etc/logrotate.d/postroom\n" in host("show")
    assert not host.root.exists()


def test_a_run_directory_with_the_socket_for_everybody_is_open_to_all(host: Host) -> None:
    host.config.write_text(SETTINGS + HANDOVER)
    host("install")
    assert "d /run/postroom 0755 keeper mail -" in host.read("tmpfiles.d/postroom.conf")


def test_an_interpreter_that_the_unit_cannot_see_is_named(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/root/python/bin/python3")
    assert "/root/python" in unreachable(str(tmp_path / "python"))
    assert "ProtectHome" in unreachable("/home/me/venv/bin/python")
    assert unreachable("/usr/bin/python3") == ""


def test_a_directory_that_systemd_made_is_given_to_the_servers_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    ours, other = tmp_path / "run", tmp_path / "other"
    for path in (ours, other):
        path.mkdir(mode=0o750)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/else:{ours}")
    for path in (ours, other):
        make_directory(path, owner=65534, group=8, for_everybody=True)
    found = [path.stat() for path in (ours, other)]
    assert [(each.st_uid, each.st_gid, each.st_mode & 0o777) for each in found] == [(65534, 8, 0o755), (0, 0, 0o750)]
