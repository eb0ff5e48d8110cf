"""`mail_handlers_control`: the reference's options, and its two table forms letter for letter."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from postroom.cli.mail_handlers_control import run
from postroom.registration import Registration, Stage, Type
from postroom.registry import Registry

# (priority, mailname, name, type, queue, context, enabled), as the reference's two tables show them
HOST = [
    (5, "", "grey", "global", "before-data", "none", True),
    (10, "", "spf", "global", "before-queue", "none", True),
    (10, "admin@test.domain.com", "spam", "recipient", "before-local", "text", True),
    (20, "admin@test.domain.com", "drweb", "sender", "before-remote", "", False),
    (10, "", "check-quota", "global", "before-queue", "none", True),
    (90, "admin@test.domain.com", "autoresponder", "recipient", "before-local", "responder", True),
]

PLAIN = """\
E	prior	address	name	type	queue
X	90	admin@test.domain.com	autoresponder	recipient	before-local
	20	admin@test.domain.com	drweb	sender	before-remote
X	10	admin@test.domain.com	spam	recipient	before-local
X	5	all	grey	global	before-data
X	10	all	check-quota	global	before-queue
X	10	all	spf	global	before-queue
"""

EXTENT = """\
-----
| name | address | context |
-----
| autoresponder | admin@test.domain.com | responder |
| Exec: | /hooks/autoresponder |
-----
| drweb | admin@test.domain.com |
| Exec: | /hooks/drweb |
-----
| spam | admin@test.domain.com | text |
| Exec: | /hooks/spam |
-----
| grey | all | none |
| Exec: | /hooks/grey |
-----
| check-quota | all | none |
| Exec: | /hooks/check-quota |
-----
| spf | all | none |
| Exec: | /hooks/spf |
-----
"""

PLUGIN = """
from postroom.hookspecs import HandlerInfo, Placement, hookimpl
from postroom.registration import Stage, Type
@hookimpl
def describe():
    return HandlerInfo("for tests", (Placement(Stage.BEFORE_QUEUE, Type.GLOBAL, 33),))
@hookimpl
def before_queue(envelope):
    raise NotImplementedError
