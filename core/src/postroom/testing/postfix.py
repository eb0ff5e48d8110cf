"""A private Postfix: own configuration, queue, data and log in a temporary directory; nothing under /etc is touched."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from grp import getgrnam
from typing import Any, Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import Child, need_program, temporary_directory, wait_until

# Every macro of a session that handlers may ask for (milter_*_macros replace Postfix' own short lists).
_SESSION_MACROS = "{client_addr} {client_name} {client_port} {client_ptr} {client_resolve}"

_MASTER = """\
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

# What postfix-script would make on the first start: name, owner, group, mode.
_MAIL_DIRECTORIES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming")
_QUEUE_DIRECTORIES = (
    *((name, "postfix", "root", 0o700) for name in (*_MAIL_DIRECTORIES, "private", "saved", "trace")),
    ("pid", "root", "root", 0o755),
    ("public", "postfix", "postdrop", 0o710),
    ("maildrop", "postfix", "postdrop", 0o730),
)


@dataclass(frozen=True)
class PostfixSettings:
    """How the private Postfix differs from the plain one.

    `domains`: virtual mailbox domains; every address in them exists unless `mailboxes` lists them. `local`: the
    transport that their mail takes, for example `lmtp:unix:/path` or `postroom` with `pipe` set. `relay_port`: where
    mail for other domains goes, on loopback. `pipe`: program and arguments of a pipe transport named `postroom`, run as
    `pipe_user`.
    `main`: more settings of main.cf; `master`: more lines of master.cf. `reentry_port`: SMTP without milters;
    0: any port.
    """

    milters: Sequence[str] = ()
    domains: Sequence[str] = ("local.test",)
    mailboxes: Sequence[str] = ()
    local: str = "discard:"
    relay_port: int | None = None
    pipe: Sequence[str] = ()
    pipe_user: str = "nobody"
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    transports: Mapping[str, str] = field(default_factory=dict)
    host_name: str = "mx.test.example"
    main: Mapping[str, str] = field(default_factory=dict)
    master: Sequence[str] = ()
    reentry_port: int = 0


