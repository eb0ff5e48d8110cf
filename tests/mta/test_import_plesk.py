"""`postroom import plesk`: lists as the reference prints them, whatever became of their columns, to registrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from postroom.cli.plesk_lists import read_lists
from postroom.config import Config
from postroom.plugins import find_handlers
from postroom.registration import Stage, Type

from .conftest import Line

LIST = """\
[root@host ~]# /usr/local/psa/admin/sbin/mail_handlers_control --list

E\tprior\taddress\tname\ttype\tqueue
X\t90\tadmin@test.domain.com\tautoresponder\trecipient\tbefore-local
\t20\tadmin@test.domain.com\tdrweb\tsender\tbefore-remote
X\t20\tadmin@test.domain.com\tdrweb\trecipient\tbefore-queue
X\t5\tall\tgrey\tglobal\tbefore-data
X\t10\tall\tspf\tglobal\tbefore-queue
X\t40\ttest.domain.com\tour own filter\tsender-domain\tbefore-queue
"""
EXTENT = """\
[root@host ~]# /usr/local/psa/admin/sbin/mail_handlers_control --list --extent
-----
| name | address | context |
-----
| autoresponder | admin@test.domain.com | responder |
| Exec: | /usr/local/psa/handlers/hooks/autoresponder |
-----
| drweb | admin@test.domain.com |
| Exec: | /usr/local/psa/handlers/hooks/drweb |
-----
| grey | all | none |
| Exec: | /usr/local/psa/handlers/hooks/grey |
-----
| spf | all | debug |
| Exec: | /usr/local/psa/handlers/hooks/spf |
-----
| our own filter | test.domain.com | a|b, c |
| Exec: | /opt/filters/own |
-----
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "filters" / "own"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def take(line: Line, tmp_path: Path, text: str, *arguments: str, status: int = 0) -> dict[tuple[str, str], Any]:
    file = tmp_path / "list"
    file.write_text(text)
    rows = line.json("import", "plesk", str(file), *arguments, status=status)
    return {(row["handler"], row["stage"]): row for row in rows}


def test_both_lists_make_the_same_registrations(line: Line, tmp_path: Path, program: Path) -> None:
    rows = take(line, tmp_path, LIST + EXTENT, "--map", f"/opt/filters={program.parent}")
    assert {row["done"] for row in rows.values()} == {"add"}
    found = {(each["handler"], each["stage"]): each for each in line.json("handlers", "list")}
    assert len(found) == 6
    assert found["grey", "before-data"]["enabled"] is True
    assert found["drweb", "before-remote"]["enabled"] is False
    assert found["drweb", "before-queue"]["priority"] == 20
    assert rows["spf", "before-queue"]["context"] == "debug"
    own = rows["our own filter", "before-queue"]
    assert own["context"] == "a|b, c"
    assert own["program"] == str(program)
    assert own["type"] == "sender-domain"
    assert rows["autoresponder", "before-local"]["program"] == "plugin autoresponder"


def test_it_is_one_generation_and_a_second_time_changes_nothing(line: Line, tmp_path: Path, program: Path) -> None:
    arguments = ("--map", f"/opt/filters={program.parent}")
    take(line, tmp_path, LIST + EXTENT, *arguments, "--dry-run")
    assert line.json("handlers", "list") == []
    take(line, tmp_path, LIST + EXTENT, *arguments)
    assert len(line.json("handlers", "history")) == 1
    rows = take(line, tmp_path, LIST + EXTENT, *arguments)
    assert {row["done"] for row in rows.values()} == {"as it was"}
    assert len(line.json("handlers", "history")) == 1


def test_what_cannot_be_taken_over_is_said_and_the_rest_is(line: Line, tmp_path: Path) -> None:
    rows = take(line, tmp_path, LIST + EXTENT + "what is this\n", status=1)
    own = rows["our own filter", ""]
    assert own["done"] == "left out"
    assert "/opt/filters/own: there is no such program" in own["note"]
    assert rows["what is this", ""]["done"] == "not read"
    assert len(line.json("handlers", "list")) == 5


def test_the_first_list_alone_knows_no_programs(line: Line, tmp_path: Path) -> None:
    rows = take(line, tmp_path, LIST, status=1)
    assert rows["grey", "before-data"]["done"] == "add"
    assert "--list --extent" in rows["our own filter", ""]["note"]


