"""Root is given up after the sockets are open, and only to whom the configuration names."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import stat
from pathlib import Path

import pytest
from core.server_process import LIMIT, Server
from postroom.config import Config, ConfigError, ServerSettings
from postroom.server import WorkerKind
from postroom.server.privileges import identity
from postroom.testing.processes import temporary_directory
from requirements import require_root

GROUP = "daemon"


def ids(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_server_becomes_who_it_is_told_and_its_sockets_are_the_groups() -> None:
    require_root()
    user, group = pwd.getpwnam("nobody"), grp.getgrnam(GROUP)
    with temporary_directory("privileges") as directory:
        directory.chmod(0o777)
        milter = directory / "root-only" / "milter.sock"
        milter.parent.mkdir(mode=0o755)
        config = f'[milter]\nlisten = ["unix:{milter}"]\nworkers = 1\n[server]\nuser = "nobody"\ngroup = "{GROUP}"\n'
        with Server(directory, config) as server:
            server.wait_serving()
            with server.connect() as client, server.connect(WorkerKind.LMTP) as lmtp:
                for pid in (server.process.pid, int(client.ask()[0]), int(lmtp.ask()[0])):
                    status = ids(pid)
                    assert set(status["Uid"].split()) == {str(user.pw_uid)}
                    assert set(status["Gid"].split()) == {str(group.gr_gid)}
                    assert "0" not in status["Groups"].split()
            found = milter.stat()
            assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (group.gr_gid, 0o660)
            for name in ("run", "state"):
                made = (directory / name).stat()
                assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (user.pw_uid, 0o750)
            server.signal(signal.SIGHUP)
            server.wait_serving(2)
            server.signal(signal.SIGTERM)
            assert server.process.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (ServerSettings(user="no-such-user"), "there is no user 'no-such-user'"),
        (ServerSettings(group="no-such-group"), "there is no group 'no-such-group'"),
    ],
)
def test_who_is_not_there_is_named(settings: ServerSettings, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        identity(Config(server=settings))


def test_only_root_becomes_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    with pytest.raises(ConfigError, match="only root can become 'daemon'"):
        identity(Config(server=ServerSettings(user="daemon")))
    assert identity(Config(server=ServerSettings(user="nobody"))).name == "nobody"
