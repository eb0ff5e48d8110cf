"""Any program is a handler: the reference's protocol, and everything that a program can get wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from postroom.executable import check_program, run_program
from postroom.failure import FailureKind, HandlerFailed
from postroom.mail import Address, Envelope, Message, ReplaceMessage
from postroom.registration import Stage
from postroom.testing import RecordingLogger, envelope, message
from postroom.testing.processes import runs, wait_until
from postroom.verdict import Action, Verdict

MAIL = b"From: a@b\r\nSubject: caf\xe9\r\nX-Tag:no blank\r\n\r\nline one\r\nline two\r\n"


class Programs:
    def __init__(self, directory: Path) -> None:
        self.directory, self.log = directory, RecordingLogger()

    def write(self, text: str, name: str = "hook") -> str:
        path = self.directory / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    def run(
        self,
        text: str,
        mail: Message | None = None,
        *,
        context: str = "",
        seconds: float = 10,
        stage: Stage = Stage.BEFORE_QUEUE,
    ) -> Verdict:
        sent = message(MAIL) if mail is None and stage is not Stage.BEFORE_DATA else mail
        facts = envelope("alice@here.example", "bob@there.example", "carol@there.example", helo="mx.here")
        return run_program(self.write(text), context, stage, facts, sent, seconds, self.log)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.mark.parametrize(
    ("text", "action", "reply"),
    [
        ("cat; echo PASS >&2", Action.PASS, None),
        ("echo SKIP >&2; exit 1", Action.SKIP, None),
        ("cat >/dev/null; echo STOP >&2", Action.STOP, None),
        ("echo DEFER >&2; exit 1", Action.DEFER, "451 4.7.1 Service unavailable - try again later"),
        ("echo not now; echo DEFER >&2; exit 1", Action.DEFER, "451 4.7.1 not now"),
        ("echo go away; echo REJECT >&2; exit 1", Action.REJECT, "550 5.7.1 go away"),
        ("echo REJECT >&2; exit 1", Action.REJECT, "550 5.7.1 Command rejected"),
        ("echo 550 5.7.1 no; echo REJECT >&2; exit 1", Action.REJECT, "550 5.7.1 no"),
        ("echo 452 4.2.2 full; echo DEFER >&2; exit 1", Action.DEFER, "452 4.2.2 full"),
        ("echo 4.2.1 closed; echo DEFER >&2; exit 1", Action.DEFER, "451 4.2.1 closed"),
        ("echo 554 no; echo REJECT >&2; exit 1", Action.REJECT, "550 5.7.1 no"),
        ("echo 550; echo REJECT >&2; exit 1", Action.REJECT, "550 5.7.1 550"),
        ("echo 42 is the answer; echo REJECT >&2; exit 1", Action.REJECT, "550 5.7.1 42 is the answer"),
    ],
)
def test_the_word_on_stderr_is_the_verdict(programs: Programs, text: str, action: Action, reply: str | None) -> None:
    verdict = programs.run(text)
    assert verdict.action is action
    assert (verdict.reply.line(action) if verdict.reply else None) == reply
    assert programs.log.lines == []


def test_arguments_are_context_sender_recipients(programs: Programs, tmp_path: Path) -> None:
    programs.run(f'printf "%s|" "$@" >{tmp_path}/argv; cat; echo PASS >&2', context="a b; $(c)")
    assert (tmp_path / "argv").read_text() == "a b; $(c)|alice@here.example|bob@there.example|carol@there.example|"


def test_the_null_sender_is_an_empty_argument_and_raw_octets_stay(programs: Programs, tmp_path: Path) -> None:
    path = programs.write(f'printf "%s|" "$@" >{tmp_path}/argv; echo SKIP >&2; exit 1')
    facts = envelope("", "x").with_recipients([Address(b"b\xff@there".decode("utf-8", "surrogateescape"))])
    run_program(path, "", Stage.BEFORE_DATA, facts, None, 10, programs.log)
    assert (tmp_path / "argv").read_bytes() == b"||b\xff@there|"


def test_stdin_is_the_mail_with_lf_and_at_before_data_nothing(programs: Programs, tmp_path: Path) -> None:
    programs.run(f"cat >{tmp_path}/seen; echo STOP >&2")
    assert (tmp_path / "seen").read_bytes() == MAIL.replace(b"\r\n", b"\n")
    programs.run(f"cat >{tmp_path}/seen; echo STOP >&2", stage=Stage.BEFORE_DATA)
    assert (tmp_path / "seen").read_bytes() == b""


def test_the_environment_is_small_and_tells_the_session(programs: Programs, tmp_path: Path) -> None:
    programs.run(f"env | sort >{tmp_path}/env; pwd >>{tmp_path}/env; echo SKIP >&2; exit 1")
    lines = (tmp_path / "env").read_text().splitlines()
    assert "POSTROOM_CLIENT_ADDR=203.0.113.5" in lines
    assert "POSTROOM_HELO=mx.here" in lines
    assert "POSTROOM_STAGE=before-queue" in lines
    assert "POSTROOM_QUEUE_ID=4QUEUE1D" in lines
    assert "LANG=C" in lines
    assert lines[-1] == "/"
    names = {line.partition("=")[0] for line in lines[:-1]}
    assert names - {"PWD", "_", "SHLVL"} == {
        "PATH",
        "LANG",
        *(f"POSTROOM_{name}" for name in ("CLIENT_ADDR", "CLIENT_NAME", "HELO", "AUTH_USER", "QUEUE_ID", "STAGE")),
    }


def test_a_mail_that_comes_back_unchanged_is_no_edit(programs: Programs) -> None:
    assert programs.run("cat; echo PASS >&2").edits == ()


def test_pass_without_output_leaves_the_mail_alone(programs: Programs) -> None:
    assert programs.run("cat >/dev/null; echo PASS >&2").edits == ()


def test_a_changed_mail_keeps_the_origin_of_what_stayed(programs: Programs) -> None:
    verdict = programs.run("echo 'X-New: 1'; sed '/^Subject/d'; echo more; echo PASS >&2")
    (edit,) = verdict.edits
    assert isinstance(edit, ReplaceMessage)
    assert [(field.name, field.value, field.origin) for field in edit.message.fields] == [
        (b"X-New", b" 1", -1),
        (b"From", b" a@b", 0),
        (b"X-Tag", b"no blank", 2),
    ]
    assert edit.message.body.read() == b"line one\r\nline two\r\nmore\r\n"


def test_an_unchanged_body_is_the_same_body(programs: Programs) -> None:
    mail = message(MAIL)
    (edit,) = programs.run("echo 'X-New: 1'; cat; echo PASS >&2", mail).edits
    assert isinstance(edit, ReplaceMessage)
    assert edit.message.body is mail.body


def test_a_large_mail_goes_through_a_program_that_reads_late(programs: Programs) -> None:
    body = b"x" * 70 + b"\r\n"
    mail = message(b"A: 1\r\n\r\n" + body * 60_000)
    assert programs.run("cat >/dev/null; echo 'A: 2'; echo; echo short; echo PASS >&2", mail).edits
    assert programs.run("cat; echo PASS >&2", mail, seconds=30).edits == ()


@pytest.mark.parametrize("empty_line", [b"\r\n", b""])
def test_a_large_mail_without_a_header_costs_no_more_than_another(programs: Programs, empty_line: bytes) -> None:
    mail = message(empty_line + (b"x" * 76 + b"\r\n") * 300_000)  # 23 MB, and no empty line in the body
    (edit,) = programs.run("cat; echo more; echo PASS >&2", mail, seconds=60).edits
    assert isinstance(edit, ReplaceMessage)
    assert edit.message.body.size == mail.body.size + 6
    assert programs.run("cat; echo PASS >&2", mail, seconds=60).edits == ()


def test_a_header_without_an_end_is_no_answer(programs: Programs) -> None:
    with pytest.raises(HandlerFailed, match="header of more than") as caught:
        programs.run("yes 'X-Field: value' | head -n 500000; echo PASS >&2", seconds=60)
    assert caught.value.kind is FailureKind.ANSWER


def test_log_lines_reach_the_log_and_what_follows_the_word_does_not(programs: Programs) -> None:
    programs.run("echo 'LOG hello there' >&2; echo SKIP >&2; echo REJECT >&2; exit 1")
    assert [facts.get("text") for _, _, facts in programs.log.lines] == ["hello there"]


def test_any_number_of_log_lines_may_come_before_the_word(programs: Programs) -> None:
    verdict = programs.run("yes 'LOG all is well so far' | head -n 20000 >&2; cat; echo PASS >&2")
    assert verdict.action is Action.PASS
    assert len(programs.log.lines) < 10_000
    assert "too much" in programs.log.lines[-1][1]


def test_a_status_that_does_not_fit_is_logged_and_the_word_decides(programs: Programs) -> None:
    assert programs.run("echo SKIP >&2; exit 0").action is Action.SKIP
    assert programs.run("cat; echo PASS >&2; exit 3").action is Action.PASS
    assert len(programs.log.lines) == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("exit 0", FailureKind.ANSWER),
        ("echo MAYBE >&2", FailureKind.ANSWER),
        ("echo 'Traceback (most recent call last):' >&2; exit 1", FailureKind.ANSWER),
        ("echo PASS >&2; kill -SEGV $$", FailureKind.SIGNAL),
        ("sleep 60", FailureKind.TIMEOUT),
        ("exec >&- 2>&-; sleep 60", FailureKind.TIMEOUT),
        ("yes | head -c 40000000; echo PASS >&2", FailureKind.ANSWER),
    ],
)
def test_a_program_without_a_verdict_has_failed(programs: Programs, text: str, kind: FailureKind) -> None:
    with pytest.raises(HandlerFailed) as caught:
        programs.run(text, seconds=1 if kind is FailureKind.TIMEOUT else 20)
    assert caught.value.kind is kind


def test_a_program_that_overruns_is_ended_with_its_children(programs: Programs, tmp_path: Path) -> None:
    with pytest.raises(HandlerFailed):
        programs.run(f"sleep 600 & echo $! >{tmp_path}/pid; wait", seconds=3)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(pid), "the end of the program's child")


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for(programs: Programs) -> None:
    started = time.monotonic()
    assert programs.run("sleep 100 & echo SKIP >&2; exit 1", seconds=80).action is Action.SKIP
    assert time.monotonic() - started < 60


def test_what_cannot_be_run_is_named(programs: Programs, tmp_path: Path) -> None:
    with pytest.raises(HandlerFailed, match="No such file") as caught:
        run_program(str(tmp_path / "absent"), "", Stage.BEFORE_DATA, envelope(), None, 5, programs.log)
    assert caught.value.kind is FailureKind.ABSENT
    plain = tmp_path / "plain"
    plain.write_text("")
    assert "chmod +x" in check_program(str(plain))
    assert "not there" in check_program(str(tmp_path / "absent"))
    assert "absolute" in check_program("hook")
    assert check_program("/bin/true") == ""


@pytest.mark.parametrize(
    ("text", "told"), [("#!/no/such/interpreter\n", "interpreter in its first line"), ("echo PASS\n", "begins with #!")]
)
def test_a_script_that_cannot_be_begun_says_why(programs: Programs, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "script"
    path.write_text(text)
    path.chmod(0o755)
    with pytest.raises(HandlerFailed, match=told) as caught:
        run_program(str(path), "", Stage.BEFORE_DATA, envelope(), None, 5, programs.log)
    assert caught.value.kind is FailureKind.ABSENT


def test_a_spool_without_space_is_a_failure_of_the_call(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(HandlerFailed, match="No such file") as caught:
        programs.run("yes | head -c 3000000; echo PASS >&2")
    assert caught.value.kind is FailureKind.EXCEPTION


LONG = "x" * 60 + "@" + "y" * 180 + ".example"


def many(count: int) -> Envelope:
    return envelope("a@b.example").with_recipients(Address(f"{number}-{LONG}") for number in range(count))


def test_more_recipients_than_a_command_line_holds_are_told_in_parts(programs: Programs, tmp_path: Path) -> None:
    mail, facts = message(MAIL), many(20_000)
    path = programs.write(f'echo "$#" >>{tmp_path}/counts; printf "%s\\n" "$@" >>{tmp_path}/argv; cat; echo PASS >&2')
    assert run_program(path, "context", Stage.BEFORE_QUEUE, facts, mail, 60, programs.log) == Verdict(Action.PASS)
    counts = [int(line) - 2 for line in (tmp_path / "counts").read_text().splitlines()]
    assert len(counts) > 1
    assert sum(counts) == 20_000
    told = (tmp_path / "argv").read_text().splitlines()
    assert [line for line in told if line not in ("context", "a@b.example")] == [str(each) for each in facts.recipients]


def test_each_part_of_the_recipients_has_its_own_answer(programs: Programs) -> None:
    facts = many(20_000)
    text = f'case "$3" in 0-*) cat; echo PASS >&2;; *) echo no; echo REJECT >&2; exit 1;; esac #{LONG}'
    verdict = run_program(programs.write(text), "", Stage.BEFORE_QUEUE, facts, message(MAIL), 60, programs.log)
    refused = set(verdict.for_recipients)
    assert verdict.action is Action.PASS
    assert facts.recipients[0] not in refused
    assert facts.recipients[-1] in refused
    assert {each.action for each in verdict.for_recipients.values()} == {Action.REJECT}


def test_a_stamp_that_all_parts_make_alike_is_one_edit(programs: Programs) -> None:
    path = programs.write("echo 'X-Stamp: 1'; cat; echo PASS >&2")
    verdict = run_program(path, "", Stage.BEFORE_QUEUE, many(20_000), message(MAIL), 60, programs.log)
    assert len(verdict.edits) == 1
    assert not verdict.for_recipients


@pytest.mark.parametrize(
    ("context", "facts"),
    [
        ("é" * 65_536, envelope("a@b.example", "c@d.example")),
        ("", envelope("a" * 140_000 + "@b.example", "c@d.example")),
        ("", envelope("a@b.example", "c" * 140_000 + "@d.example")),
        ("", envelope("a@b.example", "c@d.example", helo="x" * 140_000)),
    ],
)
def test_what_no_argument_can_hold_is_named_and_no_fault_of_the_program(
    programs: Programs, context: str, facts: Envelope
) -> None:
    path = programs.write("echo SKIP >&2; exit 1")
    with pytest.raises(HandlerFailed, match="longer than") as caught:
        run_program(path, context, Stage.BEFORE_DATA, facts, None, 5, programs.log)
    assert caught.value.kind is FailureKind.LIMIT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a program to another user")
def test_as_root_a_program_runs_with_the_rights_of_its_owner(programs: Programs, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/tmp") and directory.is_relative_to("/tmp"):
            directory.chmod(0o755)
    path = programs.write("id -u; echo REJECT >&2; exit 1")
    os.chown(path, 65534, 65534)
    verdict = run_program(path, "", Stage.BEFORE_DATA, envelope(), None, 5, programs.log)
    assert verdict.reply is not None
    assert verdict.reply.text == "65534"
