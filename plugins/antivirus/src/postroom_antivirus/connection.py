"""A connection to a scanner that waits no longer than it may."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from postroom.config import SocketAddress

from postroom_antivirus.engine import Deadline, EngineTrouble

PIECE = 1 << 16
"""Octets that are sent at once: four times that costs memory, a quarter of it twice the CPU."""


class Connection:
    """Buffered reading, whole sending, limits on both; for a with statement."""

    def __init__(self, address: SocketAddress, deadline: Deadline, connect_timeout: float) -> None:
        self._deadline = deadline
        self._buffer = bytearray()
        self.socket = _connect(address, deadline.at_most(connect_timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> bool:
        """Whether all of it went; False when the other side has closed, perhaps after an answer."""
        self.socket.settimeout(self._deadline.left())
        try:
            self.socket.sendall(octets)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def has_answer(self) -> bool:
        """Whether something can be read; never waits."""
        if self._buffer:
            return True
        self.socket.settimeout(0)
        try:
            return self._take()
        except BlockingIOError:
            return False

    def line(self, limit: int) -> bytes:
        """One line without its end; what is left when the other side closes; EngineTrouble when it is too long."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > limit:
                raise EngineTrouble("sent a line that does not end")
            if not self._fill():
                end = len(self._buffer)
                break
        if end > limit:
            raise EngineTrouble("sent a line that is too long")
        found = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return found.removesuffix(b"\r")

    def some(self, limit: int) -> bytes:
        """At least one octet, at most `limit`; none when the other side has closed."""
        if not self._buffer and not self._fill():
            return b""
        found = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return found

    def end_sending(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already: what it had to say can still be read

    def _fill(self) -> bool:
        self.socket.settimeout(self._deadline.left())
        return self._take()

    def _take(self) -> bool:
        """Whether there was more to read."""
        try:
            octets = self.socket.recv(PIECE)
        except ConnectionResetError:
            return False
        self._buffer += octets
        return bool(octets)


def _connect(address: SocketAddress, deadline: Deadline) -> socket.socket:
    """To the first of the address's places that answers."""
    if address.family == "unix":
        return _connect_to(socket.AF_UNIX, address.path, deadline)
    try:
        places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise EngineTrouble(f"the name cannot be resolved: {error.strerror}") from None
    trouble: Exception = EngineTrouble("the name has no address")
    for family, _, _, _, place in places:
        try:
            connected = _connect_to(family, place, deadline)
        except (EngineTrouble, TimeoutError) as error:
            trouble = error
            continue
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small writes, then a wait for the answer
        return connected
    raise trouble


def _connect_to(family: int, place: str | tuple[str | int | bytes, ...], deadline: Deadline) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.settimeout(deadline.left())
        connected.connect(place)
    except TimeoutError:
        connected.close()
        raise TimeoutError("does not take the connection") from None
    except OSError as error:
        connected.close()
        raise EngineTrouble(f"cannot be reached: {error.strerror or error}") from None
    return connected
