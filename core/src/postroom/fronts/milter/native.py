"""The native engine: one epoll loop for the protocol of all connections, a bounded pool of threads for work.

A handler that waits holds up its own mail, nobody else's.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence

from postroom.config import Config
from postroom.fronts.milter.answers import Answer, Work
from postroom.fronts.milter.connection import Connection, PeerGone, Wish
from postroom.fronts.milter.events import HangUp
from postroom.fronts.milter.pool import ThreadPool
from postroom.fronts.milter.session import TEMPORARY, OutOfOrder, Session
from postroom.fronts.milter.wire import Negotiation, WireError
from postroom.hookspecs import Logger

PROGRESS_INTERVAL = 10.0
"""Seconds between two signs of life while work goes on; Postfix waits 30 for a command."""

IDLE_TIMEOUT = 7210.0
"""Seconds a silent mail server is kept: libmilter's own (MI_TIMEOUT); a slow client may make it silent for long."""

HANDSHAKE_TIMEOUT = 30.0
"""Seconds for the negotiation."""

ACCEPTS = 16
"""Connections taken at one wake-up, so that other workers and other connections get their turn."""

ACCEPT_PAUSE = 0.2
"""Seconds without accepting when descriptors or memory have run out."""

TICK = 1.0
"""Seconds between looks at time limits."""

_READ = select.EPOLLIN | select.EPOLLRDHUP
_LISTEN = select.EPOLLIN | getattr(select, "EPOLLEXCLUSIVE", 0)
_MASKS = {Wish.READ: _READ, Wish.WORK: _READ, Wish.WRITE: select.EPOLLOUT, Wish.HANG_UP: select.EPOLLRDHUP}
_GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP

Finished = tuple[Connection, Work, Answer | Negotiation]