"""


@dataclass
class Tool:
    directory: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def config(self) -> Path:
        return self.directory / "postroom.toml"

    @property
    def hooks(self) -> Path:
        return self.directory / "hooks"

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert run([*arguments, "--config", str(self.config)]) == status
        out, err = self.capsys.readouterr()
        if status == 0:
            assert err == ""
            return out.replace(str(self.directory), "")
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("mail_handlers_control: ")
        return err

    @property
    def now(self) -> list[Registration]:
        with Registry.open(f"sqlite:///{self.directory}/state/registry.sqlite") as registry:
            return list(registry.list())

    def fill(self) -> None:
        for priority, mailname, name, type_, queue, context, enabled in HOST:
            (self.hooks / name).write_text("#!/bin/sh\n")
            (self.hooks / name).chmod(0o755)
            self(
                *["--add", f"--priority={priority}", f"--name={name}", f"--type={type_}", f"--queue={queue}"],
                *[f"--executable={self.hooks / name}", *([f"--context={context}"] if context else [])],
                *[*([f"--mailname={mailname}"] if mailname else []), *(["--enabled"] if enabled else [])],
            )


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    tool = Tool(tmp_path, capsys)
    tool.hooks.mkdir()
    tool.config.write_text(f'[paths]\nstate = "{tmp_path}/state"\n')
    return tool


def key(name: str) -> list[str]:
    row = next(row for row in HOST if row[2] == name)
    mailname = [f"--mailname={row[1]}"] if row[1] else []
    return [f"--name={name}", f"--type={row[3]}", f"--queue={row[4]}", *mailname]


def test_the_table_is_the_references_letter_for_letter(tool: Tool) -> None:
    tool.fill()
    assert tool("--list") == PLAIN


def test_the_extent_form_is_the_references_letter_for_letter(tool: Tool) -> None:
    tool.fill()
    assert tool("--list", "--extent") == EXTENT


def test_an_empty_context_looks_as_in_the_reference(tool: Tool) -> None:
    tool.fill()
    with Registry.open(f"sqlite:///{tool.directory}/state/registry.sqlite") as registry, registry.change("x") as change:
        from dataclasses import replace

        for name in ("grey", "check-quota", "spf"):
            found = next(each for each in registry.list(handler=name))
            change.update(replace(found, context=""))
    assert tool("--list", "--extent") == EXTENT


def test_odd_data_keeps_both_forms(tool: Tool) -> None:
    program = tool.hooks / "a program | with blanks"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    long = "n" * 200
    for name, *more in (
        (long, "--type=sender-domain", f"--mailname={'d' * 60}.example", "--queue=before-remote", "--priority=1"),
        ("two  blanks", "--type=global", "--queue=before-queue", "--priority=100", "--enabled"),
        ("two  blanks", "--type=sender", "--mailname=A@B.example", "--queue=before-queue", "--context=x | y\tz"),
    ):
        tool("--add", f"--name={name}", f"--executable={program}", *more)
    assert tool("--list") == (
        "E\tprior\taddress\tname\ttype\tqueue\n"
        "\t10\ta@b.example\ttwo  blanks\tsender\tbefore-queue\n"
        f"\t1\t{'d' * 60}.example\t{long}\tsender-domain\tbefore-remote\n"
        "X\t100\tall\ttwo  blanks\tglobal\tbefore-queue\n"
    )
    assert tool("--list", "--extent") == (
        "-----\n| name | address | context |\n-----\n"
        "| two  blanks | a@b.example | x | y\\tz |\n| Exec: | /hooks/a program | with blanks |\n-----\n"
        f"| {long} | {'d' * 60}.example |\n| Exec: | /hooks/a program | with blanks |\n-----\n"
        "| two  blanks | all | none |\n| Exec: | /hooks/a program | with blanks |\n-----\n"
    )


def test_list_for_one_mailname_or_for_all(tool: Tool) -> None:
    tool.fill()
    lines = PLAIN.splitlines(keepends=True)
    assert tool("--list", "--mailname=ADMIN@test.domain.com") == "".join(lines[:4])
    assert tool("--list", "--global") == "".join([lines[0], *lines[4:]])
    assert tool("--list", "--mailname=nobody@test.domain.com") == lines[0]
    assert tool("--list", "--global", "--extent").count("Exec:") == 3


def test_a_terminal_gets_aligned_columns(tool: Tool) -> None:
    tool.fill()
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "postroom.cli.mail_handlers_control", "--list", "--config", str(tool.config)]
    subprocess.run(command, stdout=terminal, check=True, timeout=30)
    os.close(terminal)
    lines = os.read(controller, 65536).decode().splitlines()
    os.close(controller)
    assert [line.split() for line in lines] == [line.split() for line in PLAIN.splitlines()]
    assert {line.index("before-") for line in lines[1:]} == {lines[0].index("queue")}


def test_enable_disable_remove(tool: Tool) -> None:
    tool.fill()
    tool("--disable", *key("grey"))
    tool("--enable", *key("drweb"))
    assert {each.handler for each in tool.now if not each.enabled} == {"grey"}
    before = {each.handler: each for each in tool.now}
    tool("--enable", *key("drweb"))  # enabled already
    tool("--remove", *key("spam"))
    assert {each.handler: each for each in tool.now} == {name: each for name, each in before.items() if name != "spam"}


def test_an_installed_plugin_needs_no_executable(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tool.directory / "site" / "postroom_control_test-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: postroom-control-test\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[postroom.handlers]\ncontrolled = postroom_control_test\n")
    (information.parent / "postroom_control_test.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(information.parent)
    tool("--add", "--name=controlled", "--queue=before-queue", "--type=global", "--enabled")
    tool("--add", "--name=controlled", "--queue=before-queue", "--type=sender", "--mailname=A@b.org", "--priority=3")
    assert tool.now == [
        Registration("controlled", Stage.BEFORE_QUEUE, Type.GLOBAL, priority=33, enabled=True),
        Registration("controlled", Stage.BEFORE_QUEUE, Type.SENDER, "a@b.org", priority=3),
    ]
    said = tool("--add", "--name=controlled", "--queue=before-local", "--type=global", status=2)
    assert "controlled does not act at before-local" in said
    said = tool("--add", "--name=controled", "--queue=before-queue", "--type=global", status=2)
    assert "did you mean 'controlled'" in said
    said = tool("--add", "--name=controlled", "--queue=before-queue", "--type=global", "--context=x=1", status=2)
    assert "unknown key 'x'" in said


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "one of the arguments --add --list --enable --disable --remove is required"),
        (["--add", "--list"], 2, "not allowed with argument"),
        (["--frobnicate"], 2, "see mail_handlers_control --help"),
        (["--add", "--name=x"], 2, "--add needs --type"),
        (["--enable", "--name=x", "--type=global"], 2, "--enable needs --queue"),
        (["--list", "--name=x"], 2, "--name does not go with --list"),
        (["--list", "--global", "--mailname=a@b.org"], 2, "exclude each other"),
        (["--remove", "--name=x", "--type=global", "--queue=before-data", "--enabled"], 2, "does not go with --remove"),
        (["--add", "--name=x", "--type=global", "--queue=later", "--executable=/bin/true"], 2, "'later'"),
        (["--add", "--name=x", "--type=all", "--queue=before-data", "--executable=/bin/true"], 2, "'all'"),
        (["--add", "--name=x/y", "--type=global", "--queue=before-data", "--executable=/bin/true"], 2, "'x/y'"),
        (["--add", "--name=x", "--type=global", "--queue=before-data", "--executable=/no/x"], 2, "/no/x: there is no"),
        (["--add", "--name=x", "--type=global", "--queue=before-data", "--executable="], 2, "is no program"),
        (
            ["--add", "--name=x", "--type=sender", "--queue=before-data", "--executable=/bin/true"],
            2,
            "needs an address: give one with --mailname",
        ),
        (
            ["--add", "--name=x", "--type=global", "--queue=before-data", "--executable=/bin/true", "--priority=-1"],
            2,
            "priority -1 is out of range",
        ),
        (["--enable", "--name=x", "--type=global", "--queue=before-data"], 1, "is not registered; see"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(
    tool: Tool, arguments: list[str], status: int, said: str
) -> None:
    assert said in tool(*arguments, status=status)
    assert tool.now == []


def test_the_same_twice_is_refused(tool: Tool) -> None:
    tool.fill()
    said = tool("--add", *key("grey"), f"--executable={tool.hooks / 'grey'}", status=1)
    assert "registered already" in said


def test_listing_starts_with_the_standard_library(tool: Tool) -> None:
    tool.fill()
    code = (
        "import sys; from postroom.cli.mail_handlers_control import run; "
        f"run(['--list', '--config', {str(tool.config)!r}]); "
        "print(*({'sqlalchemy', 'click', 'rich', 'pluggy'} & set(sys.modules)), sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == PLAIN
    assert done.stderr.split() == []


def test_a_reader_that_goes_away_is_no_error(tool: Tool) -> None:
    tool.fill()
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "postroom.cli.mail_handlers_control", "--list", "--config", str(tool.config)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
