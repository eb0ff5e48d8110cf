"""A server that does what a test says: for the failures and the answers that no real one gives on request."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK

PATIENCE = 30.0  # seconds that a script waits for its client

Script = Callable[[socket.socket, threading.Event], None]
"""What is done with one connection; the event says that the test is over. Afterwards the connection is closed."""


def hangs(connection: socket.socket, over: threading.Event) -> None:  # noqa: ARG001  # it says nothing
    """Accept, and never answer."""
    over.wait(60)


def drips(octets: bytes) -> Script:
    """An octet now and then, the last one for ever: no single wait is long."""

    def script(connection: socket.socket, over: threading.Event) -> None:
        sent = 0
        while not over.wait(0.05):
            connection.sendall(octets[sent:][:1] or octets[-1:])
            sent += 1

    return script


def reset(connection: socket.socket) -> None:
    """Break the connection off: what the client still sends is refused, as by a process that was killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class StandIn:
    """A server on loopback; `connections` counts. `script` may be changed between two connections.

    with StandIn(hangs) as server: ...
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.address = SocketAddress("inet", LOOPBACK, self._listener.getsockname()[1])
        self._start(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(PATIENCE)
            try:
                self.script(connection, self._over)
            except OSError:
                pass  # the client went away, as it may

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
