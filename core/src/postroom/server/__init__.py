"""Processes: a supervisor that owns the sockets, and workers that serve them."""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from postroom.config import Config, SocketAddress


class WorkerKind(enum.StrEnum):
    MILTER = "milter"
    LMTP = "lmtp"

    def addresses(self, config: Config) -> tuple[SocketAddress, ...]:
        return config.milter.listen if self is WorkerKind.MILTER else config.lmtp_listen

    def processes(self, config: Config) -> int:
        """How many workers; none where nothing listens."""
        if not self.addresses(config):
            return 0
        if self is WorkerKind.LMTP:
            return config.lmtp.workers
        return config.milter.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Assignment:
    """What the supervisor gives a worker process, right after the fork.

    `lifeline` becomes readable when the supervisor is gone. `ready` is called when mail can be taken.
    """

    kind: WorkerKind
    config: Config
    sockets: Sequence[socket.socket]  # listening, non-blocking, shared with the other workers
    lifeline: int
    ready: Callable[[], None]


RunWorker = Callable[[Assignment], None]
