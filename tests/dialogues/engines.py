"""The three ways in which a case is played: in this process, by the native engine, by libmilter."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from dialogues.conversation import listen
from dialogues.scripted import World
from postroom.config import SocketAddress
from postroom.fronts.milter.answers import Answer, Work, encode_answer, encode_operation
from postroom.fronts.milter.client import FilterGone, MilterClient
from postroom.fronts.milter.events import HangUp, deliver
from postroom.fronts.milter.native import NativeEngine
from postroom.fronts.milter.session import OutOfOrder, Session
from postroom.fronts.milter.wire import Decoder, Negotiation, WireError


class InProcessClient(MilterClient):
    """No socket: packets go straight to a session, work is done at once."""

    def __init__(self, session: Session) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(ours)
        self._session, self._packets = session, Decoder()
        self._answers: deque[tuple[int, bytes]] = deque()
        self._closed = False

    def send(self, octets: bytes) -> None:
        self._packets.feed(octets)
        decoder = Decoder()
        while (found := self._packets.next()) is not None:
            try:
                result = deliver(self._session, *found)
            except (WireError, OutOfOrder, HangUp):
                self._closed = True
                return
            if isinstance(result, Work):
                result = result.run()
            if isinstance(result, Negotiation):
                decoder.feed(result.encode())
            elif isinstance(result, Answer):
                for operation in result.operations:
                    decoder.feed(b"".join(encode_operation(operation)))
                decoder.feed(encode_answer(result))
        while (found := decoder.next()) is not None:
            self._answers.append(found)

    def receive(self) -> tuple[int, bytes]:
        if not self._answers:
            raise FilterGone("no answer")
        return self._answers.popleft()

    def close(self) -> None:
        super().close()
        self._theirs.close()


@contextmanager
def in_process(world: World) -> Iterator[MilterClient]:
    client = InProcessClient(world.make_session())
    try:
        yield client
    finally:
        client.close()


def address_of(listener: socket.socket) -> SocketAddress:
    host, port = listener.getsockname()[:2]
    return SocketAddress("inet", host, port)


@contextmanager
def running(engine: NativeEngine) -> Iterator[NativeEngine]:
    thread = threading.Thread(target=engine.run, name="engine")
    thread.start()
    try:
        yield engine
    finally:
        engine.drain(0.0)
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def native(world: World) -> Iterator[MilterClient]:
    with (
        listen() as listener,
        running(NativeEngine([listener], world.make_session, world.config, world.log)),
        MilterClient.open(address_of(listener)) as client,
    ):
        yield client
