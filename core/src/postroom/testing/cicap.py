"""A private c-icap with virus_scan, which asks a private clamd."""

from __future__ import annotations

import os
import pwd
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.clamd import ClamdInstance
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, ProgramMissing, need_program, temporary_directory


class CIcapInstance:
    """A running c-icap, for a with statement: the service `avscan` at `port` on loopback."""

    service = "avscan"

    def __init__(self, clamd: ClamdInstance) -> None:
        self.clamd = clamd

    @property
    def url(self) -> str:
        return f"icap://{LOOPBACK}:{self.port}/{self.service}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("c-icap")
            self.base = stack.enter_context(temporary_directory("c-icap"))
            self.port = free_port()
            account = pwd.getpwnam(self.clamd.user)
            for name in ("run", "scratch"):
                (self.base / name).mkdir()
                os.chown(self.base / name, account.pw_uid, account.pw_gid)
            (self.base / "c-icap.conf").write_text(self._configuration())
            self._child = Child([program, "-N", "-f", str(self.base / "c-icap.conf")], self.base / "output")
            stack.callback(self._child.stop)
            self._child.wait_ready(SocketAddress("inet", LOOPBACK, self.port))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _configuration(self) -> str:
        modules = _modules()
        return f"""\
PidFile {self.base}/run/c-icap.pid
CommandsSocket {self.base}/run/c-icap.ctl
Timeout 60
MaxKeepAliveRequests 100
KeepAliveTimeout 60
StartServers 1
MaxServers 2
MinSpareThreads 2
MaxSpareThreads 10
ThreadsPerChild 10
MaxRequestsPerChild 0
Port {LOOPBACK}:{self.port}
User {self.clamd.user}
Group {self.clamd.user}
ServerAdmin postmaster@test.example
ServerName localhost
TmpDir {self.base}/scratch
MaxMemObject 131072
DebugLevel 1
Pipelining on
ModulesDir {modules}
ServicesDir {modules}
TemplateDir /usr/share/c_icap/templates/
TemplateDefaultLanguage en
LoadMagicFile /etc/c-icap/c-icap.magic
RemoteProxyUsers off
ServerLog {self.base}/run/server.log
AccessLog {self.base}/run/access.log
Service echo srv_echo.so
Module common clamd_mod.so
clamd_mod.ClamdSocket {self.clamd.socket}
Service antivirus_module virus_scan.so
ServiceAlias {self.service} virus_scan?allow204=on&sizelimit=off&mode=simple
virus_scan.DefaultEngine clamd
virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE DOCUMENT GIF JPEG MSOFFICE
virus_scan.SendPercentData 5
virus_scan.StartSendPercentDataAfter 100M
virus_scan.MaxObjectSize 50M
virus_scan.PassOnError off
"""


def _modules() -> Path:
    for found in Path("/usr/lib").glob("*/c_icap/virus_scan.so"):
        return found.parent
    raise ProgramMissing("c-icap's virus_scan.so is not installed: apt-get install libc-icap-mod-virus-scan")
