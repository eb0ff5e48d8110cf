"""Puts hand-overs into the common loop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from postroom.config import Config
from postroom.fronts.conversation import Farewells, Finish, HangUp, Peer, Send, SendNow, Task
from postroom.fronts.handover.protocol import HandoverProtocol, Limits, Request
from postroom.fronts.handover.session import HandoverSession, busy
from postroom.fronts.handover.wire import WireError
from postroom.fronts.loop import Engine
from postroom.hookspecs import Logger

_BUSY = busy()
_FAREWELLS = Farewells(shut_down=_BUSY, idle=b"", full=_BUSY)

MakeSession = Callable[[Peer], HandoverSession]


class HandoverConversation:
    """One connection: one mail, one answer, and it is closed."""

    def __init__(self, protocol: HandoverProtocol, session: HandoverSession, log: Logger) -> None:
        self._protocol, self._session, self._log = protocol, session, log
        self._answered = False

    @property
    def idle(self) -> bool:
        return not self._protocol.begun

    def greeting(self) -> bytes:
        return b""

    def receive(self, octets: bytes) -> None:
        if not self._answered:
            self._protocol.receive(octets)

    def step(self) -> Send | HangUp | Task | None:
        if self._answered:
            return HangUp(b"")
        try:
            request = self._protocol.request()
        except WireError as error:
            self._log.warning("hand-over makes no sense", error=str(error))
            self._answered = True
            return HangUp(b"")
        if request is None:
            return None
        self._answered = True
        return Task(lambda send: self._work(request, send))

    def _work(self, request: Request, send: SendNow) -> Finish:
        self._session.answer(request, send)
        return lambda: b""


class HandoverEngine(Engine):
    """`listeners` are listening, non-blocking unix sockets, perhaps shared with other processes."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_session: MakeSession,
        config: Config,
        log: Logger,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = Limits(int(config.handover.max_message), config.handover.max_recipients)

        def converse(peer: Peer) -> HandoverConversation:
            return HandoverConversation(HandoverProtocol(limits), make_session(peer), log)

        super().__init__(listeners, converse, config.handover, _FAREWELLS, log, monotonic)
