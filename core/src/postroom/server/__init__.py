"""Processes: a supervisor that owns the sockets, and workers that serve them."""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from postroom.config import Config, SocketAddress


class WorkerKind(enum.StrEnum):
    MILTER = "milter"
    LMTP = "lmtp"
    HANDOVER = "handover"

    def addresses(self, config: Config) -> tuple[SocketAddress, ...]:
        match self:
            case WorkerKind.MILTER:
                return config.milter.listen
            case WorkerKind.LMTP:
                return config.lmtp_listen
            case WorkerKind.HANDOVER:
                return config.handover.listen
            case _:
                assert_never(self)

    def processes(self, config: Config) -> int:
        """How many workers; none where nothing listens."""
        if not self.addresses(config):
            return 0
        match self:
            case WorkerKind.MILTER:
                return config.milter.workers or len(os.sched_getaffinity(0))
            case WorkerKind.LMTP:
                return config.lmtp.workers
            case WorkerKind.HANDOVER:
                return config.handover.workers
            case _:
                assert_never(self)

    @property
    def is_for_everybody(self) -> bool:
        """Whether every user of this host may connect: whom sendmail(1) or a .qmail file runs may be anybody."""
        return self is WorkerKind.HANDOVER


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
    borrowed: bool = False  # the sockets are systemd's, and outlive the server


RunWorker = Callable[[Assignment], None]
