"""The libmilter engine in a process of its own: it runs once in a process, and its end is tested too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from dialogues.conversation import listen
from dialogues.scripted import World, parse_given


def serve(given: tuple[str, ...], listener: socket.socket) -> None:
    """In the child: until SIGTERM, then drain."""
    from postroom.fronts.milter.libmilter import LibmilterEngine

    world = World(Path("/"))
    for line in given:
        world.add(*parse_given(line))
    engine = LibmilterEngine([listener], world.make_session, world.config, world.log)
    signal.signal(signal.SIGTERM, lambda *_: engine.drain(10.0))
    engine.run()
    os._exit(0)


@contextmanager
def libmilter_process(*given: str) -> Iterator[tuple[int, BaseProcess]]:
    """The port and the process."""
    with listen() as listener:
        # not forked: this process has threads
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(given, listener))
        process.start()
        try:
            yield listener.getsockname()[1], process
        finally:
            process.kill()
            process.join()