def test_the_second_list_alone_knows_the_usual_places_only(line: Line, tmp_path: Path) -> None:
    rows = take(line, tmp_path, EXTENT, status=1)
    assert rows["grey", "before-data"]["enabled"] is False
    assert rows["autoresponder", "before-local"]["priority"] == 90
    assert "`mail_handlers_control --list`" in rows["drweb", ""]["note"]
    assert "`mail_handlers_control --list`" in rows["our own filter", ""]["note"]
    rows = take(line, tmp_path, EXTENT, "--enable", status=1)
    assert rows["grey", "before-data"]["enabled"] is True


def test_moved_programs_stay_programs(line: Line, tmp_path: Path, program: Path) -> None:
    (program.parent / "spf").symlink_to(program)
    text = "X 10 all spf global before-queue\n|spf|all|none|\n|Exec:|/usr/local/psa/handlers/hooks/spf|\n"
    rows = take(line, tmp_path, text, "--map", f"/usr/local/psa/handlers/hooks={program.parent}")
    assert rows["spf", "before-queue"]["program"] == str(program.parent / "spf")


def test_our_own_printing_comes_back(
    line: Line, tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from postroom.cli.mail_handlers_control import run

    take(line, tmp_path, LIST + EXTENT, "--map", f"/opt/filters={program.parent}")
    before = line.json("handlers", "list")
    capsys.readouterr()
    run(["--config", str(line.config), "--list"])
    run(["--config", str(line.config), "--list", "--extent"])
    text = capsys.readouterr().out
    line.config.write_text(line.config.read_text().replace("/state", "/state-2"))
    take(line, tmp_path, text)
    assert line.json("handlers", "list") == before


def test_columns_may_have_lost_their_alignment() -> None:
    text = (
        "  X   90 a@b.example    autoresponder   recipient  before-local  \n20 a@b.example drweb sender before-remote\n"
    )
    places = read_lists(text.splitlines()).places
    assert [(each.name, each.enabled, each.priority, each.type, each.stage) for each in places] == [
        ("autoresponder", True, 90, Type.RECIPIENT, Stage.BEFORE_LOCAL),
        ("drweb", False, 20, Type.SENDER, Stage.BEFORE_REMOTE),
    ]


def test_the_document_of_the_reference_is_read_whole() -> None:
    lists = read_lists((LIST + EXTENT).splitlines())
    assert (len(lists.places), len(lists.programs), lists.unread) == (6, 5, [])


def test_names_of_plugins_are_those_that_are_installed() -> None:
    from postroom.cli.import_plesk import KNOWN

    assert set(KNOWN.values()) <= set(find_handlers(Config()).names())


def test_wrong_use_is_said(line: Line, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("nothing\n")
    line("import", "plesk", str(tmp_path / "empty"), status=1)
    assert "no handler in it" in line.err
    (tmp_path / "list").write_text(LIST)
    line("import", "plesk", str(tmp_path / "list"), "--map", "x", status=2)
    assert json.loads(line("handlers", "list", "--json")) == []


def test_enable_leaves_off_what_the_list_says_is_off(line: Line, tmp_path: Path, program: Path) -> None:
    rows = take(line, tmp_path, LIST + EXTENT, "--enable", "--map", f"/opt/filters={program.parent}")
    assert rows["drweb", "before-remote"]["enabled"] is False
    assert rows["drweb", "before-queue"]["enabled"] is True


def test_odd_names_programs_and_spellings_of_all_come_back(line: Line, tmp_path: Path) -> None:
    odd = tmp_path / "with  two blanks"
    odd.write_text("#!/bin/sh\n")
    odd.chmod(0o755)
    text = (
        f"X\t7\tALL\tour  own filter\tglobal\tbefore-queue\n\t8\tb.example\t{'n' * 60}\tsender-domain\tbefore-remote\n"
        f"-----\n| our  own filter | All | none |\n| Exec: | {odd} |\n-----\n"
        f"|  {'n' * 60}  |  b.example  |\n|  Exec:  |  {odd}  |\n-----\n"
    )
    rows = take(line, tmp_path, text)
    assert rows["our  own filter", "before-queue"]["address"] == "all"
    assert rows["our  own filter", "before-queue"]["context"] == ""
    assert rows["n" * 60, "before-remote"]["program"] == str(odd)
    assert rows["n" * 60, "before-remote"]["enabled"] is False
    assert {row["done"] for row in take(line, tmp_path, text).values()} == {"as it was"}
