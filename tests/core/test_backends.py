"""What handlers that ask servers share: one deadline, every way that a connection can end, and the next server."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from postroom.backends.connection import Connection
from postroom.backends.deadline import Deadline
from postroom.backends.failover import Failover, NoAnswer
from postroom.backends.octets import PIECE, FixedOctets, pieces
from postroom.backends.trouble import (
    BackendClosed,
    BackendDeclined,
    BackendLate,
    BackendTrouble,
    safe,
)
from postroom.config import SocketAddress
from postroom.testing import FakeServices
from postroom.testing.ports import free_port
from postroom.testing.processes import wait_until
from postroom.testing.standin import Script, StandIn, drips, hangs, reset

AMPLE = 30.0  # seconds: more than any of these may take on a busy machine, less than a hang
WITHIN = "^closed the connection within its answer$"
WITHOUT = "^closed the connection without an answer$"
DOCS = Path(__file__).parents[2] / "docs"


def open_to(server: StandIn, seconds: float = AMPLE) -> Connection:
    """`seconds` are those after it was opened, which may take its time on a busy machine."""
    connection = Connection(server.address, Deadline(AMPLE), AMPLE)
    connection._deadline = Deadline(seconds)
    return connection


def says(answer: bytes, end: Callable[[socket.socket], None] = socket.socket.close) -> Script:
    """Waits for one line, answers and ends the connection."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        with connection.makefile("rb") as file:
            file.readline()
            connection.sendall(answer)
        end(connection)

    return script


# What comes


def test_lines_counted_octets_and_the_rest_come_as_they_were_sent() -> None:
    with StandIn(says(b"one\r\ntwo\n\r\n12345\0\nrest")) as server, open_to(server) as connection:
        assert connection.send(b"question\n")
        assert [connection.line(4), connection.line(3), connection.line(1)] == [b"one", b"two", b""]
        assert connection.exactly(5) == b"12345"
        assert connection.exactly(0) == b""
        assert connection.some(1) == b"\0"
        assert connection.rest(5) == b"\nrest"
        assert connection.ended
        assert connection.some(1) == b""
        assert connection.rest(0) == b""


def test_what_is_longer_than_its_limit_is_refused() -> None:
    with StandIn(says(b"x" * 100 + b"\n")) as server:
        reads: list[tuple[Callable[[Connection], object], str]] = [
            (lambda connection: connection.line(99), "a line that is too long"),
            (lambda connection: connection.rest(100), "an answer that does not end"),
        ]
        for read, problem in reads:
            with open_to(server) as connection:
                connection.send(b"\n")
                with pytest.raises(BackendTrouble, match=problem):
                    read(connection)
        with open_to(server) as connection:
            connection.send(b"\n")
            assert connection.rest(101) == b"x" * 100 + b"\n"
    with StandIn(says(b"x" * 100, hangs_on)) as server, open_to(server) as connection:
        connection.send(b"\n")
        with pytest.raises(BackendTrouble, match="a line that does not end"):
            connection.line(99)


def hangs_on(connection: socket.socket) -> None:
    while connection.recv(PIECE):
        pass


# How it ends

READS: list[Callable[[Connection], object]] = [
    lambda connection: connection.line(100),
    lambda connection: connection.exactly(100),
]
READS_TO_THE_END: list[Callable[[Connection], object]] = [
    lambda connection: connection.rest(100),
    lambda connection: [connection.some(100), connection.some(100)],
]


@pytest.mark.parametrize("end", [socket.socket.close, reset])
@pytest.mark.parametrize("read", READS)
def test_an_end_where_more_had_to_come(read: Callable[[Connection], object], end: Any) -> None:
    for answer, told in ((b"", WITHOUT), (b"part", WITHIN)):
        with StandIn(says(answer, end)) as server, open_to(server) as connection:
            connection.send(b"question\n")
            with pytest.raises(BackendClosed, match=told):
                read(connection)


@pytest.mark.parametrize("read", READS_TO_THE_END)
def test_an_answer_up_to_the_end_is_whole_only_after_an_orderly_one(read: Callable[[Connection], object]) -> None:
    for answer, told in ((b"", WITHOUT), (b"part", WITHIN)):
        with StandIn(says(answer, reset)) as server, open_to(server) as connection:
            connection.send(b"question\n")
            with pytest.raises(BackendClosed, match=told):
                read(connection)


