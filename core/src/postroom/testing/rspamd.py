"""A private rspamd whose DNS is dead, with the modules off that would ask the network."""

from __future__ import annotations

import os
import pwd
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_ports
from postroom.testing.processes import Child, need_program, temporary_directory

_FIRST_START = 90.0  # seconds: it compiles its patterns
_NETWORK_MODULES = (
    "rbl surbl asn fuzzy_check dkim arc dmarc spf mx_check url_redirector phishing greylist ratelimit history_redis"
)


class RspamdInstance:
    """A running rspamd, for a with statement: HTTP at `port`, milter at `milter_port`, controller at `controller_port`.

    `redis_port`: where it keeps what it learns; without one it cannot learn. `password`: of scanner and controller.
    `files`: of its local.d, instead of ours; `options.inc` with a living nameserver, for example. `lua`: rules of the
    test's own.
    """

    user = "_rspamd"

    def __init__(
        self, redis_port: int = 0, password: str = "", files: Mapping[str, str] | None = None, lua: str = ""
    ) -> None:
        self.redis_port, self.password, self._files, self._lua = redis_port, password, files or {}, lua

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("rspamd")
            self.base = stack.enter_context(temporary_directory("rspamd"))
            self.port, self.milter_port, self.controller_port, dead = free_ports(4)
            self._configure(dead)
            arguments = [program, "-f", "-u", self.user, "-g", self.user, "-c", "/etc/rspamd/rspamd.conf"]
            arguments += [f"--var={name}={self.base / 'data'}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
            arguments.append(f"--var=LOCAL_CONFDIR={self.base}")
            self._child = Child(arguments, self.base / "rspamd.log")
            stack.callback(self._child.stop)
            self._child.wait_until(self._pongs, "rspamd answers /ping", _FIRST_START)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> SocketAddress:
        return SocketAddress("inet", LOOPBACK, self.port)

    @property
    def controller(self) -> SocketAddress:
        return SocketAddress("inet", LOOPBACK, self.controller_port)

    def _configure(self, dead: int) -> None:
        account = pwd.getpwnam(self.user)
        (self.base / "data").mkdir()
        os.chown(self.base / "data", account.pw_uid, account.pw_gid)
        files = {
            "worker-normal.inc": f'bind_socket = "{LOOPBACK}:{self.port}"; count = 1;',
            "worker-proxy.inc": f'bind_socket = "{LOOPBACK}:{self.milter_port}"; milter = yes; count = 1;\n'
            'upstream "local" { default = yes; self_scan = yes; }',
            "worker-controller.inc": f'bind_socket = "{LOOPBACK}:{self.controller_port}"; count = 1;',
            "worker-fuzzy.inc": "enabled = false;",
            "options.inc": f'dns {{ nameserver = ["{LOOPBACK}:{dead}"]; timeout = 0.1s; retransmits = 1; }}',
            "logging.inc": 'type = "console"; level = "notice";',
            **{f"{module}.conf": "enabled = false;" for module in _NETWORK_MODULES.split()},
        }
        if self.redis_port:
            files["redis.conf"] = f'servers = "{LOOPBACK}:{self.redis_port}";'
        if self.password:
            files["worker-controller.inc"] += f' password = "{self.password}"; secure_ip = [];'
        (self.base / "local.d").mkdir()
        for name, text in {**files, **self._files}.items():
            (self.base / "local.d" / name).write_text(f"{text}\n")
        (self.base / "rspamd.local.lua").write_text(self._lua)

    def _pongs(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/ping", timeout=5) as answer:
                return bool(answer.read().startswith(b"pong"))
        except (OSError, urllib.error.URLError):
            return False
