"""`postroom antivirus …` before real scanners."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from plugins.antivirus.scanners import answering, clean, infected, read_stream, unused_address
from postroom.cli.compose import Environment
from postroom.registration import Registration, Stage, Type
from postroom.testing.cicap import CIcapInstance
from postroom.testing.clamd import EICAR, ClamdInstance
from postroom.testing.standin import StandIn
from postroom_antivirus.commands import antivirus
from postroom_antivirus.eicar import eicar, mail_with


class Console:
    """Runs commands with a configuration file of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "postroom.toml"
        self.configure("")

    def configure(self, handlers: str) -> None:
        paths = f'[paths]\nstate = "{self._directory}/state"\nrun = "{self._directory}/run"\n'
        self._path.write_text(paths + handlers)
        (self._directory / "state").mkdir(exist_ok=True)
        self.environment = Environment(str(self._path))

    def run(self, *words: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(antivirus, list(words), obj=self.environment, input=stdin)

    def rows(self, result: Result) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(result.stdout)
        return found


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def both(clamd: ClamdInstance, cicap: CIcapInstance) -> str:
    return (
        f'[handlers.clamav]\nservers = ["unix:{clamd.socket}", "inet:127.0.0.1:{clamd.port}"]\n'
        f'[handlers.kaspersky]\nservers = ["inet:127.0.0.1:{cicap.port}"]\nservice = "avscan"\n'
    )


def failure(result: Result) -> tuple[int, str]:
    """Exit status and last line on stderr."""
    return result.exit_code, result.stderr.splitlines()[-1]


def test_nothing_in_use_is_told_with_the_remedy(console: Console) -> None:
    for words in (["status"], ["test"]):
        exit_code, told = failure(console.run(*words))
        assert exit_code == 1
        assert "register one" in told


def test_status_shows_what_is_in_use_and_for_whom(console: Console, clamd: ClamdInstance, cicap: CIcapInstance) -> None:
    console.configure(both(clamd, cicap))
    registry = console.environment.open_registry()
    for stage, kind in ((Stage.BEFORE_QUEUE, Type.RECIPIENT), (Stage.BEFORE_REMOTE, Type.SENDER)):
        registry.add(Registration("clamav", stage, kind, "bob@here.example", priority=20, enabled=True), who="test")
    registry.add(Registration("clamav", Stage.BEFORE_QUEUE, Type.RECIPIENT, "off@here.example"), who="test")
    result = console.run("status", "--json")
    assert result.exit_code == 0, result.output
    rows = console.rows(result)
    assert [(row["handler"], row["protocol"], row["state"]) for row in rows] == [
        ("clamav", "clamd", "well"),
        ("clamav", "clamd", "well"),
        ("kaspersky", "icap", "well"),
    ]
    assert (rows[0]["incoming"], rows[0]["outgoing"]) == (1, 1)
    assert rows[0]["version"].startswith("ClamAV ")


def test_status_says_what_is_not_well(console: Console) -> None:
    address = unused_address()
    console.configure(f'[handlers.clamav]\nservers = ["{address}"]\n')
    assert failure(console.run("status")) == (1, f"Error: not well: {address}")


def test_scan_tells_clean_from_infected(console: Console, clamd: ClamdInstance, cicap: CIcapInstance) -> None:
    console.configure(both(clamd, cicap))
    path = console._directory / "mail.eml"
    path.write_bytes(b"".join(clean().chunks()))
    result = console.run("scan", str(path), "--json")
    assert result.exit_code == 0
    assert [row["result"] for row in console.rows(result)] == ["clean", "clean"]
    result = console.run("scan", "-", "--json", stdin=b"".join(infected().chunks()))
    assert result.exit_code == 1
    assert [row["taken_for"] for row in console.rows(result)] == ["infected", "infected"]


def test_scan_without_a_scanner_says_try_again(console: Console) -> None:
    console.configure(f'[handlers.clamav]\nservers = ["{unused_address()}"]\n')
    exit_code, told = failure(console.run("scan", "-", stdin=b"a"))
    assert exit_code == 75
    assert "is the scanner running?" in told


def test_test_finds_eicar_at_every_server(console: Console, clamd: ClamdInstance, cicap: CIcapInstance) -> None:
    console.configure(both(clamd, cicap))
    result = console.run("test", "--json")
    assert result.exit_code == 0, result.output
    assert [row["state"] for row in console.rows(result)] == ["well"] * 3
    assert [row["clean_mail"] for row in console.rows(result)] == ["clean"] * 3


@pytest.mark.parametrize("reply", [b"stream: OK\n", b"stream: Everything.Bad FOUND\n", b"stream: oops ERROR\n"])
def test_test_fails_for_a_scanner_that_says_always_the_same(console: Console, reply: bytes) -> None:
    with StandIn(answering(reply, read_stream)) as server:
        console.configure(f'[handlers.clamav]\nservers = ["{server.address}"]\n')
        assert failure(console.run("test")) == (1, f"Error: mail is not protected by {server.address}")


def test_the_test_file_is_the_right_one_and_is_in_no_file_of_ours() -> None:
    import postroom.testing
    import postroom_antivirus

    assert eicar() == EICAR
    assert len(EICAR) == 68
    assert EICAR not in mail_with(EICAR)
    looked_at = 0
    for module in (postroom.testing, postroom_antivirus):
        for place, _, names in os.walk(module.__path__[0]):
            for name in names:
                looked_at += 1
                assert EICAR not in Path(place, name).read_bytes(), name
    assert looked_at > 20