@pytest.mark.parametrize("read", [*READS, *READS_TO_THE_END])
def test_a_reset_while_sending_is_one_when_reading(read: Callable[[Connection], object]) -> None:
    for answer, told in ((b"", WITHOUT), (b"part", WITHIN)):
        with StandIn(says(answer, reset)) as server, open_to(server) as connection:
            connection.send(b"question\n")
            wait_until(lambda: not connection.send(b"more"), "a reset")  # called before the next turn
            with pytest.raises(BackendClosed, match=told):
                read(connection)


def test_an_answer_that_came_before_the_reset_is_read() -> None:
    with StandIn(says(b"too long\n", reset)) as server:
        for _ in range(5):  # the reset may come at any moment of the sending
            with open_to(server) as connection:
                assert not connection.send_all([b"question\n", *[b"x" * PIECE] * 1000])
                assert connection.line(100) == b"too long"
                with pytest.raises(BackendClosed, match=WITHIN):
                    connection.line(100)


def test_an_answer_is_seen_while_there_is_more_to_send() -> None:
    answered = threading.Event()

    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(100)
        answered.wait(60)
        connection.sendall(b"found\n")
        over.wait(60)

    with StandIn(script) as server, open_to(server) as connection:
        connection.send(b"first")
        assert not connection.has_answer()
        answered.set()
        wait_until(connection.has_answer, "an answer")
        assert connection.send(b"more")
        assert connection.line(100) == b"found"
        assert not connection.has_answer()


def test_a_server_that_has_hung_up_has_no_answer() -> None:
    with StandIn(says(b"")) as server, open_to(server) as connection:
        connection.send(b"question\n")
        wait_until(lambda: connection.has_answer() or connection.ended, "the end")
        assert not connection.has_answer()
        connection.end_sending()
        with pytest.raises(BackendClosed, match=WITHOUT):
            connection.line(100)


def test_the_end_of_the_question_can_be_told() -> None:
    def script(connection: socket.socket, _: threading.Event) -> None:
        with connection.makefile("rb") as file:
            connection.sendall(b"%d\n" % len(file.read()))

    with StandIn(script) as server, open_to(server) as connection:
        assert connection.send_all([b"x" * 300_000, b"", b"y"])
        connection.end_sending()
        assert connection.line(100) == b"300001"


# How long it takes


@pytest.mark.parametrize("script", [hangs, drips(b"x")])
@pytest.mark.parametrize("read", [*READS, READS_TO_THE_END[0]])
def test_no_answer_is_waited_for_longer_than_the_deadline(read: Callable[[Connection], object], script: Script) -> None:
    begun = time.monotonic()
    with StandIn(script) as server, open_to(server, 0.4) as connection, pytest.raises(BackendLate) as told:
        read(connection)
    assert str(told.value) == "does not answer in time"
    assert 0.3 < time.monotonic() - begun < AMPLE


def test_a_server_that_does_not_read_holds_nobody_up() -> None:
    begun = time.monotonic()
    with StandIn(hangs) as server, open_to(server, 0.4) as connection, pytest.raises(BackendLate, match="in time"):
        connection.send_all([b"x" * (64 << 20)])
    assert 0.3 < time.monotonic() - begun < AMPLE


def test_an_earlier_deadline_never_goes_past_the_later_one() -> None:
    late = Deadline(1000)
    assert 990 < late.left() <= 1000
    assert 0 < late.at_most(5).left() <= 5
    assert late.at_most(5000).left() <= 1000
    over = Deadline(0)
    for deadline in (over, over.at_most(5)):
        with pytest.raises(BackendLate, match="no time left"):
            deadline.left()
        with pytest.raises(BackendLate, match="other words"):
            deadline.left("other words")


# Where it goes


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    for address, problem in (
        (SocketAddress("inet", "127.0.0.1", free_port()), "cannot be reached: Connection refused"),
        (SocketAddress("unix", path=str(tmp_path / "none")), "cannot be reached: No such file or directory"),
        (SocketAddress("unix", path="/" + "x" * 200), "cannot be reached: AF_UNIX path too long"),
        (SocketAddress("inet", "nobody.invalid", 1), "the name cannot be resolved"),
        (SocketAddress("inet", "an..empty.label", 1), "the name cannot be resolved: it is no name"),
    ):
        with pytest.raises(BackendTrouble, match=problem):
            Connection(address, Deadline(AMPLE), AMPLE)


