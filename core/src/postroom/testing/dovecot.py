"""A private Dovecot: LMTP, IMAP, quota status for Postfix and SASL, with accounts of a test's choosing."""

from __future__ import annotations

import os
import pwd
from contextlib import ExitStack
from dataclasses import dataclass
from grp import getgrgid
from pathlib import Path
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_ports
from postroom.testing.processes import Child, need_program, temporary_directory


@dataclass(frozen=True)
class Account:
    """A mailbox. `quota`: a rule such as `*:storage=20K`; empty: one megabyte."""

    address: str
    password: str = "secret"  # noqa: S105  # of a server that lives as long as a test
    quota: str = ""


DEFAULT_ACCOUNTS = (Account("u1@local.test"), Account("u2@local.test", quota="*:storage=20K"))


class DovecotInstance:
    """A running Dovecot, for a with statement. Mail is at `mail/DOMAIN/USER/Maildir` under `base`, owned by `user`.

    `passwd`: a passwd-file of somebody else's that holds the logins, in place of `accounts`.
    """

    def __init__(
        self, accounts: tuple[Account, ...] = DEFAULT_ACCOUNTS, user: str = "nobody", passwd: Path | None = None
    ) -> None:
        self.accounts = accounts
        self.user = user
        self._passwd = passwd

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("dovecot", "dovecot-core dovecot-lmtpd dovecot-imapd")
            self.base = stack.enter_context(temporary_directory("dovecot"))
            self.lmtp_port, self.imap_port, self.quota_port, self.auth_port = free_ports(4)
            self.configuration = self.base / "dovecot.conf"
            account = pwd.getpwnam(self.user)
            for name in ("run", "state", "mail"):
                (self.base / name).mkdir(mode=0o755)
            os.chown(self.base / "mail", account.pw_uid, account.pw_gid)
            if self._passwd is None:
                (self.base / "users").write_text("".join(_passwd_line(entry) for entry in self.accounts))
            self.configuration.write_text(self._configuration(getgrgid(account.pw_gid).gr_name))
            self._child = Child([program, "-F", "-c", str(self.configuration)], self.base / "output")
            stack.callback(self._child.stop)
            ports = (self.lmtp_port, self.imap_port, self.quota_port, self.auth_port)
            self._child.wait_ready(*(SocketAddress("inet", LOOPBACK, port) for port in ports))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def lmtp(self) -> SocketAddress:
        return SocketAddress("inet", LOOPBACK, self.lmtp_port)

    def _configuration(self, group: str) -> str:
        base, passwd = self.base, self._passwd or self.base / "users"
        return f"""\
instance_name = postroom-test
base_dir = {base}/run
state_dir = {base}/state
log_path = {base}/log
info_log_path = {base}/log
auth_verbose = yes
auth_failure_delay = 0
protocols = lmtp imap
listen = {LOOPBACK}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 digest-md5
default_internal_user = dovecot
default_login_user = dovenull
default_internal_group = dovecot
first_valid_uid = 1
first_valid_gid = 1
mail_home = {base}/mail/%d/%n
mail_location = maildir:~/Maildir
mail_plugins = $mail_plugins quota
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {passwd}
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {passwd}
  default_fields = uid={self.user} gid={group} home={base}/mail/%d/%n
}}
plugin {{
  quota = maildir:User quota
  quota_rule = *:storage=1M
  quota_grace = 10%%
  quota_status_success = DUNNO
  quota_status_nouser = DUNNO
  quota_status_overquota = "552 5.2.2 Mailbox is full"
  quota_exceeded_message = Quota exceeded (mailbox for user is full)
}}
service auth {{
  inet_listener {{
    address = {LOOPBACK}
    port = {self.auth_port}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = {LOOPBACK}
    port = {self.lmtp_port}
  }}
  unix_listener lmtp {{
    mode = 0666
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {self.imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service quota-status {{
  executable = quota-status -p postfix
  inet_listener {{
    address = {LOOPBACK}
    port = {self.quota_port}
  }}
  client_limit = 1
}}
lmtp_rcpt_check_quota = yes
protocol lmtp {{
  mail_plugins = $mail_plugins quota
  postmaster_address = postmaster@test.example
  lmtp_save_to_detail_mailbox = no
  recipient_delimiter = +
}}
protocol imap {{
  mail_plugins = $mail_plugins imap_quota
}}
"""


def _passwd_line(account: Account) -> str:
    extra = f"userdb_quota_rule={account.quota}" if account.quota else ""
    return f"{account.address}:{{PLAIN}}{account.password}::::::{extra}\n"
