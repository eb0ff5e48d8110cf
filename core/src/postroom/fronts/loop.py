"""Drives conversations over sockets: one event loop for the protocol, a pool of threads for the work.

The loop alone touches sockets and protocols; a worker thread runs one conversation's work and leaves what is to be
sent in a queue. A conversation that works is not read from, so that a client can pile up nothing.
"""

from __future__ import annotations

import enum
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from postroom.fronts.conversation import (
    Conversation,
    Farewells,
    Finish,
    HangUp,
    LoopSettings,
    MakeConversation,
    Send,
    Task,
    peer_of,
)
from postroom.hookspecs import Logger

READ_SIZE = 1 << 16
MAX_UNSENT = 1 << 16  # octets of replies that wait for a client to read them; then it is not listened to any more
TICK = 1.0  # seconds between looks at who is idle
ACCEPTS_AT_ONCE = 16
PAUSE = 1.0  # seconds without accepting when there are no descriptors left


class _End(enum.Enum):
    """Whether a connection goes on."""

    OPEN = enum.auto()
    CLOSING = enum.auto()  # when everything is sent
    GONE = enum.auto()  # the client is; work may still be under way


class _Connection:
    """One client."""

    def __init__(self, peer_socket: socket.socket, conversation: Conversation, now: float) -> None:
        self.socket, self.conversation = peer_socket, conversation
        self.descriptor = peer_socket.fileno()
        self.unsent = bytearray()
        self.active_at = now
        self.end = _End.OPEN
        self.working = False
        self.events = 0
        self.room = threading.Condition()
        self.promised = 0  # octets that a worker thread wants sent, and the client has not taken

    def promise(self, length: int, patience: float) -> bool:
        """For a worker thread: wait until the client has read what it was sent; False when it is gone or too slow."""
        with self.room:
            ready = self.room.wait_for(lambda: self.end is _End.GONE or self.promised < MAX_UNSENT, patience)
            if self.end is _End.GONE or not ready:
                return False
            self.promised += length
        return True

    def taken(self, length: int) -> None:
        with self.room:
            self.promised = max(0, self.promised - length)
            self.room.notify_all()

    def gone(self) -> None:
        with self.room:
            self.end = _End.GONE
            self.room.notify_all()