class NativeEngine:
    """Serves the listeners, which are shared with other workers, until `drain`."""

    progress_interval = PROGRESS_INTERVAL
    idle_timeout = IDLE_TIMEOUT
    handshake_timeout = HANDSHAKE_TIMEOUT

    def __init__(
        self, listeners: Sequence[socket.socket], make_session: Callable[[], Session], config: Config, log: Logger
    ) -> None:
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._make_session, self._log = make_session, log
        self._most = config.milter.connections
        config.authserv_id  # noqa: B018  # asks the resolver for our name, which the loop must not wait for
        self._pool = ThreadPool(config.milter.threads, "milter-work")
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._connections: dict[int, Connection] = {}
        self._working: set[Connection] = set()
        self._finished: deque[Finished] = deque()
        self._accepting = False
        self._paused_until = 0.0
        self._stop_accepting = False
        self._next_look = 0.0
        self._ends_at: float | None = None
        self._idle_ends_at: float | None = None

    # From other threads and from signal handlers

    def stop_accepting(self) -> None:
        """No new connection; those that are there go on. The listeners stay open: they belong to the caller."""
        self._stop_accepting = True
        self._nudge()

    def _nudge(self) -> None:
        if self._wake < 0:
            return  # the loop has ended
        try:
            os.eventfd_write(self._wake, 1)
        except (OSError, ValueError):
            pass  # it has ended just now

    def drain(self, grace: float, idle: float | None = None) -> None:
        """Stop accepting; `run` returns when the last connection has ended, after `grace` seconds at the latest.

        A connection without a mail in hand is closed after `idle` seconds (none given: `grace`): its SMTP session's
        next mail is answered *temporary* by the mail server then.
        """
        now = time.monotonic()
        self._idle_ends_at = now + (grace if idle is None else min(idle, grace))
        self._ends_at = now + grace
        self.stop_accepting()

    # The loop

    def run(self) -> None:
        for listener in self._listeners.values():
            listener.setblocking(False)  # another worker may have been quicker
        self._epoll.register(self._wake, select.EPOLLIN)
        try:
            while self._ends_at is None or self._connections:
                self._turn()
                if self._ends_at is not None and time.monotonic() >= self._ends_at:
                    break
        finally:
            self._shut()

    def _turn(self) -> None:
        self._watch_listeners()
        events = self._epoll.poll(self._patience(), 256)
        now = time.monotonic()
        for descriptor, event in events:
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif descriptor in self._listeners:
                self._accept(self._listeners[descriptor], now)
            elif connection := self._connections.get(descriptor):
                self._serve(connection, event, now)
        while self._finished:
            self._finish(*self._finished.popleft())
        self._look_at_time(now)

    def _patience(self) -> float:
        now = time.monotonic()
        until = [now + TICK if self._connections else now + 60.0]
        if self._working:
            until.append(min(connection.progress_at for connection in self._working))
        if self._paused_until > now:
            until.append(self._paused_until)
        until += [end for end in (self._ends_at, self._idle_ends_at) if end is not None and end > now]
        return max(0.0, min(until) - now)

    def _watch_listeners(self) -> None:
        wanted = (
            not self._stop_accepting
            and len(self._connections) < self._most
            and (not self._paused_until or time.monotonic() >= self._paused_until)
        )
        if wanted == self._accepting:
            return
        self._accepting = wanted
        for descriptor in self._listeners:
            if wanted:
                self._epoll.register(descriptor, _LISTEN)
            else:
                self._epoll.unregister(descriptor)

    def _accept(self, listener: socket.socket, now: float) -> None:
        for _ in range(min(ACCEPTS, self._most - len(self._connections))):
            if self._stop_accepting:
                return
            try:
                peer, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno == errno.EINVAL:  # the supervisor has shut it down; the mails in hand go on
                    self._epoll.unregister(listener)
                    del self._listeners[listener.fileno()]
                    return
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._log.error("cannot accept a connection for now", error=error.strerror)
                self._paused_until = now + ACCEPT_PAUSE
                return
            peer.setblocking(False)
            if peer.family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(peer, self._make_session(), now)
            self._connections[connection.descriptor] = connection
            connection.watched = _READ
            self._epoll.register(connection.descriptor, _READ)

    def _serve(self, connection: Connection, event: int, now: float) -> None:
        try:
            if event & select.EPOLLIN:
                connection.active = now
                connection.receive()
            elif event & _GONE:
                raise PeerGone
            self._go_on(connection)
        except PeerGone:
            self._close(connection)

    def _go_on(self, connection: Connection) -> None:
        """Answer what has arrived, send, and wait for the right thing."""
        try:
            self._converse(connection)
        except PeerGone:
            raise
        except HangUp:
            self._close(connection)
            return
        except (WireError, OutOfOrder) as error:
            self._log.warning("milter connection closed", error=str(error), kind=type(error).__name__)
            self._close(connection)
            return
        except Exception as error:  # noqa: BLE001  # our own fault: it must not take the other connections down
            self._log.error("milter session failed", error=repr(error), trace=traceback.format_exc())
            self._close(connection)
            return
        self._watch(connection)

    def _converse(self, connection: Connection) -> None:
        while True:
            work = connection.advance()
            if work is not None:
                self._start(connection, work)
            connection.send()
            if not connection.held_back or connection.wish is not Wish.READ:
                return

    def _watch(self, connection: Connection) -> None:
        mask = _MASKS[connection.wish]
        if mask != connection.watched:
            connection.watched = mask
            self._epoll.modify(connection.descriptor, mask)

    # Work

    def _start(self, connection: Connection, work: Work) -> None:
        connection.progress_at = time.monotonic() + self.progress_interval
        self._working.add(connection)
        self._pool.submit(lambda: self._do(connection, work))

    def _do(self, connection: Connection, work: Work) -> None:
        """In a thread of the pool."""
        answer: Answer | Negotiation = TEMPORARY
        try:
            if not work.abandoned:
                answer = work.run()
        except BaseException as error:  # noqa: BLE001  # whatever it was, the mail server gets an answer
            self._log.error("milter work failed", error=repr(error), trace=traceback.format_exc())
        self._finished.append((connection, work, answer))
        self._nudge()

    def _finish(self, connection: Connection, work: Work, answer: Answer | Negotiation) -> None:
        if connection.work is not work or connection not in self._working:
            return  # it was closed meanwhile
        self._working.discard(connection)
        connection.work = None
        connection.answer(answer)
        try:
            connection.send()
            self._go_on(connection)
        except PeerGone:
            self._close(connection)

    # Time

    def _look_at_time(self, now: float) -> None:
        for connection in [each for each in self._working if each.progress_at <= now]:
            connection.progress_at = now + self.progress_interval
            connection.active = now
            connection.progress()
            try:
                connection.send()
                self._watch(connection)
            except PeerGone:
                self._close(connection)
        if now < self._next_look:
            return
        self._next_look = now + TICK
        closing = self._idle_ends_at is not None and now >= self._idle_ends_at
        for connection in list(self._connections.values()):
            limit = self.idle_timeout if connection.negotiated else self.handshake_timeout
            idle = connection.work is None and now - connection.active > limit
            if idle:
                self._log.info("milter connection closed", error="silent for too long")
            if idle or (closing and connection.work is None and not connection.session.mail_in_hand):
                self._close(connection)

    # The end

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.descriptor, None) is None:
            return
        self._working.discard(connection)
        connection.close()  # which takes it out of the epoll set

    def _shut(self) -> None:
        for connection in list(self._connections.values()):
            if connection.session.mail_in_hand:
                self._log.warning("mail in hand given up at the end of the grace period")
            self._close(connection)
        self._pool.close()
        self._epoll.close()
        wake, self._wake = self._wake, -1
        os.close(wake)