def test_a_server_that_takes_no_connection_is_late() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place = full.getsockname()
        waiting = []
        try:
            for _ in range(3):  # the queue holds one more than it says
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(place)
            with pytest.raises(BackendLate, match="does not take the connection"):
                Connection(SocketAddress("inet", *place), Deadline(AMPLE), 0.2)
        finally:
            for each in waiting:
                each.close()


def test_the_first_place_of_a_name_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn(says(b"hello\n")) as server:
        dead, alive = ("127.0.0.1", free_port()), ("127.0.0.1", server.address.port)

        def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
            assert host == "scanner.example"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in (dead, alive, dead)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with Connection(SocketAddress("inet", "scanner.example", 1), Deadline(AMPLE), AMPLE) as connection:
            connection.send(b"\n")
            assert connection.line(100) == b"hello"


def test_a_unix_socket_is_as_good(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Connection(SocketAddress("unix", path=path), Deadline(AMPLE), AMPLE) as connection:
            other, _ = listener.accept()
            other.sendall(b"too long\n")
            other.close()
            assert not connection.send_all([b"x" * PIECE] * 100)
            assert connection.line(100) == b"too long"


# What is sent and logged


def test_pieces_are_the_same_octets_and_none_is_empty_or_long() -> None:
    chunks = [b"", b"a", b"b" * PIECE, b"c" * (2 * PIECE + 1), b""]
    found = list(pieces(chunks))
    assert b"".join(found) == b"".join(chunks)
    assert {len(piece) for piece in found} == {1, PIECE}
    fixed = FixedOctets(b"probe")
    assert (fixed.size(), b"".join(fixed.chunks()), b"".join(fixed.chunks())) == (5, b"probe", b"probe")


def test_a_strangers_words_are_made_safe() -> None:
    assert safe(' Evil"\x1b[31m\u2603\r\nX: y ') == 'Evil"?[31m???X: y'
    assert len(safe("x" * 1000)) == 200


# Several servers


@dataclass(frozen=True)
class Named:
    """A server that is only a name."""

    address: SocketAddress


FIRST, SECOND, THIRD = (Named(SocketAddress("inet", "server.example", port)) for port in (1, 2, 3))


class Round:
    """Servers, and what each of them does when it is asked: a trouble is raised, all else is the answer."""

    def __init__(self, services: FakeServices) -> None:
        self.services = services
        self.failover = Failover("oracle")
        self.does: dict[Named, object] = {}
        self.asked: list[Named] = []

    def ask(self, deadline: Deadline | None = None, attempt: float = AMPLE) -> object:
        def question(backend: Named, share: Deadline) -> object:
            self.asked.append(backend)
            self.shares.append(share)
            found = self.does.get(backend, "answer")
            if isinstance(found, BackendTrouble):
                raise found
            return found

        self.asked, self.shares = [], list[Deadline]()
        backends = (FIRST, SECOND, THIRD)
        return self.failover.ask(
            backends, question, deadline or Deadline(1000), self.services, pause=30, attempt=attempt
        )

    def logged(self) -> list[tuple[str, dict[str, Any]]]:
        return [(event, facts) for _, event, facts in self.services.log.lines]


@pytest.fixture
def round_(tmp_path: Path) -> Round:
    return Round(FakeServices(tmp_path))


def test_the_first_server_that_answers_is_the_last_that_is_asked(round_: Round) -> None:
    assert round_.ask() == "answer"
    assert round_.asked == [FIRST]
    round_.does = {FIRST: BackendTrouble("is broken"), SECOND: False}
    assert round_.ask() is False
    assert round_.asked == [FIRST, SECOND]


def test_a_server_that_failed_comes_last_for_a_while_and_is_logged_once(round_: Round) -> None:
    round_.does = {FIRST: BackendTrouble("is broken"), SECOND: BackendLate("is slow")}
    for _ in range(3):
        round_.ask()
    assert round_.asked == [THIRD]
    assert round_.logged() == [
        ("oracle fails", {"server": str(FIRST.address), "status": "error", "problem": "is broken"}),
        ("oracle fails", {"server": str(SECOND.address), "status": "timeout", "problem": "is slow"}),
    ]
    round_.services.clock.advance(31)
    round_.does = {}
    round_.ask()
    assert round_.asked == [FIRST]
    assert round_.logged()[2:] == [("oracle works again", {"server": str(FIRST.address)})]


def test_of_servers_that_all_failed_the_one_that_failed_longest_ago_is_asked_first(round_: Round) -> None:
    for server in (THIRD, FIRST, SECOND):
        with pytest.raises(NoAnswer):
            round_.failover.ask((server,), _fails, Deadline(1000), round_.services, pause=30, attempt=1)
        round_.services.clock.advance(1)
    round_.does = {THIRD: BackendTrouble("is still broken")}
    round_.ask()
    assert round_.asked == [THIRD, FIRST]


def _fails(*_: object) -> None:
    raise BackendTrouble("is broken")


def test_a_server_that_declines_is_well(round_: Round) -> None:
    round_.does = {FIRST: BackendDeclined("not this one")}
    for _ in range(2):
        round_.ask()
        assert round_.asked == [FIRST, SECOND]
    assert round_.logged() == []


def test_when_nobody_answers_it_is_said_what_each_did(round_: Round) -> None:
    round_.does = {FIRST: BackendLate("is slow"), SECOND: BackendDeclined("not this one"), THIRD: BackendLate("too")}
    with pytest.raises(NoAnswer) as told:
        round_.ask()
    assert str(told.value) == "; ".join(
        ("inet:server.example:1: is slow", "inet:server.example:2: not this one", "inet:server.example:3: too")
    )
    assert not told.value.late
    assert told.value.of_this_mail, "one server is well"
    round_.does[SECOND] = BackendLate("as well")
    with pytest.raises(NoAnswer) as told:
        round_.ask()
    assert told.value.late
    assert not told.value.of_this_mail


def test_without_time_nobody_is_asked_and_nobody_has_failed(round_: Round) -> None:
    with pytest.raises(NoAnswer, match=r"^no time left$") as told:
        round_.ask(Deadline(0))
    assert told.value.late
    assert (round_.asked, round_.logged()) == ([], [])


def test_each_server_has_its_share_of_the_time_and_the_last_one_all_of_it(round_: Round) -> None:
    round_.does = {server: BackendTrouble("is broken") for server in (FIRST, SECOND, THIRD)}
    with pytest.raises(NoAnswer):
        round_.ask(Deadline(900), attempt=1000)
    for share, (least, most) in zip(round_.shares, ((200, 300), (350, 450), (800, 900)), strict=True):
        assert least < share.left() <= most
    with pytest.raises(NoAnswer):
        round_.ask(Deadline(900), attempt=100)
    for share, (least, most) in zip(round_.shares, ((40, 100), (40, 100), (800, 900)), strict=True):
        assert least < share.left() <= most


def test_what_is_no_trouble_of_a_server_is_not_laid_on_it(round_: Round) -> None:
    def question(*_: object) -> None:
        raise OSError("our own disk")

    with pytest.raises(OSError, match="our own disk"):
        round_.failover.ask((FIRST, SECOND), question, Deadline(1000), round_.services, pause=30, attempt=1)
    assert round_.logged() == []


def test_of_many_threads_one_logs_the_news(round_: Round) -> None:
    with ThreadPoolExecutor(16) as pool:
        for question in (_fails, lambda *_: None):

            def ask(_: int, question: Callable[..., None] = question) -> None:
                try:
                    round_.failover.ask((FIRST,), question, Deadline(1000), round_.services, pause=30, attempt=1)
                except NoAnswer:
                    pass

            list(pool.map(ask, range(200)))
    assert [event for event, _ in round_.logged()] == ["oracle fails", "oracle works again"]


# What it costs, and how it is told


def test_it_imports_little() -> None:
    program = (
        "import sys, postroom.backends.failover, postroom.backends.connection\n"
        "print(*{'http.client', 'ssl', 'asyncio', 'email'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_the_example_of_the_docs_asks_a_server(tmp_path: Path) -> None:
    section = (DOCS / "writing-handlers.md").read_text().partition("\n## Asking a server\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(example, "writing-handlers.md", "exec"), namespace)
    from postroom.testing import message
    from postroom.verdict import Action

    handler, services = namespace["Oracle"](), FakeServices(tmp_path)
    with StandIn(says(b"no\n")) as refuses, StandIn(says(b"")) as broken:
        settings = namespace["Settings"](servers=(broken.address, refuses.address))
        verdict = handler.before_queue(message(), settings, services)
        assert verdict.action is Action.REJECT
        refuses.script = says(b"yes\n")
        assert handler.before_queue(message(), settings, services).action is Action.SKIP
        assert (broken.connections, refuses.connections) == (1, 2)
