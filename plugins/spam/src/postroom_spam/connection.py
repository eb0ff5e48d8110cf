"""A connection that waits no longer than it may, whatever the server sends and however slowly."""

from __future__ import annotations

import io
import socket

from postroom.config import SocketAddress

from postroom_spam.engine import Deadline, EngineTrouble


class DeadlineSocket:
    """As much of a socket as http.client wants, with one deadline for all that is sent and read."""

    def __init__(self, opened: socket.socket, deadline: Deadline) -> None:
        self._socket, self._deadline = opened, deadline

    def sendall(self, octets: bytes) -> None:
        self._socket.settimeout(self._deadline.left())
        self._socket.sendall(octets)

    def end_sending(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already: what it had to say can still be read

    def makefile(self, mode: str = "rb") -> io.BufferedReader:  # noqa: ARG002  # http.client asks for "rb" alone
        return io.BufferedReader(_Reader(self._socket.dup(), self._deadline))

    def close(self) -> None:
        self._socket.close()


class _Reader(io.RawIOBase):
    """Has a descriptor of its own: http.client closes the socket before it has read the answer."""

    def __init__(self, opened: socket.socket, deadline: Deadline) -> None:
        self._socket, self._deadline = opened, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed wants Buffer
        self._socket.settimeout(self._deadline.left())
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        self._socket.close()
        super().close()


def connect(address: SocketAddress, deadline: Deadline, longest: float) -> DeadlineSocket:
    """To the first of the address's places that answers; `longest`: seconds for each of them."""
    if address.family == "unix":
        return DeadlineSocket(_connect_to(socket.AF_UNIX, address.path, deadline.at_most(longest)), deadline)
    try:
        places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise EngineTrouble(f"the name cannot be resolved: {error.strerror}") from None
    trouble = EngineTrouble("the name has no address")
    for family, _, _, _, place in places:
        try:
            opened = _connect_to(family, place, deadline.at_most(longest))
        except EngineTrouble as error:
            trouble = error
            continue
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small writes, then a wait for the answer
        return DeadlineSocket(opened, deadline)
    raise trouble


def _connect_to(family: int, place: str | tuple[str | int | bytes, ...], deadline: Deadline) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.settimeout(deadline.left())
        opened.connect(place)
    except TimeoutError:
        opened.close()
        raise EngineTrouble("does not take the connection") from None
    except OSError as error:
        opened.close()
        raise EngineTrouble(f"cannot be reached: {error.strerror or error}") from None
    return opened
