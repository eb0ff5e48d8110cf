"""A private clamd that knows one virus, EICAR's test file, by signatures of our own."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, need_program, temporary_directory

# The anti-malware test file (eicar.org), joined at run time: no scanner shall find it in this file, compiled or not.
EICAR = b"".join((rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR", b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"))
SIGNATURE = "Test.Eicar"


class ClamdInstance:
    """A running clamd, for a with statement: at `socket` (a path) and at `port` on loopback.

    `alerts`: it tells of what it could not look into; without, as Debian ships it, that is clean. `more`: lines of its
    configuration.
    """

    user = "clamav"

    def __init__(self, *, alerts: bool = True, more: tuple[str, ...] = ()) -> None:
        yes_or_no = "yes" if alerts else "no"
        self._more = (f"AlertExceedsMax {yes_or_no}", f"AlertEncrypted {yes_or_no}", *more)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("clamd", "clamav-daemon")
            base = stack.enter_context(temporary_directory("clamd"))
            self.base, self.port, self.socket = base, free_port(), base / "clamd.sock"
            self.log = base / "clamd.log"
            database = base / "db"
            database.mkdir()
            body = EICAR.hex()
            (database / "local.ndb").write_text(f"{SIGNATURE}:0:*:{body}\n")
            (base / "clamd.conf").write_text(self._configuration())
            account = pwd.getpwnam(self.user)
            for path in (base, database):
                os.chown(path, account.pw_uid, account.pw_gid)
            self._program = program
            self.start()
            stack.callback(lambda: self._child.stop())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Again, after `kill`."""
        self._child = Child([self._program, "--config-file", str(self.base / "clamd.conf")], self.base / "output")
        try:
            self._child.wait_ready(
                SocketAddress("unix", path=str(self.socket)), SocketAddress("inet", LOOPBACK, self.port)
            )
        except BaseException:
            self._child.stop()
            raise

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections, and nothing more."""
        self._child.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        self._child.process.kill()
        self._child.process.wait()

    def _configuration(self) -> str:
        return f"""\
LocalSocket {self.socket}
LocalSocketMode 666
FixStaleSocket yes
TCPSocket {self.port}
TCPAddr {LOOPBACK}
DatabaseDirectory {self.base}/db
PidFile {self.base}/clamd.pid
LogFile {self.log}
LogTime yes
Foreground yes
User {self.user}
ScanMail yes
StreamMaxLength 50M
MaxThreads 4
SelfCheck 3600
ExitOnOOM yes
""" + "".join(f"{line}\n" for line in self._more)
