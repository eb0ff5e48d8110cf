"""A host that only sends: our sendmail before Debian's msmtp, which hands mail to a loopback sink."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from dialogues.scripted import World
from postroom.cli.main import postroom, run
from postroom.config import Config, HandoverSettings, Host, Paths
from postroom.testing.processes import find_program, temporary_directory
from postroom.testing.sink import SinkServer
from qmail.house import PYTHON, House, serving
from requirements import require


@dataclass
class Desk:
    """`house` has the handlers, `sink` the mail."""

    house: House
    sink: SinkServer
    msmtp: str

    @property
    def sendmail(self) -> Path:
        return self.house.root / "sendmail"

    @property
    def account(self) -> list[str]:
        return ["-C", str(self.house.root / "msmtprc")]

    def write_account(self, port: int) -> None:
        path = self.house.root / "msmtprc"
        path.write_text(f"account default\nhost 127.0.0.1\nport {port}\nfrom me@here.example\ntls off\nauth off\n")

    def command(self, verb: str, *more: str) -> int:
        where = ["--path", str(self.sendmail), "--msmtp", self.msmtp]
        if verb != "uninstall":
            where += ["--socket", self.house.socket, "--python", PYTHON]
        return run(postroom, ["msmtp", verb, *where, *more], "postroom")

    def send(
        self,
        *words: str | bytes,
        mail: bytes = b"From: me@here.example\nSubject: x\n\nhello\n",
        program: str | Path = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        arguments: Sequence[str | bytes] = [str(program or self.sendmail), *self.account, *words]
        known = {"HOME": str(self.house.root), "PATH": "/usr/bin:/bin", **(environment or {})}
        return subprocess.run(arguments, input=mail, capture_output=True, timeout=60, check=False, env=known)


def make_desk(root: Path, sink: SinkServer) -> Desk:
    require("msmtp")
    root.mkdir()
    root.chmod(0o755)
    (root / "state").mkdir()
    config = Config(
        paths=Paths(state=root / "state", run=root),
        host=Host(name="here.example"),
        handover=HandoverSettings(),
    )
    (root / "postroom.toml").write_text("")
    found = Desk(House(root, World(root, config), config), sink, find_program("msmtp") or "")
    found.write_account(sink.port)
    os.environ["POSTROOM_CONFIG"] = str(root / "postroom.toml")
    return found


@pytest.fixture
def bare_desk(sink: SinkServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The wrapper is not installed, and the server is not there."""
    monkeypatch.setenv("POSTROOM_CONFIG", "")  # restored at the end
    with temporary_directory("msmtp") as directory:
        yield make_desk(directory / "host", sink)


@pytest.fixture
def desk(bare_desk: Desk) -> Iterator[Desk]:
    assert bare_desk.command("install") == 0
    with serving(bare_desk.house):
        yield bare_desk