class Engine:
    """`listeners` are listening, non-blocking sockets, perhaps shared with other processes."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_conversation: MakeConversation,
        settings: LoopSettings,
        farewells: Farewells,
        log: Logger,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._make_conversation, self._settings, self._farewells = make_conversation, settings, farewells
        self._log, self._monotonic = log, monotonic
        self._connections: dict[int, _Connection] = {}
        self._finished: deque[Callable[[], None]] = deque()  # what threads leave for the loop
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = threading.RLock()  # a signal handler may come in between
        self._epoll = select.epoll()
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="front")
        self._drain_until: float | None = None
        self._accepting = False
        self._paused_until = 0.0

    def run(self) -> None:
        """Serve until `drain` was called and the mails in hand are done. Call it once."""
        self._epoll.register(self._wake, select.EPOLLIN)
        self._accept_again()
        try:
            while not self._over():
                timeout = TICK if self._connections or self._paused_until else -1
                for descriptor, events in self._epoll.poll(timeout):
                    self._handle(descriptor, events)
                while self._finished:
                    self._finished.popleft()()
                self._tick()
        finally:
            for connection in list(self._connections.values()):
                self._close(connection)
            in_time = self._drain_until is None or self._monotonic() < self._drain_until
            self._pool.shutdown(wait=in_time, cancel_futures=True)
            self._epoll.close()
            if in_time:
                with self._waking:  # somebody may be about to write to it
                    os.close(self._wake)
                    self._wake = -1

    def drain(self, grace: float = 30.0, idle: float | None = None) -> None:  # noqa: ARG002  # idle ones go at once
        """Take no more connections, finish the mails in hand within `grace` seconds. Signal handlers may call it.

        A second call may shorten the time. A client between two mails is sent away at once, whatever `idle` is: it
        comes again.
        """
        until = self._monotonic() + grace
        self._drain_until = until if self._drain_until is None else min(until, self._drain_until)
        self._nudge()

    def _over(self) -> bool:
        if self._drain_until is None:
            return False
        return not self._connections or self._monotonic() >= self._drain_until

    # Connections

    def _handle(self, descriptor: int, events: int) -> None:
        if descriptor == self._wake:
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass
        elif descriptor in self._listeners:
            self._accept(self._listeners[descriptor])
        elif connection := self._connections.get(descriptor):
            if events & (select.EPOLLHUP | select.EPOLLERR) and not events & select.EPOLLIN:
                self._lost(connection)
            else:
                if events & select.EPOLLOUT:
                    self._flush(connection)
                if events & select.EPOLLIN:
                    self._read(connection)
                self._advance(connection)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:  # no descriptors or memory left
                if error.errno == errno.EINVAL:  # the supervisor has shut it down; the mails in hand go on
                    self._epoll.unregister(listener)
                    del self._listeners[listener.fileno()]
                    return
                self._log.error("cannot accept connections", error=error.strerror or str(error))
                self._stop_accepting()
                self._paused_until = self._monotonic() + PAUSE
                return
            self._welcome(accepted)

    def _welcome(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            if len(self._connections) >= self._settings.connections:
                self._log.warning("connection limit reached", limit=self._settings.connections)
                accepted.send(self._farewells.full)
                accepted.close()
                return
            peer = peer_of(accepted)
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError):
            accepted.close()  # it went before it was welcome
            return
        connection = _Connection(accepted, self._make_conversation(peer), self._monotonic())
        self._connections[connection.descriptor] = connection
        self._epoll.register(connection.descriptor, 0)
        connection.unsent += connection.conversation.greeting()
        self._advance(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            octets = connection.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._lost(connection)
            return
        if not octets:
            self._lost(connection)
            return
        connection.active_at = self._monotonic()
        connection.conversation.receive(octets)

    def _advance(self, connection: _Connection) -> None:
        """Take steps until octets or work are waited for, or the client has to read first."""
        if connection.end is _End.GONE:
            return
        while connection.end is _End.OPEN and not connection.working and len(connection.unsent) < MAX_UNSENT:
            step = connection.conversation.step()
            match step:
                case None:
                    break
                case Send(octets):
                    connection.unsent += octets
                case HangUp(octets):
                    connection.unsent += octets
                    connection.end = _End.CLOSING
                case Task():
                    connection.working = True
                    self._pool.submit(self._work, connection, step)
        self._leave_if_draining(connection)
        if connection.unsent:
            self._flush(connection)
        self._settle(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._lost(connection)
            return
        del connection.unsent[:sent]
        connection.taken(sent)
        connection.active_at = self._monotonic()

    def _settle(self, connection: _Connection) -> None:
        """Ask the kernel for what this connection waits for; close it when it is done."""
        if connection.end is _End.CLOSING and not connection.unsent:
            self._close(connection)
        if connection.end is _End.GONE or connection.descriptor not in self._connections:
            return
        events = select.EPOLLOUT if connection.unsent else 0
        if connection.end is _End.OPEN and not connection.working and len(connection.unsent) < MAX_UNSENT:
            events |= select.EPOLLIN
        if events != connection.events:
            connection.events = events
            self._epoll.modify(connection.descriptor, events)

    def _lost(self, connection: _Connection) -> None:
        """The client is gone. Work under way ends by itself; its mail is the client's again unless it was told."""
        if connection.end is _End.GONE:
            return
        connection.gone()
        if connection.working:
            self._epoll.unregister(connection.descriptor)  # or its hang-up is reported for ever
        else:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.descriptor, None):
            connection.gone()
            connection.socket.close()  # leaves the epoll set by itself
            if self._drain_until is None and not self._accepting and not self._paused_until:
                self._accept_again()

    # Work in threads

    def _work(self, connection: _Connection, task: Task) -> None:
        def send(octets: bytes) -> bool:
            if not connection.promise(len(octets), self._settings.idle_timeout):
                return False
            self._later(lambda: self._send(connection, octets))
            return True

        try:
            finish = task.run(send)
        except BaseException as error:  # noqa: BLE001  # a session never raises; if it does, the client is not left waiting
            self._log.error("session failed", error=f"{type(error).__name__}: {error}")
            self._later(lambda: self._abandon(connection))
            return
        self._later(lambda: self._work_done(connection, finish))

    def _later(self, action: Callable[[], None]) -> None:
        self._finished.append(action)
        self._nudge()

    def _nudge(self) -> None:
        with self._waking:
            if self._wake != -1:
                os.eventfd_write(self._wake, 1)

    def _send(self, connection: _Connection, octets: bytes) -> None:
        if connection.end is not _End.GONE:
            connection.unsent += octets
            self._flush(connection)
            self._settle(connection)

    def _work_done(self, connection: _Connection, finish: Finish) -> None:
        connection.unsent += finish()
        connection.working = False
        connection.active_at = self._monotonic()
        if connection.end is _End.GONE:
            self._close(connection)
        else:
            self._advance(connection)

    def _abandon(self, connection: _Connection) -> None:
        """Hang up without an answer: the client tries again."""
        connection.working = False
        self._close(connection)

    # Time

    def _tick(self) -> None:
        now = self._monotonic()
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
            if self._drain_until is None:
                self._accept_again()
        if self._drain_until is not None and self._accepting:
            self._stop_accepting()
            for connection in list(self._connections.values()):
                self._advance(connection)
        for connection in list(self._connections.values()):
            if not connection.working and now - connection.active_at >= self._settings.idle_timeout:
                self._say_goodbye(connection, self._farewells.idle)

    def _leave_if_draining(self, connection: _Connection) -> None:
        if self._drain_until is not None and connection.conversation.idle and connection.end is _End.OPEN:
            connection.unsent += self._farewells.shut_down
            connection.end = _End.CLOSING

    def _say_goodbye(self, connection: _Connection, octets: bytes) -> None:
        """Without waiting: a client that does not read either is closed on."""
        connection.unsent += octets
        self._flush(connection)
        self._close(connection)

    def _accept_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            for descriptor in self._listeners:
                self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for descriptor in self._listeners:
                self._epoll.unregister(descriptor)
