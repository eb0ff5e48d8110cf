"""One hand-over as a state machine: frames in; a complete request, or what was wrong with it, out. No socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from postroom.fronts.content import ContentReceiver
from postroom.fronts.handover.wire import VERSION, Decoder, Frame, Kind, Role, WireError
from postroom.mail import Message
from postroom.verdict import Action, Reply

MAX_ADDRESS = 2000  # octets; qmail-queue takes 1002
MAX_FACTS = 64
MAX_FACT = 4096  # octets

TOO_BIG = (Action.REJECT, Reply("Message too big for system", "3.4"))
HEADER_TOO_LONG = (Action.REJECT, Reply("Message header too long", "3.4"))
TOO_MANY_RECIPIENTS = (Action.DEFER, Reply("Too many recipients", "5.3"))
NO_SPACE = (Action.DEFER, Reply("Not enough space - try again later", "3.1"))

Refusal = tuple[Action, Reply]


@dataclass(frozen=True, slots=True)
class Limits:
    message: int
    recipients: int


@dataclass(frozen=True)
class Request:
    """What one client handed over. Addresses are raw; `refusal`: it is over a limit, and the rest is not complete."""

    role: Role
    facts: Mapping[str, str]
    sender: bytes
    recipients: tuple[bytes, ...]
    message: Message
    size: int
    refusal: Refusal | None = None


class HandoverProtocol:
    """`receive` octets, then `request` until it is there. WireError: hang up."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = Decoder()
        self._content = ContentReceiver(limits.message)
        self._held = b""  # a CR whose LF may follow
        self._role: Role | None = None
        self._facts: dict[str, str] = {}
        self._sender = b""
        self._recipients: list[bytes] = []
        self._refusal: Refusal | None = None
        self.begun = False

    def receive(self, octets: bytes) -> None:
        self.begun = True
        self._decoder.feed(octets)

    def request(self) -> Request | None:
        """None: more octets are needed."""
        while (frame := self._decoder.next()) is not None:
            if frame.kind is Kind.END:
                return self._complete()
            self._take(frame)
        return None

    def _take(self, frame: Frame) -> None:
        payload = frame.payload
        if (self._role is None) is not (frame.kind is Kind.HELLO):
            raise WireError("HELLO comes first, and once")
        match frame.kind:
            case Kind.HELLO:
                version, _, role = payload.partition(b"\0")
                if version != VERSION:
                    raise WireError(f"version {version[:20]!r}: install the wrappers again")
                try:
                    self._role = Role(role.decode("ascii", "replace"))
                except ValueError:
                    raise WireError(f"no such role: {role[:20]!r}") from None
            case Kind.FACT:
                name, _, value = payload.decode("utf-8", "surrogateescape").partition("=")
                if len(self._facts) >= MAX_FACTS or len(payload) > MAX_FACT:
                    raise WireError("too many facts")
                self._facts[name] = value
            case Kind.SENDER:
                self._sender = _address(payload)
            case Kind.RECIPIENT:
                if len(self._recipients) >= self._limits.recipients:
                    self._refusal = self._refusal or TOO_MANY_RECIPIENTS
                else:
                    self._recipients.append(_address(payload))
            case Kind.MESSAGE:
                self._take_content(payload)
            case _:
                raise WireError(f"{frame.kind.name} is for the other side")

    def _take_content(self, octets: bytes) -> None:
        octets = self._held + octets
        self._held = b"\r" if octets.endswith(b"\r") else b""
        self._content.take(octets[: len(octets) - len(self._held)])

    def _complete(self) -> Request:
        if self._role is None:
            raise WireError("END before HELLO")
        self._content.take(self._held)
        message = self._content.finish()
        content = self._content
        if content.too_big:
            self._refusal = TOO_BIG
        elif content.failed:
            self._refusal = NO_SPACE
        elif content.header_too_long:
            self._refusal = HEADER_TOO_LONG
        return Request(
            self._role, self._facts, self._sender, tuple(self._recipients), message, content.size, self._refusal
        )


def _address(payload: bytes) -> bytes:
    if len(payload) > MAX_ADDRESS or b"\0" in payload:
        raise WireError("no address")
    return payload
