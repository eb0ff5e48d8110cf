"""What the tests of local delivery share: a scripted before-local handler, and an LMTP engine on a real socket."""

from __future__ import annotations

import smtplib
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postroom.config import Config, DeliveryKind, DeliverySettings, Host, LmtpSettings, Paths
from postroom.delivery import Delivery, open_delivery
from postroom.fronts.lmtp import LmtpEngine, LmtpParts, session_factory
from postroom.hookspecs import HandlerInfo, Placement, hookimpl
from postroom.mail import Envelope, Message
from postroom.pipeline import Pipeline
from postroom.plugins import Handlers, LoadedHandler, load_plugin
from postroom.quarantine import Quarantine
from postroom.registration import Registration, Selection, Stage, Type
from postroom.services.lend import Lender
from postroom.testing import ManualClock, RecordingLogger, RecordingReinjector, StaticDirectory, StaticResolver
from postroom.verdict import Verdict

Answer = Callable[[Envelope, Message, Any], Verdict]
LOCAL = Stage.BEFORE_LOCAL
MAIL = b"Received: from a by b; now\r\nFrom: alice@sender.test\r\nSubject: hello\r\n\r\nhello\r\n"


class Scripted:
    """A before-local handler that does what the test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo("scripted", (Placement(LOCAL, Type.GLOBAL, 10),))

    @hookimpl
    def before_local(self, envelope: Envelope, message: Message, services: Any) -> Verdict:
        return self.answer(envelope, message, services)


class FixedRegistry:
    """A registry with one row for each handler."""

    local = True

    def __init__(self, *handlers: str) -> None:
        self.rows = tuple(Registration(name, LOCAL, Type.GLOBAL, enabled=True) for name in handlers)
        self.broken = False

    def generation(self) -> int:
        return 1

    def enabled(self) -> frozenset[tuple[str, Stage, str]]:
        return frozenset((row.handler, row.stage, "") for row in self.rows)

    def registered(self) -> frozenset[tuple[str, Stage, str]]:
        return frozenset((row.handler, row.stage, "") for row in self.rows)

    def matching(
        self, keys: Collection[tuple[Type, str]], stages: Collection[Stage], *, include_disabled: bool = False
    ) -> Selection:
        if self.broken:
            raise OSError("no database")
        return Selection(1, self.rows)


@dataclass
class Office:
    """The parts of a worker, on real sockets and a real disk."""

    base: Path
    answer: Answer | None = None
    config: Config = field(default_factory=Config)
    directory: StaticDirectory = field(default_factory=StaticDirectory)
    clock: ManualClock = field(default_factory=ManualClock)
    log: RecordingLogger = field(default_factory=RecordingLogger)
    reinject: RecordingReinjector = field(default_factory=RecordingReinjector)
    delivery: Delivery = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.config == Config():
            self.config = settings(self.base)
        handlers: dict[str, LoadedHandler] = {}
        if self.answer is not None:
            loaded = load_plugin("scripted", Scripted(self.answer), self.config)
            assert isinstance(loaded, LoadedHandler)
            handlers["scripted"] = loaded
        self.registry = FixedRegistry(*handlers)
        lender = Lender(self.config, self.clock, StaticResolver(), None, self.directory, self.reinject)  # type: ignore[arg-type]  # no state
        self.quarantine = Quarantine(self.base / "quarantine", self.clock)
        self.parts = LmtpParts(
            pipeline=Pipeline(self.registry, Handlers(handlers, ()), lender, self.log),
            delivery=self.delivery or open_delivery(self.config, self.directory, self.clock, self.log),
            quarantine=self.quarantine,
            config=self.config,
            clock=self.clock,
            log=self.log,
        )

    def mailbox(self, user: str, domain: str = "local.test") -> Path:
        """An empty Maildir."""
        maildir = self.base / "mail" / domain / user / "Maildir"
        for name in ("tmp", "new", "cur"):
            (maildir / name).mkdir(parents=True, mode=0o700)
        return maildir

    @contextmanager
    def lmtp(self, listening: socket.socket | None = None) -> Iterator[LmtpServer]:
        """A running engine."""
        opened = listening or tcp_listener()
        engine = LmtpEngine([opened], session_factory(self.parts), self.config, self.log)
        thread = threading.Thread(target=engine.run, name="engine")
        thread.start()
        try:
            yield LmtpServer(engine, opened, thread)
        finally:
            engine.drain(5)
            thread.join(20)
            opened.close()
            self.parts.delivery.close()
            assert not thread.is_alive()


@dataclass
class LmtpServer:
    engine: LmtpEngine
    listening: socket.socket
    thread: threading.Thread

    def client(self) -> smtplib.LMTP:
        name = self.listening.getsockname()
        host, port = (name, 0) if isinstance(name, str) else name[:2]
        client = smtplib.LMTP(host, port, timeout=20)
        client.ehlo_or_helo_if_needed()
        return client

    def talk(self) -> Conversation:
        return Conversation(self.listening)


class Conversation:
    """A client that sends exactly the octets that the test says."""

    def __init__(self, listening: socket.socket) -> None:
        self.socket = socket.socket(listening.family, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(listening.getsockname())
        self.file = self.socket.makefile("rb")
        greeting = self.reply()
        if not greeting.startswith("220 "):
            self.__exit__()
            raise AssertionError(f"no greeting but {greeting!r}")

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> str:
        """The last line of the next reply; empty when the server hung up."""
        while True:
            line = self.file.readline().decode()
            if line[3:4] != "-":
                return line.rstrip("\r\n")

    def ask(self, line: bytes) -> str:
        self.send(line + b"\r\n")
        return self.reply()

    def begin(self, *recipients: str) -> list[str]:
        """LHLO, MAIL and RCPT; the answers to RCPT."""
        assert self.ask(b"LHLO client.test").startswith("250 ")
        assert self.ask(b"MAIL FROM:<alice@sender.test>") == "250 2.1.0 OK"
        return [self.ask(f"RCPT TO:<{recipient}>".encode()) for recipient in recipients]


def tcp_listener() -> socket.socket:
    opened = socket.create_server(("127.0.0.1", 0))
    opened.setblocking(False)
    return opened


def unix_listener(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.bind(str(path))
    opened.listen()
    opened.setblocking(False)
    return opened


def settings(base: Path, *, lmtp: LmtpSettings | None = None, **delivery: Any) -> Config:
    """A configuration whose Maildirs are below `base`/mail."""
    (base / "mail").mkdir(exist_ok=True)
    delivery.setdefault("kind", DeliveryKind.MAILDIR)
    return Config(
        paths=Paths(state=base, run=base),
        host=Host(name="mx.local.test"),
        lmtp=lmtp or LmtpSettings(),
        delivery=DeliverySettings(root=base / "mail", **delivery),
    )


def mails(maildir: Path) -> list[bytes]:
    """What is in new/."""
    return [path.read_bytes() for path in sorted((maildir / "new").iterdir())]
