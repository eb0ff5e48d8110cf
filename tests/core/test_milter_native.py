"""The native engine: nobody waits for somebody else's handler, limits hold, and draining loses no mail."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from dialogues.conversation import listen
from dialogues.engines import address_of, running
from dialogues.scripted import ScriptedHandler, World, parse_given
from postroom.config import Config, MilterSettings, Paths, Size, SocketAddress
from postroom.fronts.milter.client import FilterGone, Mail, MilterClient, probe
from postroom.fronts.milter.native import NativeEngine
from postroom.fronts.milter.wire import Command, Response, packet
from postroom.mail import ReplaceBody
from postroom.verdict import passed

DEADLINE = 60.0


class Host:
    """A running native engine with its world."""

    def __init__(self, world: World, listener: socket.socket) -> None:
        self.world, self.address = world, address_of(listener)
        self.engine = NativeEngine([listener], world.make_session, world.config, world.log)

    def open(self) -> MilterClient:
        client = MilterClient.open(self.address)
        client.negotiate()
        client.connect()
        client.helo()
        return client


@contextmanager
def host(directory: Path, *given: str, config: Config | None = None, **engine: float) -> Iterator[Host]:
    world = World(directory, config)
    for line in given:
        world.add(*parse_given(line))
    with listen() as listener:
        running_host = Host(world, listener)
        for name, value in engine.items():
            setattr(running_host.engine, name, value)
        with running(running_host.engine):
            yield running_host


def gated(world: World, name: str) -> ScriptedHandler:
    handler = world.handlers[name]
    handler.gate = threading.Event()
    return handler


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        threading.Event().wait(0.005)


def test_a_handler_that_waits_holds_up_nobody_else(tmp_path: Path) -> None:
    with host(
        tmp_path,
        "before-queue slow recipient:slow@local.test | pass",
        "before-queue quick recipient:quick@local.test | reject",
    ) as running_host:
        slow = gated(running_host.world, "slow")
        first, second = running_host.open(), running_host.open()
        for client, recipient in ((first, b"slow@local.test"), (second, b"quick@local.test")):
            client.mail(b"a@sender.example")
            client.rcpt(recipient)
        first.send(packet(Command.END_OF_MESSAGE))
        assert slow.entered.wait(DEADLINE)
        assert second.end_of_message().reply == "550 5.7.1 Command rejected"  # while the first still waits
        assert slow.gate is not None
        slow.gate.set()
        assert first.answer().response is Response.CONTINUE
        first.quit()
        second.quit()


def test_more_waiting_handlers_than_threads_only_queue_up(tmp_path: Path) -> None:
    config = Config(milter=MilterSettings(threads=2))
    with host(tmp_path, "before-queue slow recipient:slow@local.test | pass", config=config) as running_host:
        slow = gated(running_host.world, "slow")
        waiting = [running_host.open() for _ in range(5)]
        for client in waiting:
            client.mail(b"a@sender.example")
            client.rcpt(b"slow@local.test")
            client.send(packet(Command.END_OF_MESSAGE))
        assert slow.entered.wait(DEADLINE)
        with running_host.open() as other:  # no handler of its own: needs no thread
            assert other.deliver(Mail()).response is Response.CONTINUE
        assert len(slow.calls) <= 2
        assert slow.gate is not None
        slow.gate.set()
        assert [client.answer().response for client in waiting] == [Response.CONTINUE] * 5
        for client in waiting:
            client.quit()


def test_the_mail_server_is_told_that_work_goes_on(tmp_path: Path) -> None:
    with host(tmp_path, "before-data slow global | defer", progress_interval=0.05) as running_host:
        slow = gated(running_host.world, "slow")
        client = running_host.open()
        client.mail(b"a@sender.example")
        client.rcpt(b"b@local.test")
        client.send(packet(Command.DATA))
        assert client.receive()[0] == Response.PROGRESS
        assert client.receive()[0] == Response.PROGRESS
        assert slow.gate is not None
        slow.gate.set()
        assert client.answer().reply.startswith("451 4.7.1")
        client.quit()


def test_a_peer_that_goes_while_work_runs_is_noticed(tmp_path: Path) -> None:
    given = ("before-queue slow global | pass", "before-remote after global | pass")
    with host(tmp_path, *given) as running_host:
        slow = gated(running_host.world, "slow")
        client = running_host.open()
        client.mail(b"a@sender.example")
        client.rcpt(b"b@far.example", {b"{rcpt_mailer}": b"smtp"})
        client.send(packet(Command.END_OF_MESSAGE))
        assert slow.entered.wait(DEADLINE)
        client.close()
        wait_until(lambda: not running_host.engine._connections, "the connection is given up")
        assert slow.gate is not None
        slow.gate.set()
        with running_host.open() as other:
            assert other.deliver(Mail()).response is Response.CONTINUE
        assert running_host.world.handlers["after"].calls == []  # nobody waits for it any more


def test_packets_sent_ahead_are_answered_in_order(tmp_path: Path) -> None:
    with host(tmp_path, "before-queue tag global | pass") as running_host:
        client = running_host.open()
        mails = 200
        octets = b"".join(
            (packet(Command.MAIL, b"<a@b>\0"), packet(Command.RCPT, b"<c@d>\0"), packet(Command.END_OF_MESSAGE))
        )
        thread = threading.Thread(target=client.send, args=(octets * mails,))
        thread.start()
        assert [client.answer().response for _ in range(mails)] == [Response.CONTINUE] * mails
        thread.join()
        assert len(running_host.world.handlers["tag"].calls) == mails
        client.quit()


@pytest.mark.parametrize(
    "octets",
    [b"\0\0\0\0", b"\xff\xff\xff\xff", packet(Command.HELO, b"no nul"), packet(0x7F), packet(Command.RCPT, b"<x>\0")],
)
def test_what_is_no_milter_is_closed_and_logged(octets: bytes, tmp_path: Path) -> None:
    with host(tmp_path) as running_host, running_host.open() as good:
        with running_host.open() as bad:
            bad.send(octets)
            with pytest.raises(FilterGone):
                bad.receive()
        assert good.deliver(Mail()).response is Response.CONTINUE
        assert any(event == "milter connection closed" for _, event, _ in running_host.world.log.lines)


def test_connections_beyond_the_limit_wait_their_turn(tmp_path: Path) -> None:
    config = Config(milter=MilterSettings(connections=2))
    with host(tmp_path, config=config) as running_host, ExitStack() as stack:
        first, _second = (stack.enter_context(running_host.open()) for _ in range(2))
        third = stack.enter_context(MilterClient.open(running_host.address))
        answered = threading.Event()

        def negotiate() -> None:
            third.negotiate()
            answered.set()

        thread = threading.Thread(target=negotiate)
        thread.start()
        assert len(running_host.engine._connections) == 2
        assert not answered.is_set()
        first.quit()
        thread.join(DEADLINE)
        assert answered.is_set()


def test_a_silent_connection_is_sent_away(tmp_path: Path) -> None:
    with (
        host(tmp_path, handshake_timeout=0.05) as running_host,
        MilterClient.open(running_host.address) as client,
        pytest.raises(FilterGone),
    ):
        client.receive()


def test_an_idle_connection_holds_no_input(tmp_path: Path) -> None:
    with host(tmp_path) as running_host, running_host.open() as client:
        assert client.deliver(Mail()).response is Response.CONTINUE
        wait_until(
            lambda: all(each._decoder._data == b"" for each in running_host.engine._connections.values()), "let go"
        )


def test_draining_finishes_the_mail_in_hand(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(*parse_given("before-queue slow global | reject"))
    slow = gated(world, "slow")
    with listen() as listener:
        listener.settimeout(DEADLINE)
        running_host = Host(world, listener)
        thread = threading.Thread(target=running_host.engine.run)
        thread.start()
        client, idle = running_host.open(), running_host.open()
        client.mail(b"a@sender.example")
        client.rcpt(b"b@local.test")
        client.send(packet(Command.END_OF_MESSAGE))
        assert slow.entered.wait(DEADLINE)
        running_host.engine.drain(DEADLINE, idle=0.0)
        with pytest.raises(FilterGone):
            idle.receive()
        # the listener stays the caller's: a new connection waits there for another worker
        late = socket.create_connection(listener.getsockname(), DEADLINE)
        assert slow.gate is not None
        slow.gate.set()
        assert client.answer().reply == "550 5.7.1 Command rejected"
        client.quit()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        listener.setblocking(True)
        listener.accept()[0].close()
        late.close()
        idle.close()


def test_a_listener_that_is_shut_down_costs_no_mail_in_hand(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(*parse_given("before-queue slow global | reject"))
    slow = gated(world, "slow")
    with listen() as closed, listen() as other:
        running_host = Host(world, other)
        engine = NativeEngine([closed, other], world.make_session, world.config, world.log)
        with running(engine), running_host.open() as client:
            client.mail(b"a@sender.example")
            client.rcpt(b"b@local.test")
            client.send(packet(Command.END_OF_MESSAGE))
            assert slow.entered.wait(DEADLINE)
            closed.shutdown(socket.SHUT_RDWR)  # as the supervisor does, perhaps before it has told this worker
            assert probe(running_host.address).healthy
            assert slow.gate is not None
            slow.gate.set()
            assert client.answer().reply == "550 5.7.1 Command rejected"


def test_draining_ends_with_its_grace(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(*parse_given("before-queue slow global | pass"))
    slow = gated(world, "slow")
    with listen() as listener:
        running_host = Host(world, listener)
        thread = threading.Thread(target=running_host.engine.run)
        thread.start()
        with running_host.open() as client:
            client.mail(b"a@sender.example")
            client.rcpt(b"b@local.test")
            client.send(packet(Command.END_OF_MESSAGE))
            assert slow.entered.wait(DEADLINE)
            running_host.engine.drain(0.05)
            thread.join(DEADLINE)
            assert not thread.is_alive()
            with pytest.raises(FilterGone):
                client.receive()
        assert slow.gate is not None
        slow.gate.set()
        running_host.engine.drain(0.0)  # once more does no harm


def test_several_listeners_and_a_unix_socket(tmp_path: Path) -> None:
    world = World(tmp_path)
    path = str(tmp_path / "milter.sock")
    with listen() as inet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        engine = NativeEngine([inet, unix], world.make_session, world.config, world.log)
        with running(engine):
            for address in (address_of(inet), SocketAddress("unix", path=path)):
                found = probe(address)
                assert found.healthy, found
                assert found.version == 6


def test_probe_tells_what_is_wrong(tmp_path: Path) -> None:
    assert "no answer" in probe(SocketAddress("unix", path=str(tmp_path / "absent"))).problem
    with listen() as listener:
        assert "no answer" in probe(address_of(listener), timeout=0.05).problem
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"220 mx.test.example ESMTP\r\n")
                peer.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        assert "no milter" in probe(address_of(server)).problem
        thread.join(DEADLINE)


def test_a_big_mail_is_spooled_and_a_big_body_streamed_back(tmp_path: Path) -> None:
    size = 20 << 20
    (tmp_path / "spool").mkdir()
    config = Config(paths=Paths(state=tmp_path), milter=MilterSettings(max_message=Size(64 << 20)))
    with host(tmp_path, "before-queue scan global needs=body | pass", config=config) as running_host:
        scan = running_host.world.handlers["scan"]
        with running_host.open() as client:
            answer = client.deliver(Mail(body=os.urandom(1 << 16) * (size >> 16)))
            assert answer.response is Response.CONTINUE
            assert answer.modifications == ()
        message = scan.calls[0][1]
        assert message is not None
        assert message.body.size == size
        assert message.body._spool is not None  # on disk, not in memory
        running_host.world.add(*parse_given("before-queue other global needs=body | pass"))
        running_host.world.handlers["scan"]._verdict = lambda: passed(ReplaceBody(message.body))
        with running_host.open() as client:
            answer = client.deliver(Mail(body=b"small\r\n"))
        assert sum(len(payload) for code, payload in answer.modifications if code is Response.REPLACE_BODY) == size
        assert max(len(payload) for _, payload in answer.modifications) <= 65535


@pytest.mark.parametrize("size", [(1 << 20) + 100, 3 << 20])
def test_a_mail_that_finds_no_space_is_deferred_by_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("w+b"))  # noqa: SIM115
    with host(tmp_path, "before-queue scan global needs=body | pass") as running_host:
        with running_host.open() as client:
            answer = client.deliver(Mail(body=b"x" * size))
            assert answer.response is Response.REPLY_CODE
            assert answer.payload.startswith(b"452 4.3.1")
        assert running_host.world.errors() == []
        assert running_host.world.handlers["scan"].calls == []


def test_ten_thousand_recipients(tmp_path: Path) -> None:
    with host(tmp_path, "before-data no recipient:r9999@local.test | stop taken") as running_host:
        with running_host.open() as client:
            recipients = [b"r%d@local.test" % number for number in range(10000)]
            answer = client.deliver(Mail(recipients=recipients))
        assert answer.modifications == ((Response.DELETE_RECIPIENT, b"<r9999@local.test>\0"),)


def test_a_failure_of_our_own_is_temporary_and_logged(tmp_path: Path) -> None:
    with host(tmp_path, "before-queue tag global | pass") as running_host:

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("secret")

        running_host.world.pipeline.run = broken  # type: ignore[method-assign, assignment]
        with running_host.open() as client:
            assert client.deliver(Mail()).reply == "451 4.3.0 Service unavailable - try again later"
        assert "ZeroDivisionError" in "".join(running_host.world.errors())
        assert "Traceback" in "".join(running_host.world.errors())
