"""The wrapper before qmail-queue, started as qmail-smtpd, qmail-inject and others do."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from postroom.mail import TrafficClass
from qmail.house import (
    MAIL,
    PYTHON,
    STRANGER,
    House,
    Start,
    envelope,
    make_house,
    one_answer,
    serving,
)
from requirements import require_root

ENVELOPE = envelope(b"a@sender.example", b"b@local.test", b"c@local.test")
LOCAL = Start({})
NOBODY = 65534


def test_a_mail_that_nobody_changes_goes_on_octet_for_octet(house: House) -> None:
    house.given("before-queue look global needs=body | pass")
    odd = MAIL + b"8-bit \xff, a lone \r, CRLF\r\n, no end of line"
    ended = house.queue(ENVELOPE, odd)
    (noted,) = house.notes()
    assert (ended.status, ended.said) == (0, b"")
    assert (noted.mail, noted.envelope) == (odd, ENVELOPE)


def test_the_original_runs_in_the_same_process_and_place(house: House) -> None:
    house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    environment = {**STRANGER, "ODD": "\udcff\udce4", "TMPDIR": "/nowhere"}
    ended = house.queue(ENVELOPE, start=Start(environment))
    (noted,) = house.notes()
    assert noted.pid == ended.pid
    assert noted.cwd == str(house.root)
    assert noted.argv == [str(house.root / "bin/qmail-queue.moved").encode()]  # of a script; a program sees ours
    assert noted.position == 0
    assert noted.fds == [0, 1, 2, 6]
    told = sorted(noted.environment.rstrip(b"\0").split(b"\0"))
    assert told == sorted(os.fsencode(f"{name}={value}") for name, value in environment.items())


def test_edits_are_made(house: House) -> None:
    house.given(
        "before-queue edit global needs=headers | pass | insert X-Top: t | remove Subject | add X-End: a\\r\\n\\tb"
    )
    house.given("before-queue check global needs=headers | pass | result spf=pass smtp.mailfrom=a@sender.example")
    forged = MAIL.replace(b"Subject:", b"Authentication-Results: mx.test.example; spf=fail\nSubject:")
    assert house.queue(ENVELOPE, forged).status == 0
    (noted,) = house.notes()
    lines = noted.mail.split(b"\n")
    assert lines[0] == b"Authentication-Results: mx.test.example;"
    assert lines[1] == b"\tspf=pass smtp.mailfrom=a@sender.example"
    assert lines[2] == b"X-Top: t"
    assert b"spf=fail" not in noted.mail
    assert b"\r" not in noted.mail
    assert noted.mail.endswith(b"From: a@sender.example\nX-End: a\n\tb\n\nhello\n")


def test_the_body_is_replaced_also_when_it_is_large(house: House) -> None:
    house.given("before-queue swap global needs=body | pass | add X-Seen: 1")
    body = b"a line of text that is as long as lines in mails are\n" * 100_000
    assert house.queue(ENVELOPE, b"Subject: x\n\n" + body).status == 0
    (noted,) = house.notes()
    assert noted.mail == b"Subject: x\nX-Seen: 1\n\n" + body


@pytest.mark.parametrize(
    ("verdict", "said", "with_pipe", "without"),
    [
        ("reject 7.1 go away", b"Dgo away (#5.7.1)", 82, 31),
        ("defer 7.1 not now", b"Znot now (#4.7.1)", 82, 71),
        ("reject", b"DCommand rejected (#5.7.1)", 82, 31),
    ],
)
@pytest.mark.parametrize("stage", ["before-data", "before-queue"])
def test_a_refusal_reaches_the_caller(
    house: House, stage: str, verdict: str, said: bytes, with_pipe: int, without: int
) -> None:
    house.given(f"{stage} no recipient:b@local.test | {verdict}")
    ended = house.queue(ENVELOPE)
    assert (ended.status, ended.said) == (with_pipe, said)
    assert house.queue(ENVELOPE, error_pipe=False).status == without
    assert house.notes() == []


def test_a_pipe_on_6_that_is_not_for_us_is_left_alone(house: House) -> None:
    """Older qmail-send leaves the reading end of a pipe of its own there."""
    house.given("before-queue no global | reject")
    reading, writing = os.pipe()
    from qmail import house as callers

    in_reading, in_writing = os.pipe()
    env_reading, env_writing = os.pipe()
    pid = callers._start([b"bin/qmail-queue"], house.root, {0: in_reading, 1: env_reading, 6: reading}, Start({}))
    for descriptor in (in_reading, env_reading, reading):
        os.close(descriptor)
    callers._give(in_writing, MAIL)
    callers._give(env_writing, ENVELOPE)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 31
    os.close(writing)


def test_before_data_comes_first_and_sees_no_mail(house: House) -> None:
    house.given("before-data first global | pass")
    house.given("before-queue second global needs=body | pass")
    assert house.queue(ENVELOPE).status == 0
    assert [message for _, message in house.calls("first")] == [None]
    (_, message) = house.calls("second")[0]
    assert message.body.read() == b"hello\r\n"


def test_the_session_is_what_tcpserver_and_qmail_smtpd_tell(house: House) -> None:
    house.given("before-data look global | pass")
    ended = house.queue(ENVELOPE, start=Start({**STRANGER, "TCPREMOTEPORT": "4711", "TCPLOCALHOST": "mx"}))
    ((found, _),) = house.calls("look")
    session = found.session
    assert str(session.client_address) == "203.0.113.9"
    assert (session.client_port, session.client_ptr, session.client_name) == (4711, "mail.sender.example", "")
    assert (session.helo, session.server_name) == ("helo.example", "mx")
    assert found.traffic is TrafficClass.INBOUND
    assert found.queue_id == f"qp{ended.pid}"


@pytest.mark.parametrize(
    ("environment", "traffic", "local"),
    [
        ({}, "local", True),
        ({"TCPREMOTEIP": "127.0.0.1"}, "local", False),
        ({**STRANGER, "RELAYCLIENT": ""}, "local", False),
        ({**STRANGER, "SMTPAUTHUSER": "al"}, "authenticated", False),
        ({**STRANGER, "RELAYCLIENT": "", "SMTPAUTHUSER": "al"}, "authenticated", False),
        ({"TCPREMOTEIP": "no address"}, "inbound", False),
    ],
)
def test_the_class_of_the_mail(house: House, environment: dict[str, str], traffic: str, local: bool) -> None:
    house.given("before-queue look global | pass")
    assert house.queue(ENVELOPE, start=Start(environment)).status == 0
    ((found, _),) = house.calls("look")
    if environment.get("TCPREMOTEIP") == "no address":  # nothing is known of the client: no reason to trust it
        assert found.session.client_address is None
        return
    assert (str(found.traffic), found.session.submitted_locally) == (traffic, local)


def test_nobodys_word_about_a_client_is_not_believed(house: House) -> None:
    require_root()
    house.given("before-queue look global | pass")
    claims = {**STRANGER, "SMTPAUTHUSER": "boss", "RELAYCLIENT": ""}
    assert house.queue(ENVELOPE, start=Start(claims, uid=NOBODY)).status == 0
    ((found, _),) = house.calls("look")
    assert (found.traffic, found.session.auth_user, found.session.client_address) == (TrafficClass.INBOUND, "", None)
    assert house.queue(ENVELOPE, start=Start({}, uid=NOBODY)).status == 0
    assert house.calls("look")[1][0].traffic is TrafficClass.LOCAL


def test_recipients_that_are_out_do_not_get_the_mail(house: House) -> None:
    house.given("before-queue take recipient:b@local.test | stop taken over")
    assert house.queue(ENVELOPE).status == 0
    assert house.notes()[0].recipients == [b"c@local.test"]
    assert house.queue(envelope(b"a@sender.example", b"b@local.test")).status == 0
    assert len(house.notes()) == 1


def test_what_is_held_is_in_quarantine(house: House) -> None:
    from postroom.quarantine import open_quarantine
    from postroom.services.clock import SystemClock

    house.given("before-queue virus recipient:b@local.test needs=body | quarantine Eicar found")
    assert house.queue(ENVELOPE).status == 0
    assert house.notes()[0].recipients == [b"c@local.test"]
    (held,) = open_quarantine(house.config, SystemClock()).list()
    assert (held.recipients, held.handler, held.reason) == (("b@local.test",), "virus", "Eicar found")


def test_envelope_edits(house: House) -> None:
    house.given(
        "before-queue route global | pass | sender n@new.example | addrcpt d@new.example | delrcpt b@local.test"
    )
    assert house.queue(ENVELOPE).status == 0
    (noted,) = house.notes()
    assert (noted.sender, noted.recipients) == (b"n@new.example", [b"c@local.test", b"d@new.example"])


@pytest.mark.parametrize(
    ("sender", "seen"),
    [
        (b"", ""),
        (b"#@[]", ""),
        (b"list-return-@lists.example-@[]", "list-return-@lists.example"),
        (b"\xe4\xff@sender.example", "\udce4\udcff@sender.example"),
        (b"no-domain", "no-domain"),
    ],
)
def test_qmails_own_senders(house: House, sender: bytes, seen: str) -> None:
    house.given("before-queue take recipient:b@local.test | stop taken")
    assert house.queue(envelope(sender, b"b@local.test", b"\xf6 <x>@local.test")).status == 0
    assert house.calls("take")[0][0].sender.text == seen
    (noted,) = house.notes()
    assert (noted.sender, noted.recipients) == (sender, [b"\xf6 <x>@local.test"])


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"", 54),
        (b"Fa@b", 54),
        (b"Fa@b\0Tc@d\0", 54),
        (b"Xa@b\0Tc@d\0\0", 91),
        (b"Fa@b\0Xc@d\0\0", 91),
        (b"\0", 91),
        (b"F" + b"a" * 1003 + b"\0Tc@d\0\0", 11),
        (b"Fa@b\0T" + b"a" * 100_000, 11),
        (b"Fa@b\0T" + b"a" * 1003 + b"\0\0", 11),
    ],
)
def test_absurd_envelopes_get_qmail_queues_own_answers(house: House, octets: bytes, status: int) -> None:
    assert house.queue(octets).status == status
    assert house.notes() == []


def test_an_envelope_at_the_limit_and_one_without_recipients_pass(house: House) -> None:
    longest = envelope(b"a" * 1002, b"b" * 1002)
    assert house.queue(longest).status == 0
    assert house.queue(envelope(b"a@b")).status == 0
    assert [noted.envelope for noted in house.notes()] == [longest, envelope(b"a@b")]


def test_nothing_is_waited_for_after_the_envelope(house: House) -> None:
    """Whoever calls may keep its end of the pipe open."""
    from qmail import house as callers

    in_reading, in_writing = os.pipe()
    env_reading, env_writing = os.pipe()
    pid = callers._start([b"bin/qmail-queue.moved"], house.root, {0: in_reading, 1: env_reading}, Start({}))
    os.close(in_writing)
    os.write(env_writing, ENVELOPE)
    os.close(env_writing)
    os.waitpid(pid, 0)
    in_reading, in_writing = os.pipe()
    env_reading, env_writing = os.pipe()
    pid = callers._start([b"bin/qmail-queue"], house.root, {0: in_reading, 1: env_reading}, Start({}))
    callers._give(in_writing, MAIL)
    os.write(env_writing, ENVELOPE)  # and it stays open
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(env_writing)


def test_an_envelope_that_no_pipe_holds(house: House) -> None:
    recipients = [b"user%d@%b.example" % (number, b"x" * 50) for number in range(5000)]
    assert house.queue(envelope(b"a@b", *recipients)).status == 0
    assert house.notes()[0].recipients == recipients


def test_more_recipients_than_allowed_are_refused_for_now(directory: Path) -> None:
    house = make_house(directory / "qmail", max_recipients=3)
    with serving(house):
        ended = house.queue(envelope(b"a@b", *(b"u%d@c" % number for number in range(4))))
        assert (ended.status, ended.said) == (82, b"ZToo many recipients (#4.5.3)")


def test_a_mail_that_is_too_big_is_refused(directory: Path) -> None:
    house = make_house(directory / "qmail", max_message=2048)
    with serving(house):
        ended = house.queue(ENVELOPE, b"Subject: x\n\n" + b"x" * 4000)
        assert (ended.status, ended.said) == (82, b"DMessage too big for system (#5.3.4)")


def test_the_server_is_away(closed_house: House) -> None:
    ended = closed_house.queue(ENVELOPE)
    assert (ended.status, ended.said) == (82, b"Zmail service unavailable - try again later (#4.3.0)")
    assert closed_house.queue(ENVELOPE, error_pipe=False).status == 71
    assert closed_house.notes() == []


@pytest.mark.parametrize(
    "said", [b"", b"V", b"V\0\0\0\4PASS", b"V\0\0\0\7PASS\0\0x", b"V\0\0\0\6PASS\0\0", b"\xff" * 99]
)
def test_the_server_dies_in_the_middle(closed_house: House, said: bytes) -> None:
    """Whatever it had said until then: without the end of the answer, there is none."""

    def half(client: socket.socket) -> None:
        client.recv(10)
        client.sendall(said)

    thread = one_answer(closed_house, half)
    assert closed_house.queue(ENVELOPE, error_pipe=False).status in (71, 81)
    assert closed_house.notes() == []
    thread.join(30)


def test_a_full_disk_is_temporary(house: House) -> None:
    ended = house.queue(ENVELOPE, MAIL + b"x" * 100_000, Start(STRANGER, file_size=50_000))
    assert (ended.status, ended.said) == (53, b"")
    assert house.notes() == []


def test_the_registry_away_is_temporary(house: House) -> None:
    house.world.registry.broken = True
    ended = house.queue(ENVELOPE)
    assert (ended.status, ended.said) == (82, b"ZService unavailable - try again later (#4.3.0)")


def test_a_handler_that_fails_takes_its_on_error(house: House) -> None:
    house.given("before-queue broken global | raise secret /etc/path")
    ended = house.queue(ENVELOPE)
    assert (ended.status, ended.said) == (82, b"ZService unavailable - try again later (#4.7.1)")


def test_the_original_cannot_be_run(house: House) -> None:
    (house.root / "bin/qmail-queue.moved").unlink()
    assert house.queue(ENVELOPE).status == 120


def test_the_originals_status_is_the_answer(house: House) -> None:
    for status in (0, 11, 31, 53, 71, 115):
        house.answer(status=status)
        assert house.queue(ENVELOPE).status == status


def test_a_hostile_environment_changes_nothing(house: House, directory: Path) -> None:
    trap = directory / "trap"
    trap.mkdir()
    for name in ("os.py", "sys.py", "_socket.py", "sitecustomize.py", "usercustomize.py", "encodings.py"):
        (trap / name).write_text(f"open({str(trap / 'sprung')!r}, 'w')\n")
    trap.chmod(0o777)
    hostile = {
        **STRANGER,
        "PYTHONPATH": str(trap),
        "PYTHONHOME": str(trap),
        "PYTHONSTARTUP": str(trap / "os.py"),
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": str(trap),
        "PYTHONIOENCODING": "utf-7",
        "PYTHONMALLOC": "debug",
        "POSTROOM_LMTP": "/nowhere",
        "TMPDIR": "/proc",
        "LC_ALL": "zh_TW.BIG5",
        "IFS": "x",
    }
    house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    assert house.queue(ENVELOPE, start=Start(hostile)).status == 0
    assert b"X-Tag: 1\n" in house.notes()[0].mail
    assert not (trap / "sprung").exists()


def test_another_users_process_can_do_all_this(house: House) -> None:
    require_root()
    house.given("before-queue tag global needs=headers | pass | add X-Tag: 1")
    assert house.queue(ENVELOPE, start=Start({}, uid=NOBODY)).status == 0
    assert b"X-Tag: 1\n" in house.notes()[0].mail


def test_descriptors_that_the_caller_left_open_stay_as_they_are(house: House) -> None:
    """qmail-send's children find its pipes on 2 to 5."""
    from qmail import house as callers

    in_reading, in_writing = os.pipe()
    env_reading, env_writing = os.pipe()
    reading, writing = os.pipe()
    places = {0: in_reading, 1: env_reading, 2: writing, 3: writing, 4: reading, 5: writing}
    pid = callers._start([b"bin/qmail-queue"], house.root, places, Start({}))
    for descriptor in (in_reading, env_reading, writing):
        os.close(descriptor)
    callers._give(in_writing, MAIL)
    callers._give(env_writing, ENVELOPE)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert house.notes()[0].fds == [0, 1, 2, 3, 4, 5]
    assert os.read(reading, 100) == b""  # nobody wrote into them
    os.close(reading)


def test_no_mail_on_descriptor_0_is_not_an_empty_mail(house: House) -> None:
    (house.root / "envelope").write_bytes(b"Fa@sender.example\0Tb@local.test\0\0")
    command = ["/bin/sh", "-c", "exec bin/qmail-queue 0<&- 1<envelope"]
    ended = subprocess.run(command, cwd=house.root, env={}, timeout=60, check=False)
    assert ended.returncode == 54  # as notqmail's own: unable to read the message or envelope
    assert not house.notes()


def test_it_starts_in_milliseconds(house: House) -> None:
    """A wrapper costs about as much as an empty Python process, because it loads next to nothing. Loads are counted."""
    ours = loaded_by(house.root / "bin/qmail-queue")
    empty = house.root / "empty"
    empty.write_text("")
    more = ours - loaded_by(empty)
    assert len(more) < 8, more


def loaded_by(script: Path) -> set[str]:
    """The modules that a run of it imports."""
    command = [PYTHON, "-ISXutf8", "-X", "importtime", str(script)]
    done = subprocess.run(
        command, input=b"", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=False
    )
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    assert lines
    return {line.rpartition("|")[2].strip() for line in lines}
