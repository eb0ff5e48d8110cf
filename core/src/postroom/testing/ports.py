"""Free loopback ports for servers that cannot bind port 0 themselves."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
# Below Linux' range for outgoing connections (ip_local_port_range), so that no client takes a port we just found free.
_FIRST, _LAST = 12000, 32000


def free_ports(count: int) -> list[int]:
    """That many different TCP ports on which nothing listens."""
    found: list[int] = []
    for port in _candidates():
        if port not in found and _is_free(port):
            found.append(port)
        if len(found) == count:
            break
    return found


def free_port() -> int:
    return free_ports(1)[0]


def _candidates() -> Iterator[int]:
    source = random.SystemRandom()  # test workers run side by side and must not all begin at one place
    while True:
        yield source.randrange(_FIRST, _LAST)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
