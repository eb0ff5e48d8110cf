"""What `postroom demo` starts: a private Postfix, `postroom serve`, a nameserver, and a next hop that keeps mail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postroom.logline import LogLine
from postroom.testing.nameserver import Nameserver
from postroom.testing.ports import free_port
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.server import PostroomServer
from postroom.testing.sink import SinkServer
from postroom.testing.smtp import Reply, Sent, SmtpClient

# Who is who. Addresses are those set aside for documentation (RFC 5737).
FRIEND, FRIEND_ADDRESS = "alice@friend.example", "203.0.113.10"
SHOP, FORGER_ADDRESS = "orders@shop.example", "203.0.113.66"
BOB, CARL, REMOTE = "bob@local.test", "carl@local.test", "dora@elsewhere.example"
GREY_WAIT = 2  # seconds; a real site lets strangers wait for minutes

ZONE = {
    ("friend.example", "TXT"): (b"v=spf1 ip4:203.0.113.10 -all",),
    ("shop.example", "TXT"): (b"v=spf1 ip4:198.51.100.25 -all",),
    ("mail.friend.example", "A"): (FRIEND_ADDRESS,),
}

PROGRAM = """\
#!/bin/sh
# A handler can be any program: the mail comes on stdin, goes out on stdout, and the word on stderr decides.
echo "X-Demo: $POSTROOM_STAGE was here"
cat
echo PASS >&2
"""


@dataclass(frozen=True)
class House:
    """All that runs."""

    postfix: PostfixInstance
    server: PostroomServer
    sink: SinkServer

    def send(self, sender: str, recipient: str, subject: str, client: str = "") -> tuple[list[Reply], Sent]:
        """One mail in a session of its own; `client`: the address Postfix shall take us for (XCLIENT)."""
        mail = f"From: {sender}\nTo: {recipient}\nSubject: {subject}\nDate: Mon, 6 Jan 2025 10:00:00 +0000\n"
        mail += f"Message-ID: <{abs(hash((sender, recipient, subject)))}@demo.example>\n\nHello!\n"
        with SmtpClient(self.postfix.smtp_port) as smtp:
            name = f"mail.{sender.partition('@')[2]}"
            if client:
                smtp.xclient(name, addr=client, name=name)
            else:
                smtp.ehlo(name)
            begin = len(smtp.conversation)
            sent = smtp.send(sender, recipient, mail.encode())
            return smtp.conversation[begin:], sent

    def calls(self, begin: int, sender: str) -> list[LogLine]:
        """The handler calls for that sender's mail that the server logged since `begin`, a number of log lines."""
        lines = self.server.log_lines()[begin:]
        return [line for line in lines if " during call " in line.event and line.facts.get("sender") == sender]


@contextlib.contextmanager
def open_house() -> Iterator[House]:
    """Everything started, and stopped again."""
    reentry_port = free_port()
    with Nameserver(ZONE) as nameserver, SinkServer() as sink:
        settings: dict[str, dict[str, Any]] = {
            "dns": {"nameservers": [nameserver.address]},
            "reinject": {"to": f"smtp:127.0.0.1:{reentry_port}"},
            "handlers": {"grey": {"wait": f"{GREY_WAIT}s"}},
        }
        with PostroomServer(settings, prepare=_register) as server:
            postfix_settings = PostfixSettings(
                milters=(server.milter,),
                local=server.lmtp,
                relay_port=sink.port,
                reentry_port=reentry_port,
            )
            with PostfixInstance(postfix_settings) as postfix:
                yield House(postfix, server, sink)


def _register(server: PostroomServer) -> None:
    """What acts in the demo, said as an administrator would."""
    program = server.base / "demo-program"
    _write_program(program)
    add = ("handlers", "add")
    server.succeed(*add, "grey", "--stage", "before-data", "--type", "recipient", "--address", BOB, "--enabled")
    server.succeed(*add, "spf", "--context", "level=3", "--enabled")
    server.cli(*add, "dk_check", "--stage", "before-queue", "--enabled")  # shown where it is installed
    for stage in ("before-local", "before-remote"):
        server.succeed(*add, "demo-program", "--stage", stage, "--type", "global", "--exec", str(program), "--enabled")


def _write_program(path: Path) -> None:
    path.write_text(PROGRAM)
    path.chmod(0o755)
