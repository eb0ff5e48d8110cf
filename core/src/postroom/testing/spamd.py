"""A private spamd with the rules that SpamAssassin ships, without network tests and without learning."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, need_program, temporary_directory

# The test string that counts 1000 points (spamassassin's GTUBE rule).
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


class SpamdInstance:
    """A running spamd on loopback, for a with statement. `rules`: more lines of local.cf.

    `preferences`: lines of user_prefs by user. `learns`: it may be told what is spam, and keeps it for each of these
    users. `children`: mails that it scans at once.
    """

    user = "debian-spamd"

    def __init__(
        self,
        rules: tuple[str, ...] = (),
        *,
        preferences: Mapping[str, tuple[str, ...]] | None = None,
        learns: bool = False,
        children: int = 2,
    ) -> None:
        self.preferences, self.learns, self.children = preferences or {}, learns, children
        self.rules = ("dns_available no", f"use_bayes {int(learns)}", "use_razor2 0", "use_pyzor 0", *rules)

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
            if self.preferences:
                self._write_preferences(account)
                arguments.append(f"--virtual-config-dir={self.base}/users/%u")
            if self.learns:
                arguments.append("--allow-tell")
            arguments += [
                "-m",
                str(self.children),
                "--min-children=1",
                "-H",
                str(home),
                "-r",
                str(self.base / "pid"),
                "-s",
                "stderr",
            ]
            arguments += [f"--cf={rule}" for rule in self.rules]
            self._child = Child(arguments, self.base / "spamd.log")
            stack.callback(self._child.stop)
            self._child.wait_ready(self.address)
            self._child.wait_until(self._pongs, "spamd answers PING", 60)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> SocketAddress:
        return SocketAddress("inet", LOOPBACK, self.port)

    def _write_preferences(self, account: pwd.struct_passwd) -> None:
        for user, lines in self.preferences.items():
            place = self.base / "users" / user
            place.mkdir(parents=True)
            (place / "user_prefs").write_text("".join(f"{line}\n" for line in lines))
            os.chown(place, account.pw_uid, account.pw_gid)
        os.chown(self.base / "users", account.pw_uid, account.pw_gid)

    def _pongs(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=10) as connection:
                connection.sendall(b"PING SPAMC/1.5\r\n\r\n")
                return b"PONG" in connection.recv(100)
        except OSError:
            return False
