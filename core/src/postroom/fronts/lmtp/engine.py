"""Drives LMTP sessions over sockets: the common loop, with the LMTP protocol in it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import assert_never

from postroom.config import Config
from postroom.delivery.report import Report
from postroom.fronts.conversation import Farewells, Finish, HangUp, Peer, Send, SendNow, Task
from postroom.fronts.lmtp.protocol import CheckRecipient, DeliverMail, Limits, LmtpProtocol
from postroom.fronts.lmtp.session import LmtpSession
from postroom.fronts.loop import Engine
from postroom.hookspecs import Logger

_FAREWELLS = Farewells(
    shut_down=b"421 4.3.2 Server is shutting down\r\n",
    idle=b"421 4.4.2 Idle too long\r\n",
    full=b"421 4.3.2 Too many connections\r\n",
)

MakeSession = Callable[[Peer], LmtpSession]


class LmtpConversation:
    """One connection: its protocol, and the session that does the work."""

    def __init__(self, protocol: LmtpProtocol, session: LmtpSession) -> None:
        self._protocol, self._session = protocol, session
        self.greeting, self.receive = protocol.greeting, protocol.receive

    @property
    def idle(self) -> bool:
        return self._protocol.idle

    def step(self) -> Send | HangUp | Task | None:
        step = self._protocol.step()
        match step:
            case CheckRecipient():
                return Task(lambda _: self._check(step))
            case DeliverMail():
                return Task(lambda send: self._deliver(step, send))
            case Send() | HangUp() | None:
                return step
            case _:
                assert_never(step)

    def _check(self, step: CheckRecipient) -> Finish:
        refusal = self._session.check(step.transaction, step.recipient)
        return lambda: self._protocol.checked(step.recipient, refusal).octets

    def _deliver(self, step: DeliverMail, send: SendNow) -> Finish:
        def answer(report: Report) -> bool:
            return send(report.wire())

        def finish() -> bytes:
            self._protocol.delivered()
            return b""

        self._session.deliver(step.transaction, step.message, answer)
        return finish


class LmtpEngine(Engine):
    """`listeners` are listening, non-blocking sockets, perhaps shared with other processes."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_session: MakeSession,
        config: Config,
        log: Logger,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = Limits(int(config.lmtp.max_message), config.lmtp.max_recipients)

        def converse(peer: Peer) -> LmtpConversation:
            protocol = LmtpProtocol(config.host_name, limits, trusted=peer.trusted)
            return LmtpConversation(protocol, make_session(peer))

        super().__init__(listeners, converse, config.lmtp, _FAREWELLS, log, monotonic)
