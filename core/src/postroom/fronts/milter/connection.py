"""One connection of the native engine: octets in, a session's answers out, nothing that waits."""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterator

from postroom.fronts.milter.answers import (
    CONTINUE,
    PROGRESS,
    Answer,
    Work,
    encode_answer,
    encode_operation,
)
from postroom.fronts.milter.events import deliver
from postroom.fronts.milter.session import Session
from postroom.fronts.milter.wire import Decoder, Negotiation

RECEIVE = 1 << 17
"""Octets taken from the socket at once: a body packet and some."""

MAX_WAITING_INPUT = 1 << 18
"""Octets held for a peer that talks on while its answer is being worked on; then we stop listening to it."""

OUTPUT_MARK = 1 << 18
"""Octets of output made ahead of a slow reader."""

_CONTINUE = encode_answer(CONTINUE)


class Wish(enum.Enum):
    """What the connection waits for."""

    READ = enum.auto()
    WRITE = enum.auto()  # the peer does not take our answer
    WORK = enum.auto()
    HANG_UP = enum.auto()  # work, and so much input that nothing more is read


class PeerGone(Exception):
    """The mail server closed the connection."""


class Connection:
    """`active` is when the peer was last heard, `progress_at` when it shall be told that work goes on."""

    __slots__ = (
        "_decoder",
        "_output",
        "_over_tcp",
        "_pieces",
        "active",
        "descriptor",
        "held_back",
        "progress_at",
        "session",
        "socket",
        "watched",
        "work",
    )

    def __init__(self, peer: socket.socket, session: Session, now: float) -> None:
        self.socket, self.session, self.active = peer, session, now
        self.descriptor = peer.fileno()
        self._over_tcp = peer.family != socket.AF_UNIX
        self._decoder = Decoder()
        self._output = bytearray()
        self._pieces: Iterator[bytes] | None = None  # an answer that is made while it is sent
        self.work: Work | None = None
        self.held_back = False  # input waits for output to be taken, or for work
        self.progress_at = 0.0
        self.watched = 0  # the engine's event mask for it

    @property
    def negotiated(self) -> bool:
        return self.session.terms is not None

    def receive(self) -> None:
        """Take what is there. PeerGone when nothing ever will be."""
        try:
            octets = self.socket.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            raise PeerGone from None
        if not octets:
            raise PeerGone
        if self._over_tcp:
            # Postfix writes an event that wants no reply and holds back the next one until the first is acknowledged
            # (Nagle); a kernel that saves up its acknowledgements would cost each mail 40 ms. The kernel forgets the
            # option by itself, so it is said each time.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._decoder.feed(octets)

    def advance(self) -> Work | None:
        """Answer whatever has arrived, up to the next work, which the engine starts."""
        decoder, session, output = self._decoder, self.session, self._output
        self.held_back = False
        while True:
            if self.work is not None or self._pieces is not None or len(output) >= OUTPUT_MARK:
                self.held_back = True
                return None
            found = decoder.next()
            if found is None:
                return None
            result = deliver(session, *found)
            if result is None:
                continue
            if result is CONTINUE:
                output += _CONTINUE
            elif isinstance(result, Work):
                self.work = result
                return result
            else:
                self.answer(result)

    def answer(self, answer: Answer | Negotiation) -> None:
        if isinstance(answer, Negotiation):
            self._output += answer.encode()
        elif answer.operations:
            self._pieces = _pieces(answer)
        else:
            self._output += encode_answer(answer)

    def progress(self) -> None:
        self._output += PROGRESS

    def send(self) -> None:
        """Send what the peer takes. PeerGone when it takes nothing any more."""
        output = self._output
        while output or self._pieces is not None:
            while self._pieces is not None and len(output) < OUTPUT_MARK:
                piece = next(self._pieces, None)
                if piece is None:
                    self._pieces = None
                else:
                    output += piece
            try:
                sent = self.socket.send(output)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                raise PeerGone from None
            del output[:sent]

    @property
    def wish(self) -> Wish:
        if self._output or self._pieces is not None:
            return Wish.WRITE
        if self.work is not None:
            return Wish.HANG_UP if self._decoder.buffered > MAX_WAITING_INPUT else Wish.WORK
        return Wish.READ

    def close(self) -> None:
        if self.work is not None:
            self.work.abandon()
        self.socket.close()


def _pieces(answer: Answer) -> Iterator[bytes]:
    for operation in answer.operations:
        yield from encode_operation(operation)
    yield encode_answer(answer)
