"""The engine on pymilter and Sendmail's libmilter, for sites that want the reference library (`postroom[libmilter]`).

Debian's libmilter moves a session from thread to thread between callbacks, so nothing of ours runs in its threads
except the session's bookkeeping: registry and handlers are asked in threads of our own.

A refused DATA closes the SMTP session (421 or 521 instead of 451 or 550, the text is the same): libmilter never answers
a second DATA of the same transaction, and a mail server whose default action is *accept* would let that mail pass.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, assert_never

from postroom.config import Config
from postroom.fronts.milter.answers import (
    AddHeader,
    AddTo,
    Answer,
    ChangeHeader,
    Hold,
    InsertHeader,
    Operation,
    RemoveFrom,
    Result,
    SetBody,
    SetSender,
    Verb,
    Work,
    clean_line,
)
from postroom.fronts.milter.pool import ThreadPool
from postroom.fronts.milter.session import TEMPORARY, Session
from postroom.fronts.milter.wire import Actions, Command, Negotiation, Protocol
from postroom.hookspecs import Logger

try:
    import Milter
    import milter
except ImportError as error:
    raise ImportError("the libmilter engine needs pymilter: pip install 'postroom[libmilter]'") from error

PROGRESS_INTERVAL = 10.0
"""Seconds between two signs of life at end of message, the only place where libmilter allows them."""

DRAIN_LOOK = 0.02
"""Seconds between looks at whether libmilter's sessions have ended: it tells nobody."""

_MACROS = {
    Command.CONNECT: ("j", "{client_addr}", "{client_name}", "{client_port}", "{client_ptr}", "{daemon_port}"),
    Command.HELO: ("{tls_version}",),
    Command.MAIL: ("i", "{auth_authen}", "{auth_type}", "{mail_addr}"),
    Command.RCPT: ("i", "{rcpt_addr}", "{rcpt_mailer}"),
    Command.DATA: ("i",),
    Command.END_OF_MESSAGE: ("i",),
}


class EngineRefused(Exception):
    """This interpreter and this libmilter cannot work together; the text says what to do."""


