"""A whole mail host for tests: private Postfix, `postroom serve`, a nameserver, a next hop; all on loopback."""

from __future__ import annotations

import contextlib
import grp
import io
import json
import pwd
import random
import re
import shutil
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postroom.cli.main import postroom, run
from postroom.logline import LogLine
from postroom.testing.nameserver import Nameserver
from postroom.testing.ports import free_port
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.processes import wait_until
from postroom.testing.server import PostroomServer
from postroom.testing.sink import SinkServer
from postroom.testing.smtp import Reply, Sent, SmtpClient

STRANGER = "203.0.113.10"
FORGER = "203.0.113.66"


def stranger() -> str:
    """A sender that greylisting has never seen; no digits, since it takes senders that differ in a number for one."""
    return "".join(random.choices(string.ascii_lowercase, k=12)) + "@friend.example"


MAIL = b"From: alice@friend.example\nTo: bob@local.test\nSubject: hello\n\nHello!\n"

ZONE: Mapping[tuple[str, str], Sequence[Any]] = {
    ("friend.example", "TXT"): (b"v=spf1 ip4:203.0.113.10 -all",),
    ("shop.example", "TXT"): (b"v=spf1 ip4:198.51.100.25 -all",),
}


@dataclass
class LiveHost:
    """What a test sends mail through. Programs that it registers write what they saw into `base`."""

    postfix: PostfixInstance
    server: PostroomServer
    sink: SinkServer
    programs: dict[str, Path] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.server.base

    @property
    def engine(self) -> str:
        return str(self.server.settings.get("milter", {}).get("engine", "native"))

    def client(self, address: str = STRANGER, name: str = "mail.friend.example") -> SmtpClient:
        """An SMTP session that Postfix takes for one from that address; "": from this host."""
        smtp = SmtpClient(self.postfix.smtp_port)
        if address:
            smtp.xclient(name, addr=address, name=name)
        else:
            smtp.ehlo(name)
        return smtp

    def send(
        self,
        sender: str = "alice@friend.example",
        recipients: str | Sequence[str] = "bob@local.test",
        mail: bytes = MAIL,
        *,
        client: str = STRANGER,
    ) -> Sent:
        with self.client(client) as smtp:
            return smtp.send(sender, recipients, mail)

    def program(self, name: str, script: str) -> Path:
        """An executable handler in shell; `$OUT` is a directory where it may leave things."""
        out = self.base / f"{name}.out"
        out.mkdir(exist_ok=True)
        out.chmod(0o777)
        path = self.base / name
        path.write_text(f"#!/bin/sh\nOUT={out}\n{script}\n")
        path.chmod(0o755)
        self.programs[name] = out
        return path

    def add_program(self, name: str, stage: str, script: str, *more: str) -> Path:
        """Write and register one, enabled; the directory where it leaves things."""
        path = self.program(name, script)
        self.add(name, stage, "--exec", str(path), *more)
        return self.programs[name]

    def add(self, name: str, stage: str, *more: str) -> None:
        words = [*more] if "--type" in more else ["--type", "global", *more]
        self.command("handlers", "add", name, "--stage", stage, *words, "--enabled")

    def command(self, *arguments: str) -> str:
        """What a command prints, run here: a process of its own costs a second on a busy machine."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = run(postroom, ["--config", str(self.server.config_path), *arguments], "postroom")
        assert status == 0, f"postroom {' '.join(arguments)}: exit status {status}: {printed.getvalue()}"
        return printed.getvalue()

    def clear(self) -> None:
        """No registration is left, no mail anywhere, so that tests can share one host."""
        for name in {row["handler"] for row in json.loads(self.command("handlers", "list", "--json"))}:
            self.command("handlers", "remove", name, "--all")
        self.postfix.clear_queue()
        self.sink.received.clear()
        for path in (self.base / "mail").glob("*/*/Maildir/new/*"):
            path.unlink()

    def calls(self, queue_id: str) -> list[LogLine]:
        """The handler calls for one mail."""
        return [
            line
            for line in self.server.log_lines()
            if line.facts.get("queue_id") == queue_id and " during call " in line.event
        ]

    def wait_status(self, queue_id: str, status: str, limit: float = 60) -> re.Match[str]:
        """Postfix' log line that a delivery of that mail came to `status` (sent, deferred, bounced)."""
        return self.postfix.wait_for_log(rf"{queue_id}: to=.*status={status} (.*)", limit)

    def wait_for(self, path: Path, limit: float = 60) -> Path:
        wait_until(path.exists, f"{path.name} is there", limit)
        return path


@contextlib.contextmanager
def live_host(
    settings: Mapping[str, Mapping[str, Any]] | None = None, *, pipe: bool = False, **postfix: Any
) -> Iterator[LiveHost]:
    """A host; `settings` are laid over its configuration, `postfix` are more of PostfixSettings' fields."""
    reentry_port = free_port()
    with Nameserver(ZONE) as nameserver, SinkServer() as sink:
        tables: dict[str, Mapping[str, Any]] = {
            "dns": {"nameservers": [nameserver.address]},
            "reinject": {"to": f"smtp:127.0.0.1:{reentry_port}"},
            **(settings or {}),
        }
        if pipe:
            tables["server"] = {"group": grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name}  # may use the socket
        with PostroomServer(tables) as server:
            if pipe:
                postfix |= {"pipe": _deliver_command(server), "local": "postroom"}
            postfix_settings = PostfixSettings(
                **{
                    "milters": (server.milter,),
                    "local": server.lmtp,
                    "relay_port": sink.port,
                    "reentry_port": reentry_port,
                    **postfix,
                }
            )
            with PostfixInstance(postfix_settings) as mail_server:
                yield LiveHost(mail_server, server, sink)


def _deliver_command(server: PostroomServer) -> list[str]:
    import postroom.fronts.pipe as pipe

    macros = "-f ${sender} -d ${recipient} --queue-id=${queue_id} --client-address=${client_address}"
    macros += " --client-name=${client_hostname} --client-helo=${client_helo} --sasl-username=${sasl_username}"
    # The system's interpreter, and a copy of the program: what is under root's home is closed to pipe(8)'s user.
    program = server.base / "postroom-deliver.py"
    shutil.copyfile(str(pipe.__file__), program)
    program.chmod(0o644)
    return ["/usr/bin/python3", "-IS", str(program), "--socket", server.lmtp_socket, *macros.split()]


def replies(found: Sequence[Reply]) -> list[int]:
    return [reply.code for reply in found]
