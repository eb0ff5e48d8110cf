"""Load for a milter: N connections bring M mails as Postfix would, and the rate is printed.

    python benchmarks/milter_load.py                              the native engine with nothing enabled, in a process
    python benchmarks/milter_load.py --engine libmilter
    python benchmarks/milter_load.py --to inet:127.0.0.1:12768    a filter that runs already
    python benchmarks/milter_load.py --configurations no-op,header,body,data --connections 8 --mails 20000

Several configurations are run one after the other; the ratio is to the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from postroom.config import Config, MilterSettings, SocketAddress, parse_socket
from postroom.fronts.milter.client import MilterClient
from postroom.fronts.milter.wire import (
    BODY_CHUNK,
    Command,
    Decoder,
    Negotiation,
    Protocol,
    Response,
    encode_connect,
    encode_macros,
    encode_strings,
    packet,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

CONFIGURATIONS = {
    "no-op": (),
    "end": ("before-queue tag global | pass",),
    "data": ("before-data early global | pass",),
    "header": ("before-queue tag global needs=headers | pass | add X-Tag: 1",),
    "body": ("before-queue tag global needs=body | pass | add X-Tag: 1",),
}
FIELDS = 20
BODY = b"All work and no play makes Jack a dull boy.\r\n" * 91  # 4 KB


def serve(listener: socket.socket, engine: str, configuration: str) -> None:
    """The filter's process."""
    from dialogues.scripted import World, parse_given
    from postroom.fronts.milter.native import NativeEngine

    world = World(Path(tempfile.gettempdir()), Config(milter=MilterSettings()))
    for line in CONFIGURATIONS[configuration]:
        world.add(*parse_given(line))
    world.log.info = lambda *_, **__: None  # type: ignore[method-assign]  # a log kept in memory would be measured too
    if engine == "libmilter":
        from postroom.fronts.milter.libmilter import LibmilterEngine

        LibmilterEngine([listener], world.make_session, world.config, world.log).run()
    else:
        NativeEngine([listener], world.make_session, world.config, world.log).run()


def mail_octets(agreed: Negotiation) -> bytes:
    """One mail, as far as it was asked for, up to end of message: made once, so that the client costs little."""
    wants = agreed.protocol
    parts = [encode_macros(Command.MAIL, {b"i": b"4QUEUE1D"}), encode_strings(Command.MAIL, (b"<a@sender.example>",))]
    parts += [encode_macros(Command.RCPT, {b"{rcpt_mailer}": b"lmtp"})]
    parts += [encode_strings(Command.RCPT, (b"<bob@local.test>",))]
    return b"".join([*parts, *_content(wants)])


def _content(wants: Protocol) -> list[bytes]:
    parts: list[bytes] = []
    if Protocol.NO_DATA not in wants:
        parts += [encode_macros(Command.DATA, {b"i": b"4QUEUE1D"}), packet(Command.DATA)]
    if Protocol.NO_HEADERS not in wants:
        for number in range(FIELDS):
            parts.append(encode_macros(Command.HEADER, {}))
            parts.append(encode_strings(Command.HEADER, (b"X-Field-%d" % number, b" some value of a header field")))
    if Protocol.NO_BODY not in wants:
        parts += [packet(Command.BODY, BODY[at : at + BODY_CHUNK]) for at in range(0, len(BODY), BODY_CHUNK)]
    return [*parts, encode_macros(Command.END_OF_MESSAGE, {b"i": b"4QUEUE1D"}), packet(Command.END_OF_MESSAGE)]


@dataclass
class Run:
    """What one configuration came to."""

    mails: int = 0
    seconds: float = 0.0
    connects: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.mails / self.seconds

    @property
    def connect_p99(self) -> float:
        return statistics.quantiles(self.connects, n=100)[98] if len(self.connects) > 1 else self.connects[0]


class Talker:
    """One connection of the load; the answers of one mail are awaited before the next."""

    def __init__(self, address: SocketAddress) -> None:
        started = time.perf_counter()
        self._client = MilterClient.open(address, 30)
        agreed = self._client.negotiate()
        self.connect_seconds = time.perf_counter() - started
        self._client.send(
            encode_macros(Command.CONNECT, {b"{daemon_port}": b"25"})
            + encode_connect(b"client.example", b"4", 40000, b"203.0.113.5")
            + encode_strings(Command.HELO, (b"client.example",))
        )
        self._octets = mail_octets(agreed)
        at_data = Protocol.NO_DATA not in agreed.protocol
        self.socket = self._client._peer
        self._answers, self._left = 1 + at_data, 0
        self._decoder = Decoder()

    def send_mail(self) -> None:
        self._left = self._answers
        self.socket.sendall(self._octets)

    def take(self) -> bool:
        """Whether the mail is done; then the transaction is closed as Postfix does."""
        self._decoder.feed(self.socket.recv(1 << 16))
        while (found := self._decoder.next()) is not None:
            if not Response(found[0]).is_modification:
                self._left -= 1
        if self._left:
            return False
        self.socket.sendall(packet(Command.ABORT))
        return True

    def quit(self) -> None:
        self._client.quit()


def load(address: SocketAddress, connections: int, mails: int) -> Run:
    run = Run()
    talkers = [Talker(address) for _ in range(connections)]
    by_descriptor = {talker.socket.fileno(): talker for talker in talkers}
    run.connects = [talker.connect_seconds for talker in talkers]
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    started, sent = time.perf_counter(), 0
    for talker in talkers:
        talker.send_mail()
        sent += 1
    while run.mails < mails:
        for descriptor, _ in poll.poll(30):
            talker = by_descriptor[descriptor]
            if not talker.take():
                continue
            run.mails += 1
            if sent < mails:
                talker.send_mail()
                sent += 1
            if run.mails % 50 == 0:  # connection set-up under load
                another = Talker(address)
                run.connects.append(another.connect_seconds)
                another.quit()
    run.seconds = time.perf_counter() - started
    for talker in talkers:
        talker.quit()
    poll.close()
    return run


def measure(arguments: argparse.Namespace, configuration: str) -> Run:
    if arguments.to:
        return load(parse_socket(arguments.to), arguments.connections, arguments.mails)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        server = multiprocessing.Process(target=serve, args=(listener, arguments.engine, configuration), daemon=True)
        server.start()
        try:
            host, port = listener.getsockname()
            return load(SocketAddress("inet", host, port), arguments.connections, arguments.mails)
        finally:
            server.kill()
            server.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("native", "libmilter"), default="native")
    parser.add_argument("--to", default="", help="a filter that runs already")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--mails", type=int, default=20000)
    parser.add_argument("--configurations", default="no-op,end,data,header,body")
    arguments = parser.parse_args()
    names = ["as it is"] if arguments.to else arguments.configurations.split(",")
    first = 0.0
    print(f"{'configuration':<14}{'msgs/s':>10}{'connect p99 ms':>16}{'ratio':>8}   {os.cpu_count()} cores")
    for name in names:
        run = measure(arguments, name)
        first = first or run.rate
        print(f"{name:<14}{run.rate:>10.0f}{run.connect_p99 * 1000:>16.1f}{run.rate / first:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
