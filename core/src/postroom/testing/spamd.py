"""A private spamd with the rules that SpamAssassin ships, without network tests and without learning."""

from __future__ import annotations

import os
import pwd
import socket
from contextlib import ExitStack
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, need_program, temporary_directory

# The test string that counts 1000 points (spamassassin's GTUBE rule).
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


class SpamdInstance:
    """A running spamd on loopback, for a with statement. `rules`: more lines of local.cf."""

    user = "debian-spamd"

    def __init__(self, rules: tuple[str, ...] = ()) -> None:
        self.rules = ("dns_available no", "use_bayes 0", "use_razor2 0", "use_pyzor 0", *rules)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("spamd")
            self.base = stack.enter_context(temporary_directory("spamd"))
            self.port = free_port()
            home = self.base / "home"
            home.mkdir()
            account = pwd.getpwnam(self.user)
            os.chown(home, account.pw_uid, account.pw_gid)
            arguments = [program, "-L", "-x", "-u", self.user, "-i", LOOPBACK, "-A", LOOPBACK, "-p", str(self.port)]
            arguments += ["-m", "2", "--min-children=1", "-H", str(home), "-r", str(self.base / "pid"), "-s", "stderr"]
            arguments += [f"--cf={rule}" for rule in self.rules]
            self._child = Child(arguments, self.base / "spamd.log")
            stack.callback(self._child.stop)
            self._child.wait_ready(self.address, limit=60)
            self._child.wait_until(self._pongs, "spamd answers PING", 60)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> SocketAddress:
        return SocketAddress("inet", LOOPBACK, self.port)

    def _pongs(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=10) as connection:
                connection.sendall(b"PING SPAMC/1.5\r\n\r\n")
                return b"PONG" in connection.recv(100)
        except OSError:
            return False
