"""What a protocol looks like to the loop that drives it: octets in; replies, and work that may wait, out."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from postroom.config import Duration


@dataclass(frozen=True)
class Peer:
    """Who is connected. `trusted`: on this host. `uid`: whose process it is, where a unix socket tells."""

    trusted: bool
    address: IPv4Address | IPv6Address | None = None
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Send:
    octets: bytes


@dataclass(frozen=True, slots=True)
class HangUp:
    """Send this, then close."""

    octets: bytes


SendNow = Callable[[bytes], bool]
"""For work under way: send this; False when the client is gone. It waits for a client that is slow to read."""

Finish = Callable[[], bytes]
"""Called in the loop when the work is done; returns what else is to be sent."""


@dataclass(frozen=True, slots=True)
class Task:
    """Work that may wait: `run` is called in a worker thread, and what it returns, in the loop."""

    run: Callable[[SendNow], Finish]


@dataclass(frozen=True, slots=True)
class Farewells:
    """What a protocol says to a client that is sent away."""

    shut_down: bytes
    idle: bytes
    full: bytes


class Conversation(Protocol):
    """One client's side of a protocol: octets in; replies, and work for others, out."""

    @property
    def idle(self) -> bool:
        """Whether hanging up now would cost no client a mail in hand."""

    def greeting(self) -> bytes: ...
    def receive(self, octets: bytes) -> None: ...
    def step(self) -> Send | HangUp | Task | None:
        """What to do next; None: more octets are needed."""


class LoopSettings(Protocol):
    """What one worker allows."""

    @property
    def threads(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def idle_timeout(self) -> Duration: ...


MakeConversation = Callable[[Peer], Conversation]


def peer_of(accepted: socket.socket) -> Peer:
    """Who it is. Processes of this host are trusted: they could hand mail in by other ways, too."""
    if accepted.family == socket.AF_UNIX:
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        return Peer(trusted=True, uid=uid)
    address = ip_address(accepted.getpeername()[0].partition("%")[0])
    return Peer(trusted=address.is_loopback, address=address)
