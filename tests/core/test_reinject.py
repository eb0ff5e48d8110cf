"""Re-injection: over SMTP and through a program, all recipients or none, and a mark that nobody outside can make."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom.config import Config, ConfigError, Duration, Paths, ReinjectSettings
from postroom.mail import NULL_SENDER, Address, Field, Message, header_value, parse_message
from postroom.registration import Stage
from postroom.services.mark import MARK_FIELD, MAX_AGE, check_mark, load_key, sign_mark
from postroom.services.reinject import MarkedReinjector, open_reinjector
from postroom.services.submission import SubmissionFailed, crlf_octets, smtp_octets
from postroom.testing import ManualClock
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import runs, wait_until
from postroom.testing.sink import SinkServer
from requirements import require, require_root

ANN, BOB, CAT = Address("ann@sender.example"), Address("bob@example.org"), Address("cat@example.org")
MAIL = b"From: ann@sender.example\r\nMessage-ID: <1@sender.example>\r\nSubject: hi\r\n\r\n.dot\r\n..two\r\nend\r\n"
STAGES = frozenset({Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE})
NOW = 1_700_000_000.0
KEY = b"k" * 32


def reinjector(tmp_path: Path, to: str, timeout: float = 10) -> MarkedReinjector:
    config = Config(paths=Paths(state=tmp_path), reinject=ReinjectSettings(to=to, timeout=Duration(timeout)))
    return open_reinjector(config, ManualClock(NOW))


# The octets


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.\r\n"]).map(bytes), max_size=30))
def test_no_mail_ends_early_on_the_wire(pieces: list[bytes]) -> None:
    wire = b"".join(smtp_octets(pieces))
    assert wire.endswith(b".\r\n")
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    assert lines.pop() == b"."
    assert b"." not in lines
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    undone = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines)
    expected = b"".join(pieces).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert undone == expected + (b"" if not expected or expected.endswith(b"\r\n") else b"\r\n")


def test_the_cut_into_chunks_changes_nothing() -> None:
    whole = MAIL + b"a\rb\nc\r\n.\r\n"
    expected = b"".join(crlf_octets([whole]))
    assert b"".join(crlf_octets(whole[at : at + 1] for at in range(len(whole)))) == expected
    assert expected.endswith(b"a\r\nb\r\nc\r\n.\r\n")


# Over SMTP


def test_a_mail_arrives_as_it_was(tmp_path: Path) -> None:
    with SinkServer() as sink:
        reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(ANN, [BOB, CAT], [MAIL[:30], MAIL[30:]])
        [received] = sink.wait(1)
    assert (received.sender, received.recipients) == (ANN.text, (BOB.text, CAT.text))
    assert received.mail == MAIL
    assert received.sender_options == "BODY=8BITMIME"


def test_the_null_sender_stays_null(tmp_path: Path) -> None:
    with SinkServer() as sink:
        reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(NULL_SENDER, [BOB], [MAIL])
        assert sink.wait(1)[0].sender == ""


def test_when_some_are_refused_nobody_gets_it_and_the_error_names_them(tmp_path: Path) -> None:
    with SinkServer(refuse={CAT.text: "550 5.1.1 no such user"}) as sink:
        with pytest.raises(SubmissionFailed, match=r"cat@example.org \(550 5.1.1 no such user\)") as failed:
            reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(ANN, [BOB, CAT], [MAIL])
        assert failed.value.refused == (CAT,)
        assert failed.value.permanent
        assert sink.received == []


def test_a_temporary_refusal_is_not_permanent(tmp_path: Path) -> None:
    refuse = {BOB.text: "550 5.1.1 no", CAT.text: "451 4.2.0 later"}
    with SinkServer(refuse=refuse) as sink, pytest.raises(SubmissionFailed) as failed:
        reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(ANN, [BOB, CAT], [MAIL])
    assert failed.value.refused == (BOB, CAT)
    assert not failed.value.permanent


def test_internationalised_addresses_need_a_server_that_takes_them(tmp_path: Path) -> None:
    with SinkServer() as sink, pytest.raises(SubmissionFailed, match="internationalised"):
        reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(ANN, [Address("jörg@example.org")], [MAIL])


def test_raw_octets_of_an_address_arrive_raw(tmp_path: Path) -> None:
    with SinkServer() as sink:
        raw = Address(b"j\xf6rg@example.org".decode("utf-8", "surrogateescape"))
        reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(ANN, [raw], [MAIL])
        assert sink.wait(1)[0].recipients == ("j\\xf6rg@example.org",)  # the sink's way to write that octet


@pytest.mark.parametrize("text", ["a@b>\r\nRCPT TO:<c@d", "a@b> X", "a\0@b", "<a@b"])
def test_no_address_says_more_than_an_address(tmp_path: Path, text: str) -> None:
    with SinkServer() as sink, pytest.raises(SubmissionFailed, match="is no address"):
        reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}").submit(ANN, [BOB, Address(text)], [MAIL])


@contextlib.contextmanager
def silent_server(*, greets: bool) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection = stack.enter_context(server.accept()[0])
                if greets:
                    connection.sendall(b"220 x\r\n")

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        thread.join(30)


@pytest.mark.parametrize("greets", [False, True])
def test_a_silent_server_is_given_up(tmp_path: Path, greets: bool) -> None:
    with silent_server(greets=greets) as port, pytest.raises(SubmissionFailed, match="timed out"):
        reinjector(tmp_path, f"smtp:127.0.0.1:{port}", timeout=0.3).submit(ANN, [BOB], [MAIL])


def test_no_server_is_an_os_error_on_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match=rf"mail server 127.0.0.1:{port}: Connection refused"):
        reinjector(tmp_path, f"smtp:127.0.0.1:{port}").submit(ANN, [BOB], [MAIL])


# Through a program


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "send mail"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"'{path}' -X"


def test_a_program_gets_arguments_and_local_line_ends(tmp_path: Path) -> None:
    to = program(tmp_path, f'for each; do echo "[$each]"; done > {tmp_path}/arguments; cat > {tmp_path}/stdin')
    reinjector(tmp_path, to).submit(NULL_SENDER, [Address("-oops@example.org"), Address("$(id)@x")], [MAIL])
    expected = "[-X]\n[-i]\n[-f]\n[]\n[--]\n[-oops@example.org]\n[$(id)@x]\n"
    assert (tmp_path / "arguments").read_text() == expected
    assert (tmp_path / "stdin").read_bytes() == MAIL.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(("status", "permanent"), [(75, False), (67, True), (1, False), (100, True)])
def test_a_program_that_fails_is_an_error(tmp_path: Path, status: int, permanent: bool) -> None:
    to = program(tmp_path, f"echo 'no\nway' >&2; exit {status}")
    with pytest.raises(SubmissionFailed, match=f"ended with status {status}: no way") as failed:
        reinjector(tmp_path, to).submit(ANN, [BOB], [MAIL])
    assert failed.value.permanent is permanent


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    to = program(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(SubmissionFailed, match="took longer than"):
        reinjector(tmp_path, to, timeout=3).submit(ANN, [BOB], [MAIL])
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(child), "the end of the program's child")


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SubmissionFailed, match="cannot be run: No such file"):
        reinjector(tmp_path, "/nonexistent/sendmail").submit(ANN, [BOB], [MAIL])


@pytest.mark.parametrize("to", ["sendmail", "smtp:host", "smtp:a b:25", "/bin/x 'y"])
def test_a_wrong_setting_is_named(tmp_path: Path, to: str) -> None:
    with pytest.raises(ConfigError, match=r"\[reinject\]: to: "):
        reinjector(tmp_path, to)


@pytest.fixture(scope="module")
def postfix() -> Iterator[tuple[PostfixInstance, SinkServer]]:
    require("master", "sendmail")
    require_root()
    with SinkServer() as sink, PostfixInstance(PostfixSettings(relay_port=sink.port)) as server:
        yield server, sink


@pytest.mark.parametrize("way", ["smtp", "sendmail"])
def test_postfix_takes_it(postfix: tuple[PostfixInstance, SinkServer], tmp_path: Path, way: str) -> None:
    server, sink = postfix
    to = f"smtp:127.0.0.1:{server.reentry_port}" if way == "smtp" else f"/usr/sbin/sendmail -C {server.etc}"
    sender, body = Address(f"{way}@sender.example"), b"M: n\xff\r\n\r\n.\r\n\x80\xe4\r\n"
    before = len(sink.received)
    reinjector(tmp_path, to).for_stages(STAGES).submit(sender, [BOB, CAT], [MAIL[:-2], body])
    mails = [mail for mail in sink.wait(before + 1) if mail.sender == sender.text]
    assert mails[0].mail.endswith(b"end" + body)
    assert check_mark(load_key(tmp_path), parse_message(mails[0].mail), sender, [CAT, BOB], NOW) == STAGES


# The mark


def marked(mark: bytes, mail: bytes = MAIL) -> Message:
    return parse_message(mark + mail)


def test_a_mark_says_which_stages_have_seen_the_mail(tmp_path: Path) -> None:
    with SinkServer() as sink:
        reinject = reinjector(tmp_path, f"smtp:127.0.0.1:{sink.port}")
        reinject.for_stages(STAGES).submit(ANN, [BOB, CAT], [MAIL])
        reinject.submit(ANN, [BOB, CAT], [MAIL])
        one, two = sink.wait(2)
    key = load_key(tmp_path)
    assert check_mark(key, parse_message(one.mail), ANN, [CAT, BOB], NOW) == STAGES
    assert check_mark(key, parse_message(two.mail), ANN, [CAT, BOB], NOW) == frozenset()
    assert two.mail == MAIL


MARK = sign_mark(KEY, STAGES, ANN, [BOB, CAT], "<1@sender.example>", NOW)


@pytest.mark.parametrize(
    ("message", "sender", "recipients", "now"),
    [
        (marked(MARK), Address("eve@sender.example"), [BOB, CAT], NOW),
        (marked(MARK), ANN, [BOB], NOW),
        (marked(MARK), ANN, [BOB, CAT, Address("dan@example.org")], NOW),
        (marked(MARK, MAIL.replace(b"<1@", b"<2@")), ANN, [BOB, CAT], NOW),
        (marked(MARK), ANN, [BOB, CAT], NOW + MAX_AGE + 1),
        (marked(MARK), ANN, [BOB, CAT], NOW - 3600),
        (marked(MARK.replace(b"before-queue", b"before-data")), ANN, [BOB, CAT], NOW),
        (marked(MARK.replace(b"m=1", b"m=0")), ANN, [BOB, CAT], NOW),
        (marked(sign_mark(b"j" * 32, STAGES, ANN, [BOB, CAT], "<1@sender.example>", NOW)), ANN, [BOB, CAT], NOW),
    ],
    ids=["sender", "fewer", "more", "message-id", "old", "future", "stages", "uncovered", "key"],
)
def test_a_mark_holds_for_its_own_mail_only(
    message: Message, sender: Address, recipients: list[Address], now: float
) -> None:
    assert check_mark(KEY, marked(MARK), ANN, [CAT, BOB], NOW + 60) == STAGES
    assert check_mark(KEY, message, sender, recipients, now) == frozenset()


@given(st.binary(max_size=200))
def test_whatever_a_peer_writes_is_no_mark(value: bytes) -> None:
    field = Field(MARK_FIELD, value)
    assert check_mark(KEY, Message((field,)), ANN, [BOB], NOW) == frozenset()


def test_half_a_mark_and_a_true_one_behind_it() -> None:
    true = marked(MARK).fields[0]
    forged = dataclasses.replace(true, value=header_value(true.text.replace("b=", "b=0")))
    mail = Message((forged, true, *marked(MARK).fields[1:]))
    assert check_mark(KEY, mail, ANN, [BOB, CAT], NOW) == STAGES


def test_before_local_is_asked_for_one_recipient_at_a_time() -> None:
    mark = sign_mark(KEY, {Stage.BEFORE_LOCAL}, ANN, [BOB, CAT], "<1@sender.example>", NOW)
    assert check_mark(KEY, marked(mark), ANN, [Address("alias@example.org")], NOW) == {Stage.BEFORE_LOCAL}


def test_the_key_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    start, keys = threading.Barrier(8), []

    def load() -> None:
        start.wait()
        keys.append(load_key(tmp_path))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["mark.key"]
    assert stat.S_IMODE((tmp_path / "mark.key").stat().st_mode) == 0o600
    os.truncate(tmp_path / "mark.key", 5)
    with pytest.raises(OSError, match="is damaged"):
        load_key(tmp_path)
