"""Free loopback ports for servers that cannot bind port 0 themselves."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
# Below Linux' range for outgoing connections (ip_local_port_range), so that no client takes a port we just found free.
_FIRST, _LAST = 12000, 32000


def free_ports(count: int) -> list[int]:
    """That many TCP ports on which nothing listens, and that nobody else who asked here on this host has got."""
    return list(itertools.islice(filter(_is_ours_and_free, _candidates()), count))


def free_port() -> int:
    return free_ports(1)[0]


def _candidates() -> Iterator[int]:
    source = random.SystemRandom()  # test workers run side by side and must not all begin at one place
    while True:
        yield source.randrange(_FIRST, _LAST)


def _is_ours_and_free(port: int) -> bool:
    return _reserve(port) and _is_free(port)


def _reserve(port: int) -> bool:
    """Until this process ends: some time passes before a server binds the port that it was given."""
    with socket.socket(socket.AF_UNIX) as reservation:
        try:
            reservation.bind(f"\0postroom-testing-port-{port}")  # unix(7): an abstract name goes with its last user
        except OSError:
            return False
        reservation.detach()  # stays open
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