class LibmilterEngine:
    """Serves the listeners until `drain`. libmilter allows one listener and one run in a process."""

    progress_interval = PROGRESS_INTERVAL

    def __init__(
        self, listeners: Sequence[socket.socket], make_session: Callable[[], Session], config: Config, log: Logger
    ) -> None:
        if sys.version_info >= (3, 14):
            raise EngineRefused('libmilter dies under Python 3.14: set engine = "native", or use Python 3.11 to 3.13')
        if len(listeners) != 1:
            raise EngineRefused('libmilter serves one socket: give [milter] one listen address, or engine = "native"')
        self._listener = listeners[0]
        self.make_session, self.log, self._config = make_session, log, config
        self.pool = ThreadPool(config.milter.threads, "milter-work")
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._ends_at: float | None = None
        self._failure: BaseException | None = None

    def stop_accepting(self) -> None:
        """A listener that nobody connects to takes the place of ours."""
        dummy = socket.socket(socket.AF_UNIX)
        dummy.bind("")  # an abstract name of the kernel's choice
        dummy.listen(1)
        dummy.setblocking(False)
        os.dup2(dummy.fileno(), self._accepting.fileno())
        dummy.close()

    def drain(self, grace: float, idle: float | None = None) -> None:
        """As of NativeEngine; sessions that are idle cannot be told apart here."""
        self._ends_at = time.monotonic() + (grace if idle is None else max(grace, idle))
        self._nudge()

    def _nudge(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # it is awake

    def run(self) -> None:
        # our own descriptor for the socket, so that draining does not take the caller's away
        self._accepting = self._listener.dup()
        self._accepting.setblocking(False)
        _engines[:] = [self]
        thread = threading.Thread(target=self._main, name="libmilter", daemon=True)
        thread.start()
        while self._ends_at is None and self._failure is None:
            select.select([self._wake_read], [], [], 60.0)
        if self._failure is not None:
            raise EngineRefused(f"libmilter gave up: {self._failure}")
        self.stop_accepting()
        while time.monotonic() < (self._ends_at or 0.0):
            begun, ended = milter.getdiag()
            if begun == ended:
                break
            select.select([], [], [], DRAIN_LOOK)
        self.pool.close()

    def _main(self) -> None:
        try:
            Milter.factory = _Callbacks
            Milter.set_flags(Milter.CURR_ACTS)
            milter.set_exception_policy(Milter.TEMPFAIL)
            Milter.runmilter("postroom", f"fd:{self._accepting.fileno()}", 7210, rmsock=False)
        except BaseException as error:  # noqa: BLE001  # the main thread tells what it was
            self._failure = error
        self._nudge()


_engines: list[LibmilterEngine] = []
"""libmilter knows one filter a process and calls it without saying whose: this is the one."""


class _Callbacks(Milter.Base):  # type: ignore[misc]  # pymilter ships no types
    """One connection of the mail server."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = _engines[0]
        self._session = self._engine.make_session()
        self._session.inline = False
        self._client: tuple[bytes, int, bytes] = (b"", 0, b"")

    # Events, in the order of a session

    def negotiate(self, options: list[int]) -> int:
        self._actions = options[0]
        offer = Negotiation(6, Actions(options[0] & 0x1FF), Protocol(options[1] & 0x1FFFFF))
        result = self._wait(self._session.negotiate(offer), progress=False)
        if not isinstance(result, Negotiation):
            return int(Milter.REJECT)
        options[:] = [int(result.actions), int(result.protocol), 0, 0]
        self._protocol = options[1]
        for stage, names in result.macros.items():
            if names:
                self._ctx.setsymlist(int(stage), names.decode())
        return int(Milter.CONTINUE)

    def connect(self, hostname: str, family: int, address: Any) -> int:
        port, host = 0, ""
        if family in (socket.AF_INET, socket.AF_INET6) and address:
            host, port = address[0], address[1]
        self._macros(Command.CONNECT)
        return self._event(lambda: self._session.connect(_octets(hostname), port, _octets(host)))

    def hello(self, hostname: str) -> int:
        self._macros(Command.HELO)
        return self._event(lambda: self._session.helo(_octets(hostname)))

    def envfrom_bytes(self, sender: Any, *parameters: Any) -> int:
        self._macros(Command.MAIL)
        return self._event(lambda: self._session.mail([_octets(each) for each in (sender, *parameters)]))

    def envrcpt_bytes(self, recipient: Any, *parameters: Any) -> int:
        self._macros(Command.RCPT)
        return self._event(lambda: self._session.rcpt([_octets(each) for each in (recipient, *parameters)]))

    def data(self) -> int:
        self._macros(Command.DATA)
        return self._event(self._session.data, closes_session=not self._session.submitted_locally)

    def header_bytes(self, name: Any, value: Any) -> int:
        return self._event(lambda: self._session.header(_octets(name), _octets(value)))

    def eoh(self) -> int:
        return self._event(self._session.end_of_header)

    def body(self, chunk: bytes) -> int:
        return self._event(lambda: self._session.body(chunk))

    def eom(self) -> int:
        self._macros(Command.END_OF_MESSAGE)
        return self._event(self._session.end_of_message, progress=True)

    def abort(self) -> int:
        self._session.abort()
        return int(Milter.CONTINUE)

    def close(self) -> int:
        self._session.abort()
        return int(Milter.CONTINUE)

    def unknown(self, command: Any) -> int:  # noqa: ARG002  # whatever it was
        return self._event(self._session.unknown)

    # Between libmilter and the session

    def _macros(self, command: Command) -> None:
        found: dict[bytes, bytes] = {}
        for name in _MACROS[command]:
            try:
                value = self._ctx.getsymval(name)
            except UnicodeDecodeError:  # pymilter decodes strictly
                continue
            if value is not None:
                found[name.encode()] = _octets(value)
        self._session.macros(command, found)

    def _event(self, event: Callable[[], Result], *, progress: bool = False, closes_session: bool = False) -> int:
        try:
            result = self._wait(event(), progress=progress)
            if result is None:
                return int(Milter.NOREPLY)
            assert isinstance(result, Answer)
            return self._give(result, closes_session)
        except Exception as error:  # noqa: BLE001  # what leaves a callback may take the interpreter down
            self._engine.log.error("milter session failed", error=repr(error), trace=traceback.format_exc())
            return int(Milter.TEMPFAIL)

    def _wait(self, result: Result, *, progress: bool) -> Answer | Negotiation | None:
        """The answer; work is done in a thread of our own while this one of libmilter's waits."""
        if not isinstance(result, Work):
            return result
        work, done = result, threading.Event()
        answers: list[Answer | Negotiation] = []

        def do() -> None:
            try:
                answers.append(work.run())
            except BaseException as error:  # noqa: BLE001  # whatever it was, the mail server gets an answer
                self._engine.log.error("milter work failed", error=repr(error), trace=traceback.format_exc())
            done.set()

        self._engine.pool.submit(do)
        while not done.wait(self._engine.progress_interval):
            if progress:
                self._ctx.progress()
        return answers[0] if answers else TEMPORARY

    def _give(self, answer: Answer, closes_session: bool) -> int:
        match answer.verb:
            case Verb.CONTINUE:
                for operation in answer.operations:
                    self._make(operation)
                return int(Milter.CONTINUE)
            case Verb.DISCARD:
                return int(Milter.DISCARD)
            case Verb.REFUSE:
                code = answer.code[0] + "21" if closes_session else answer.code
                lines = [clean_line(line).decode("utf-8", "replace").replace("%", "%%") for line in answer.lines]
                self._ctx.setreply(code, answer.enhanced, *lines)
                return int(Milter.TEMPFAIL if code.startswith("4") else Milter.REJECT)
            case _:
                assert_never(answer.verb)

    def _make(self, operation: Operation) -> None:
        match operation:
            case ChangeHeader(name, instance, value):
                self._ctx.chgheader(_text(name), instance, _text(value) if value else None)
            case InsertHeader(index, name, value):
                self._ctx.addheader(_text(name), _text(value), index)
            case AddHeader(name, value):
                self._ctx.addheader(_text(name), _text(value))
            case SetBody(body):
                if not body.size:
                    self._ctx.replacebody(b"")
                for chunk in body.chunks():
                    self._ctx.replacebody(chunk)
            case SetSender(address):
                self._ctx.chgfrom(f"<{_text(address)}>", None)
            case AddTo(address):
                self._ctx.addrcpt(f"<{_text(address)}>", None)
            case RemoveFrom(address):
                self._ctx.delrcpt(_text(address))
            case Hold(reason):
                self._ctx.quarantine(_text(reason))
            case _:
                assert_never(operation)


def _octets(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    """pymilter takes UTF-8 only: what is none cannot be written back through it."""
    return octets.decode("utf-8")
