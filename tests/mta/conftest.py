"""Commands on a Postfix of their own: configuration directories that nothing runs from, or running instances."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from postroom.cli.main import postroom, run
from postroom.testing.dovecot import DovecotInstance
from postroom.testing.postfix import PostfixInstance
from postroom.testing.processes import find_program
from requirements import require

MASTER = """\
# services of this host
smtp      inet  n       -       n       -       -       smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
# the way back of another filter
127.0.0.1:10025 inet n - n - - smtpd
  -o smtpd_milters=
  -o receive_override_options=no_milters

mailman   unix  -       n       n       -       -       pipe
  flags=FRX user=list argv=/usr/lib/mailman/bin/postfix-to-mailman.py ${nexthop} ${user}
# end, without services
"""


class LoginServer(DovecotInstance):
    """Dovecot on the passwd-file that `restore` writes. Hashes only: what needs a password in clear cannot work."""

    def __init__(self, postfix: PostfixInstance) -> None:
        super().__init__((), passwd=postfix.etc / "postroom" / "passwd")

    def _configuration(self, group: str) -> str:
        given = super()._configuration(group).replace("cram-md5 digest-md5", "scram-sha-256")
        # without this, every refusal makes the next one from this address seconds slower
        return given + "service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"


@dataclass
class Line:
    """The `postroom` command line of one host, in this process."""

    config: Path
    capsys: pytest.CaptureFixture[str]
    err: str = ""

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What it printed; `err` has what it said beside that."""
        got = run(postroom, ["--config", str(self.config), *arguments], "postroom")
        out, self.err = self.capsys.readouterr()
        assert got == status, (got, out, self.err)
        return out

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status))


@pytest.fixture
def line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    config = tmp_path / "postroom.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n')
    return Line(config, capsys)


@dataclass
class House:
    """main.cf and master.cf that nothing runs from, and the command for them."""

    directory: Path
    line: Line

    @property
    def main(self) -> Path:
        return self.directory / "main.cf"

    @property
    def master(self) -> Path:
        return self.directory / "master.cf"

    def postfix(self, verb: str, *arguments: str, status: int = 0) -> str:
        self.age()
        return self.line("postfix", verb, "--postfix-config", str(self.directory), *arguments, status=status)

    def write(self, main: str, master: str = MASTER) -> None:
        self.main.write_bytes(main.encode("utf-8", "surrogateescape"))
        self.master.write_bytes(master.encode())

    def age(self) -> None:
        """Postfix' tools read a file that has just changed again and again for more than a second."""
        for path in (self.main, self.master):
            os.utime(path, (1, 1))

    def setting(self, name: str) -> str:
        """As Postfix itself reads it."""
        return self.line_of_postconf(name).partition("=")[2].strip()

    def line_of_postconf(self, *arguments: str) -> str:
        self.age()
        command = [find_program("postconf") or "", "-c", str(self.directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def files(self) -> dict[str, tuple[bytes, int, int, int]]:
        """Everything that is in the directory: content, mode, owner, group."""
        found = {}
        for path in self.directory.iterdir():
            facts = path.lstat()
            found[path.name] = (path.read_bytes(), facts.st_mode, facts.st_uid, facts.st_gid)
        return found


@pytest.fixture
def house(tmp_path: Path, line: Line) -> House:
    require("postconf")
    directory = tmp_path / "etc"
    directory.mkdir()
    made = House(directory, line)
    made.write("compatibility_level = 3.6\n")
    return made


@pytest.fixture
def other_house(house: House, tmp_path: Path) -> House:
    """Another instance beside the first."""
    shutil.copytree(house.directory, tmp_path / "etc-2")
    return House(tmp_path / "etc-2", house.line)
