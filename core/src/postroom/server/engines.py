"""The front that a worker runs: its session factory, and the engine that drives it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import assert_never

from postroom.config import Config, MilterEngine
from postroom.hookspecs import Logger
from postroom.log import get_logger
from postroom.pipeline import Pipeline
from postroom.server import WorkerKind
from postroom.server.worker import Engine
from postroom.services.clock import SystemClock


def build_engine(kind: WorkerKind, config: Config, pipeline: Pipeline, sockets: Sequence[socket.socket]) -> Engine:
    """Imports only the front that this worker needs."""
    log = get_logger(front=str(kind))
    match kind:
        case WorkerKind.MILTER:
            return _milter(config, pipeline, sockets, log)
        case WorkerKind.LMTP:
            return _lmtp(config, pipeline, sockets, log)
        case WorkerKind.HANDOVER:
            return _handover(config, pipeline, sockets, log)
        case _:
            assert_never(kind)


def _milter(config: Config, pipeline: Pipeline, sockets: Sequence[socket.socket], log: Logger) -> Engine:
    from postroom.fronts.milter.session import Session
    from postroom.quarantine import open_quarantine

    quarantine = open_quarantine(config, SystemClock())

    def make_session() -> Session:
        return Session(pipeline, log, quarantine=quarantine)

    match config.milter.engine:
        case MilterEngine.NATIVE:
            from postroom.fronts.milter.native import NativeEngine

            return NativeEngine(sockets, make_session, config, log)
        case MilterEngine.LIBMILTER:
            from postroom.fronts.milter.libmilter import LibmilterEngine

            return LibmilterEngine(sockets, make_session, config, log)
        case _:
            assert_never(config.milter.engine)


def _lmtp(config: Config, pipeline: Pipeline, sockets: Sequence[socket.socket], log: Logger) -> Engine:
    from postroom.delivery import open_delivery
    from postroom.fronts.lmtp.engine import LmtpEngine
    from postroom.fronts.lmtp.session import LmtpParts, session_factory
    from postroom.quarantine import open_quarantine

    clock = SystemClock()
    delivery = open_delivery(config, pipeline.directory, clock, log)
    parts = LmtpParts(pipeline, delivery, open_quarantine(config, clock), config, clock, log)
    return LmtpEngine(sockets, session_factory(parts), config, log)


def _handover(config: Config, pipeline: Pipeline, sockets: Sequence[socket.socket], log: Logger) -> Engine:
    from postroom.fronts.handover.engine import HandoverEngine
    from postroom.fronts.handover.session import HandoverParts, believed_uids, session_factory
    from postroom.quarantine import open_quarantine

    clock = SystemClock()
    believed = believed_uids(config.handover.believe)
    parts = HandoverParts(pipeline, open_quarantine(config, clock), config, clock, log, believed)
    return HandoverEngine(sockets, session_factory(parts), config, log)
