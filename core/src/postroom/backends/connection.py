"""A connection to a server that waits no longer than it may, whatever the server sends and however slowly."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from postroom.backends.deadline import Deadline
from postroom.backends.octets import PIECE, pieces
from postroom.backends.trouble import LATE, BackendClosed, BackendLate, BackendTrouble
from postroom.config import SocketAddress


class Connection:
    """One deadline for all that is sent and read; for a with statement. Raises BackendTrouble and nothing else.

    A server may answer and hang up while it is still being sent to. So sending never fails for that: what had come
    before can be read, and reading says how it ended.
    """

    def __init__(self, address: SocketAddress, deadline: Deadline, connect_timeout: float) -> None:
        self._deadline = deadline
        self._buffer = bytearray()
        self._heard = False  # anything at all
        self._ended = False  # nothing more will come
        self._reset = False  # and what came may not be all that it said
        self._socket = _connect(address, deadline, connect_timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def ended(self) -> bool:
        """Whether the server's end of what it says has been seen."""
        return self._ended

    def send(self, octets: bytes) -> bool:
        """Whether all of it went; False when the other side has hung up, perhaps after an answer."""
        try:
            self._socket.settimeout(self._deadline.left(LATE))
            self._socket.sendall(octets)
        except BrokenPipeError:
            return False
        except ConnectionResetError:
            self._reset = True  # the kernel tells it once: the next read would look like an orderly end
            return False
        except OSError as error:
            raise _trouble(error) from None
        return True

    def send_all(self, chunks: Iterable[bytes]) -> bool:
        """As `send`; ends with the first chunk that does not go."""
        return all(self.send(piece) for piece in pieces(chunks))

    def end_sending(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already: what it had to say can still be read

    def has_answer(self) -> bool:
        """Whether something can be read; never waits."""
        if self._buffer:
            return True
        try:
            self._socket.settimeout(0)
            return self._take()
        except BlockingIOError:
            return False

    def line(self, limit: int) -> bytes:
        """One line without its end; with a CR there, it has at most `limit` octets."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > limit:
                raise BackendTrouble("sent a line that does not end")
            if not self._fill():
                raise self.closed()
        if end > limit:
            raise BackendTrouble("sent a line that is too long")
        return self._cut(end + 1)[:-1].removesuffix(b"\r")

    def some(self, limit: int) -> bytes:
        """At least one octet, at most `limit`; none at an orderly end."""
        if not self._buffer and not self._fill():
            if self._reset:
                raise self.closed()
            return b""
        return self._cut(limit)

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._fill():
                raise self.closed()
        return self._cut(count)

    def rest(self, limit: int) -> bytes:
        """All up to an orderly end, at most `limit` octets."""
        while len(self._buffer) <= limit:
            if not self._fill():
                if self._reset:
                    raise self.closed()
                return self._cut(limit)
        raise BackendTrouble("sent an answer that does not end")

    def closed(self) -> BackendClosed:
        """To be raised where more had to come."""
        within = "within its answer" if self._heard else "without an answer"
        return BackendClosed(f"closed the connection {within}")

    def _cut(self, count: int) -> bytes:
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def _fill(self) -> bool:
        self._socket.settimeout(self._deadline.left(LATE))
        return self._take()

    def _take(self) -> bool:
        """Whether there was more to read."""
        if self._ended:
            return False
        try:
            octets = self._socket.recv(PIECE)
        except BlockingIOError:
            raise
        except ConnectionResetError:
            octets, self._reset = b"", True
        except OSError as error:
            raise _trouble(error) from None
        self._buffer += octets
        self._heard = self._heard or bool(octets)
        self._ended = not octets
        return bool(octets)


def _connect(address: SocketAddress, deadline: Deadline, longest: float) -> socket.socket:
    """To the first of the address's places that answers; `longest`: seconds for each of them."""
    if address.family == "unix":
        return _connect_to(socket.AF_UNIX, address.path, deadline.at_most(longest))
    trouble = BackendTrouble("the name has no address")
    for family, place in _places(address):
        try:
            connected = _connect_to(family, place, deadline.at_most(longest))
        except BackendTrouble as error:
            trouble = error
            continue
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small writes, then a wait for the answer
        return connected
    raise trouble


def _places(address: SocketAddress) -> list[tuple[int, tuple[str | int | bytes, ...]]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a label is empty, or too long
        problem = error.strerror if isinstance(error, socket.gaierror) else "it is no name of a host"
        raise BackendTrouble(f"the name cannot be resolved: {problem}") from None
    return [(family, place) for family, _, _, _, place in found]


def _connect_to(family: int, place: str | tuple[str | int | bytes, ...], deadline: Deadline) -> socket.socket:
    seconds = deadline.left("does not take the connection")
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        connected.connect(place)
    except TimeoutError:
        connected.close()
        raise BackendLate("does not take the connection") from None
    except OSError as error:
        connected.close()
        raise BackendTrouble(f"cannot be reached: {error.strerror or error}") from None
    return connected


def _trouble(error: OSError) -> BackendTrouble:
    return BackendLate(LATE) if isinstance(error, TimeoutError) else BackendTrouble(error.strerror or str(error))