class PostfixInstance:
    """A running Postfix, for a with statement. Needs root: Postfix itself does.

    Clients on loopback may use XCLIENT to pretend to be another client; SMTP without milters is at `reentry_port`.
    """

    def __init__(self, settings: PostfixSettings | None = None) -> None:
        self.settings = settings or PostfixSettings()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("master", "postfix")
            self.base = stack.enter_context(temporary_directory("postfix"))
            self.etc, self.maillog = self.base / "etc", self.base / "maillog"
            self.smtp_port, self.reentry_port = free_port(), self.settings.reentry_port or free_port()
            self._make_tree()
            self.write_configuration()
            # "-s": master stays our child and in our group instead of becoming an orphan
            self._master = Child([program, "-s", "-c", str(self.etc)], self.base / "master.log")
            stack.callback(self._master.stop)
            self._master.wait_ready(SocketAddress("inet", LOOPBACK, self.reentry_port))  # no milter is asked
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_tree(self) -> None:
        postfix = pwd.getpwnam("postfix")
        for name in ("etc", "spool", "maps", "data"):
            (self.base / name).mkdir(mode=0o755)
        os.chown(self.base / "data", postfix.pw_uid, postfix.pw_gid)
        for name, owner, group, mode in _QUEUE_DIRECTORIES:
            path = self.base / "spool" / name
            path.mkdir()
            os.chown(path, pwd.getpwnam(owner).pw_uid, getgrnam(group).gr_gid)
            path.chmod(mode)

    def write_configuration(self, settings: PostfixSettings | None = None) -> None:
        """main.cf, master.cf and maps; takes effect with `reload` on a running instance."""
        self.settings = settings = settings or self.settings
        main = {**self._main(settings), **settings.main}
        (self.etc / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (self.etc / "master.cf").write_text(
            "\n".join([*self._smtp_services(), _MASTER, *self._master_lines(settings), ""])
        )
        maps = {
            "domains": [(domain, "x") for domain in settings.domains],
            "mailboxes": [
                (address, "x") for address in settings.mailboxes or [f"@{name}" for name in settings.domains]
            ],
            "aliases": [(address, ", ".join(targets)) for address, targets in settings.aliases.items()],
            "transports": list(settings.transports.items()),
        }
        for name, rows in maps.items():
            (self.base / "maps" / name).write_text("".join(f"{key} {value}\n" for key, value in rows))

    def _main(self, settings: PostfixSettings) -> dict[str, str]:
        milters = ", ".join(settings.milters)
        table = f"texthash:{self.base}/maps"
        return {
            "compatibility_level": "3.6",
            "queue_directory": f"{self.base}/spool",
            "data_directory": f"{self.base}/data",
            "maillog_file": str(self.maillog),
            "maillog_file_prefixes": f"/var, /dev/stdout, {self.base}",
            "inet_interfaces": LOOPBACK,
            "inet_protocols": "ipv4",
            "myhostname": settings.host_name,
            "myorigin": "$myhostname",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "local_transport": "error:5.1.1 no local delivery",
            "smtp_host_lookup": "native",
            "smtp_dns_support_level": "disabled",
            "smtpd_peername_lookup": "no",
            "biff": "no",
            "append_dot_mydomain": "no",
            "recipient_delimiter": "+",
            "virtual_mailbox_domains": f"{table}/domains",
            "virtual_mailbox_maps": f"{table}/mailboxes",
            "virtual_alias_maps": f"{table}/aliases",
            "transport_maps": f"{table}/transports",
            "virtual_transport": settings.local,
            "default_transport": f"smtp:[{LOOPBACK}]:{settings.relay_port}" if settings.relay_port else "discard:",
            "postroom_destination_recipient_limit": "1",  # pipe(8) flag D wants one recipient a delivery
            "lmtp_send_xforward_command": "yes",
            "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
            "smtpd_authorized_xclient_hosts": "127.0.0.0/8",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_recipient_limit": "20000",
            "smtpd_milters": milters,
            "non_smtpd_milters": milters,
            "milter_default_action": "tempfail",
            "milter_connect_macros": f"j {{daemon_name}} {{daemon_addr}} {{daemon_port}} v _ {_SESSION_MACROS}",
            "milter_data_macros": f"i {{auth_authen}} {{auth_type}} {{mail_addr}} {_SESSION_MACROS}",
            "milter_end_of_data_macros": f"i {{auth_authen}} {{auth_type}} {_SESSION_MACROS}",
            "queue_run_delay": "300s",
            "minimal_backoff_time": "300s",
        }

    def _smtp_services(self) -> list[str]:
        return [
            f"{LOOPBACK}:{self.smtp_port} inet n - n - - smtpd",
            f"{LOOPBACK}:{self.reentry_port} inet n - n - - smtpd",
            "  -o smtpd_milters= -o syslog_name=postfix/reentry",
        ]

    def _master_lines(self, settings: PostfixSettings) -> list[str]:
        if not settings.pipe:
            return list(settings.master)
        pipe = [
            "postroom unix - n n - - pipe",
            f"  flags=DORhu user={settings.pipe_user} null_sender=",
            f"  argv={' '.join(settings.pipe)}",
        ]
        return [*pipe, *settings.master]

    # What tests do with it

    def log(self) -> str:
        return self.maillog.read_text(errors="replace") if self.maillog.exists() else ""

    def wait_for_log(self, pattern: str, limit: float = 60) -> re.Match[str]:
        """The first match in the log, awaited."""
        wait_until(lambda: re.search(pattern, self.log()) is not None, f"/{pattern}/ in Postfix' log", limit)
        found = re.search(pattern, self.log())
        assert found is not None
        return found

    def queue(self) -> list[dict[str, Any]]:
        """What postqueue -j lists: queue_name, queue_id, sender, recipients, …"""
        return [json.loads(line) for line in self._run("postqueue", "-j").splitlines()]

    def wait_empty(self, limit: float = 60) -> None:
        """Return when no mail is in the queue."""
        wait_until(lambda: not self.queue(), "Postfix' queue is empty", limit)

    def flush(self) -> None:
        """Try all deferred mail now."""
        self._run("postqueue", "-f")

    def reload(self) -> None:
        """As `postfix reload`; idle processes go on for a moment."""
        os.kill(self._master.pid, signal.SIGHUP)

    def postsuper(self, *arguments: str) -> str:
        return self._run("postsuper", *arguments)

    def clear_queue(self) -> None:
        """Delete all mail; again when some was delivered meanwhile, on which postsuper gives up."""

        def is_empty() -> bool:
            try:
                self.postsuper("-d", "ALL")
            except subprocess.CalledProcessError:
                return False
            return not self.queue()

        wait_until(is_empty, "an empty mail queue")

    def sendmail(self, *arguments: str, mail: bytes) -> subprocess.CompletedProcess[bytes]:
        """Submit as a program on the host would; for root only, as the configuration is not the system's."""
        program = shutil.which("sendmail", path="/usr/sbin:/usr/lib") or "sendmail"
        return subprocess.run(
            [program, "-C", str(self.etc), *arguments], input=mail, capture_output=True, check=False, timeout=120
        )

    def _run(self, program: str, *arguments: str) -> str:
        command = [need_program(program, "postfix"), "-c", str(self.etc), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
