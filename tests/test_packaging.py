"""What is installed works: wheels of every distribution; the core alone, then with the handlers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import pytest
from postroom.testing.processes import wait_until

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = sorted(
    path.parent for pattern in ("core", "plugins/*") for path in ROOT.glob(f"{pattern}/pyproject.toml")
)

pytestmark = pytest.mark.xdist_group("packaging")


@dataclass(frozen=True)
class Scratch:
    """A virtual environment that sees our dependencies, but none of our distributions unless installed."""

    path: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.path / "bin" / program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.path,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "POSTROOM_CONFIG": str(self.path / "postroom.toml")},
            timeout=60,
            check=False,
        )

    def install(self, *wheels: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.path / "bin/python")]
        done = subprocess.run(
            [*pip, "install", "-q", "--no-deps", "--no-index", "--no-compile", *map(str, wheels)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, by its directory's name."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    found = {}
    for directory in DISTRIBUTIONS:
        # a copy: a build must leave nothing in the tree, and must not need what is outside of it
        copy = source / directory.name
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        out = target / directory.name
        done = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{directory.name}: {done.stderr}"
        (found[directory.name],) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def core_alone(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Scratch:
    return _scratch(tmp_path_factory.mktemp("alone"), wheels["core"])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Scratch:
    return _scratch(tmp_path_factory.mktemp("everything"), *wheels.values())


def _scratch(path: Path, *wheels: Path) -> Scratch:
    venv.create(path, symlinks=True)
    scratch = Scratch(path)
    (path / "postroom.toml").write_text(f'[paths]\nstate = "{path}/state"\nrun = "{path}/run"\n')
    (path / "state").mkdir()
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(path)}))
    _lend_dependencies(packages)
    scratch.install(*wheels)
    return scratch


def _lend_dependencies(packages: Path) -> None:
    """Link what is installed here, except ourselves: neither our code nor our entry points may be found by accident."""
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if "postroom" not in item.name and item.name != "__pycache__" and not item.name.startswith("_virtualenv"):
            target = packages / item.name
            if not target.exists():
                target.symlink_to(item)


def test_each_distribution_builds_and_says_what_it_is(wheels: dict[str, Path]) -> None:
    assert len(wheels) == len(DISTRIBUTIONS) >= 2
    for name, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            members = archive.namelist()
            (path,) = [member for member in members if member.endswith(".dist-info/METADATA")]
            metadata = HeaderParser().parsestr(archive.read(path).decode())
            (licence,) = [archive.read(member) for member in members if member.endswith("/licenses/LICENSE")]
        assert licence == (ROOT / "LICENSE").read_bytes(), name
        assert metadata["License-Expression"] == "MIT", name
        assert metadata["Summary"], name
        assert metadata.get_payload(), f"{name} has no README in its wheel"
        assert any(member.endswith("/py.typed") for member in members), f"{name} does not say that it is typed"
        assert not [member for member in members if "test_" in member or "conftest" in member], name


def test_a_wheel_holds_every_file_of_its_source(wheels: dict[str, Path]) -> None:
    for directory in DISTRIBUTIONS:
        with zipfile.ZipFile(wheels[directory.name]) as archive:
            members = set(archive.namelist())
        files = [path for path in (directory / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        wanted = {str(path.relative_to(directory / "src")) for path in files}
        assert wanted - members == set(), directory.name


def test_the_core_alone_knows_its_commands_and_no_handler(core_alone: Scratch) -> None:
    shown = core_alone.run("postroom", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "plugins" in shown.stdout
    assert "serve" in shown.stdout
    listed = core_alone.run("postroom", "plugins", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.strip() in ("[]", "")


def test_the_core_alone_imports_every_module_of_its_own(core_alone: Scratch) -> None:
    code = """
import importlib, pkgutil, postroom
optional = {"Milter", "milter", "redis", "psycopg"}
for found in pkgutil.walk_packages(postroom.__path__, "postroom."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            assert error.name in optional, (found.name, error)
"""
    done = core_alone.run("python", "-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_handlers_are_found_once_they_are_installed(everything: Scratch) -> None:
    listed = everything.run("postroom", "plugins", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    for name in ("grey", "spf"):
        assert f'"{name}"' in listed.stdout
        shown = everything.run("postroom", name, "--help")
        assert shown.returncode == 0, shown.stderr


def test_the_core_and_one_handler_serve_a_mail_from_wheels(
    tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]
) -> None:
    scratch = _scratch(tmp_path_factory.mktemp("serving"), wheels["core"], wheels["grey"])
    socket_path = scratch.path / "m.sock"
    with (scratch.path / "postroom.toml").open("a") as file:
        file.write(f'[milter]\nlisten = ["unix:{socket_path}"]\nworkers = 1\n[lmtp]\nlisten = []\n')
    added = scratch.run("postroom", "handlers", "add", "grey", "--enabled")
    assert (added.returncode, added.stderr) == (0, "")
    command = [str(scratch.path / "bin/postroom"), "--config", str(scratch.path / "postroom.toml"), "serve"]
    with (scratch.path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": "/usr/bin:/bin"})
    try:
        wait_until(socket_path.exists, "the server listens")
        assert _answer_at_data(socket_path).startswith(b"y451 4.7.1 ")
    finally:
        server.terminate()
        server.wait(60)
    listed = scratch.run("postroom", "grey", "list", "--json")
    assert '"a@there.example"' in listed.stdout, (listed.stderr, (scratch.path / "log").read_text())


def _answer_at_data(path: Path) -> bytes:
    """What a mail server gets at DATA, by octets of the protocol that stand here and nowhere in what is tested."""
    address = b"client.example\x004\x00\x19203.0.113.5\x00"
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(60)
        link.connect(str(path))
        stream = link.makefile("rwb")

        def exchange(packet: bytes) -> bytes:
            stream.write(len(packet).to_bytes(4, "big") + packet)
            stream.flush()
            return stream.read(int.from_bytes(stream.read(4), "big"))

        greeting = exchange(b"O" + b"".join(each.to_bytes(4, "big") for each in (6, 0x1FF, 0x7F)))
        assert greeting[:5] == b"O\x00\x00\x00\x06"
        for packet in (b"C" + address, b"Hclient.example\0", b"M<a@there.example>\0", b"R<b@here.example>\0"):
            if not int.from_bytes(greeting[9:13], "big") & SILENT_STEPS[packet[:1]]:
                assert exchange(packet) == b"c"
        return exchange(b"T")


SILENT_STEPS = {b"C": 0x01, b"H": 0x02, b"M": 0x04, b"R": 0x08}
"""Steps that were negotiated away."""


def test_every_program_answers(everything: Scratch) -> None:
    for program in ("postroom", "postroom-deliver", "mail_handlers_control"):
        shown = everything.run(program, "--help")
        assert shown.returncode in (0, 75), (program, shown.stderr)  # postroom-deliver has no other answer
        assert "Traceback" not in shown.stderr, program
        assert program.split("-")[0] in shown.stdout + shown.stderr, program
