"""The tables of the configuration file, and what may be said in each."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from postroom.config.building import setting
from postroom.config.values import Duration, Network, Size, SocketAddress


@dataclass(frozen=True)
class Paths:
    state: Path = setting(Path("/var/lib/postroom"), help="Databases, quarantine and spool.")
    run: Path = setting(Path("/run/postroom"), help="Sockets and process id.")


@dataclass(frozen=True)
class Host:
    name: str = setting("", help="How this host calls itself; empty: its fully qualified name.")
    authserv_id: str = setting("", help="Our name in Authentication-Results (RFC 8601 2.5); empty: `name`.")
    networks: tuple[Network, ...] = setting(
        (ip_network("127.0.0.0/8"), ip_network("::1/128")), help="Own networks: their mail is of class `local`."
    )
    relays: tuple[Network, ...] = setting((), help="Own gateways: the client before them counts (spf).")
    recipient_delimiter: str = setting("+", help="Separates a tag from a user name; empty: no tags.")
    domains: tuple[str, ...] = setting((), help="Domains whose mailboxes are here, where no directory plugin knows.")
    local_transports: tuple[str, ...] = setting(
        ("local", "virtual", "lmtp", "postroom", "plesk_virtual"),
        help="Transports of the mail server that deliver here: a hint where `domains` is empty.",
    )


@dataclass(frozen=True)
class ServerSettings:
    user: str = setting("", help="Whom to run as when started by root; empty: whoever started it.")
    group: str = setting("", help="Its group, which also gets the unix sockets; empty: the user's own.")
    grace: Duration = setting(Duration(30), help="Stopping: longest wait for the mails in hand.", most=3600)
    reload_grace: Duration = setting(
        Duration(300), help="Reloading: how long connections made before keep their old worker.", most=3600
    )
    housekeeping: Duration = setting(
        Duration(3600), help="How often what is too old is deleted (quarantine, history); 0: not by the server."
    )

    def __post_init__(self) -> None:
        if 0 < self.housekeeping < 1:
            raise ValueError(f"housekeeping {self.housekeeping} is too often: write 1s or more, or 0 for never")


LEAST_HISTORY = Duration(86400)
"""Of the registry: whatever a mail under way began with can still be read."""


@dataclass(frozen=True)
class RegistrySettings:
    url: str = setting(
        "", help="sqlite:///path or postgresql+psycopg://…; empty: a file in the state directory.", secret=True
    )
    timeout: Duration = setting(Duration(5), help="Longest wait for the database.", least=0.1, most=25)
    history: Duration = setting(
        Duration(365 * 86400), help="How far back `diff` and `rollback` reach, at least a day; 0: for ever."
    )

    def __post_init__(self) -> None:
        if 0 < self.history < LEAST_HISTORY:
            raise ValueError(
                f"history {self.history} is less than {LEAST_HISTORY}: mails under way may still ask for it"
            )


@dataclass(frozen=True)
class QuarantineSettings:
    keep: Duration = setting(
        Duration(30 * 86400), help="What was held, and released, longer ago is deleted; 0: nothing ever is."
    )


@dataclass(frozen=True)
class DirectorySettings:
    provider: str = setting(
        "", help="Directory service that knows domains and mailboxes; empty: `[host] domains` and the Maildirs."
    )
    url: str = setting("", help="Its database, where it has one; empty: a file in the state directory.", secret=True)
    timeout: Duration = setting(Duration(5), help="Longest wait for its answer.", least=0.1, most=25)


@dataclass(frozen=True)
class RedisSettings:
    url: str = setting("", help="redis://[user:password@]host:port/db, rediss:// for TLS, unix:///path.", secret=True)
    sentinel: tuple[str, ...] = setting((), help="host:port of each sentinel; then `service` names the master.")
    service: str = setting("", help="Name of the master that the sentinels watch.")
    cluster: bool = setting(False, help="The URL is a node of a Redis Cluster.")
    timeout: Duration = setting(Duration(0.5), help="Longest wait for one answer.", least=0.01, most=20)
    connections: int = setting(16, help="Most connections a worker opens.", least=1, most=1000)
    tls_ca: Path | None = setting(None, help="CA certificates for rediss://; none: the system's.")

    def __post_init__(self) -> None:
        if self.sentinel and not self.service:
            raise ValueError("sentinel needs service, the name of the master that they watch")
        if self.sentinel and self.cluster:
            raise ValueError("sentinel and cluster exclude each other")
        if self.cluster and not self.url:
            raise ValueError("cluster needs url, one node of the cluster")

    @property
    def configured(self) -> bool:
        return bool(self.url or self.sentinel)


class MilterEngine(enum.StrEnum):
    NATIVE = "native"
    LIBMILTER = "libmilter"


class BeforeData(enum.StrEnum):
    DATA = "data"  # one answer at DATA, as in the reference
    RCPT = "rcpt"  # an answer for each recipient at RCPT


@dataclass(frozen=True)
class MilterSettings:
    listen: tuple[SocketAddress, ...] = setting(
        (SocketAddress("inet", "127.0.0.1", 12768),), help="Where the mail server connects."
    )
    workers: int = setting(0, help="Worker processes; 0: one a core.", least=0, most=256)
    threads: int = setting(16, help="Handlers at once in one worker.", least=1, most=1000)
    connections: int = setting(1000, help="Most connections at once in one worker.", least=1, most=100000)
    engine: MilterEngine = setting(MilterEngine.NATIVE, help="native, or libmilter (pymilter, `postroom[libmilter]`).")
    before_data: BeforeData = setting(BeforeData.DATA, help="Answer before-data at DATA or for each RCPT.")
    stage_timeout: Duration = setting(Duration(25), help="All handlers at before-data together.", least=1, most=3600)
    content_timeout: Duration = setting(Duration(270), help="All handlers at end of message.", least=1, most=3600)
    max_message: Size = setting(Size(100 << 20), help="A longer mail is refused by name of this limit.", least=1024)
    max_header: Size = setting(Size(1 << 20), help="A longer header is refused by name of this limit.", least=1024)
    max_recipients: int = setting(10000, help="More recipients are refused for now.", least=1)


@dataclass(frozen=True)
class LmtpSettings:
    listen: tuple[SocketAddress, ...] = setting((), help="Where mail is handed to before-local; none: run/lmtp.sock.")
    workers: int = setting(1, help="Worker processes.", least=1, most=256)
    threads: int = setting(16, help="Deliveries at once in one worker.", least=1, most=1000)
    connections: int = setting(1000, help="Most connections at once in one worker.", least=1, most=100000)
    max_message: Size = setting(Size(100 << 20), help="A longer mail is refused (announced as SIZE).", least=1024)
    max_recipients: int = setting(1000, help="More recipients are refused for now.", least=100)
    handler_timeout: Duration = setting(Duration(240), help="All handlers for one recipient.", least=1, most=3600)
    idle_timeout: Duration = setting(Duration(300), help="A silent client is sent away.", least=1, most=3600)


@dataclass(frozen=True)
class HandoverSettings:
    listen: tuple[SocketAddress, ...] = setting(
        (), help="Unix sockets on which the qmail and sendmail wrappers hand mail over; none: nobody does."
    )
    workers: int = setting(1, help="Worker processes.", least=1, most=256)
    threads: int = setting(16, help="Mails at once in one worker.", least=1, most=1000)
    connections: int = setting(1000, help="Most connections at once in one worker.", least=1, most=100000)
    max_message: Size = setting(Size(100 << 20), help="A longer mail is refused by name of this limit.", least=1024)
    max_recipients: int = setting(10000, help="More recipients are refused for now.", least=1)
    handler_timeout: Duration = setting(Duration(240), help="All handlers for one mail.", least=1, most=3600)
    idle_timeout: Duration = setting(Duration(60), help="A silent client is hung up on.", least=1, most=3600)
    believe: tuple[str, ...] = setting(
        ("qmaild",), help="Users whose processes are believed what they say of the SMTP client; root always is."
    )

    def __post_init__(self) -> None:
        if any(address.family != "unix" for address in self.listen):
            raise ValueError('listen takes unix sockets only, such as "unix:/run/postroom/handover.sock"')


class DeliveryKind(enum.StrEnum):
    MAILDIR = "maildir"
    LMTP = "lmtp"
    COMMAND = "command"


@dataclass(frozen=True)
class DeliverySettings:
    kind: DeliveryKind = setting(DeliveryKind.MAILDIR, help="What happens after before-local.")
    root: Path = setting(Path("/var/qmail/mailnames"), help="Maildirs: ROOT/domain/user/Maildir.")
    create: bool = setting(False, help="Make the Maildir of an unknown user instead of answering 5.1.1.")
    next_hop: SocketAddress | None = setting(None, help='LMTP server for kind = "lmtp".')
    folder_delimiter: str = setting(
        "", help='kind = "lmtp": mail for a folder goes to user+Folder@domain with this delimiter; empty: to the inbox.'
    )
    command: tuple[str, ...] = setting(
        (),
        help='Program and arguments for kind = "command"; {sender}, {recipient}, {user}, {domain}, {queue_id}, '
        "{folder} are filled in.",
    )
    list_command: tuple[str, ...] = setting(
        (), help="Program of the list manager, filled in the same way; for lists that the directory sends to `command`."
    )
    timeout: Duration = setting(Duration(60), help="Longest wait for next hop or command.", least=1, most=900)

    def __post_init__(self) -> None:
        if self.kind is DeliveryKind.LMTP and self.next_hop is None:
            raise ValueError('kind = "lmtp" needs next_hop, for example "unix:/run/dovecot/lmtp"')
        if self.kind is DeliveryKind.COMMAND and not self.command:
            raise ValueError('kind = "command" needs command, for example ["/usr/bin/maildrop", "-d", "{recipient}"]')


@dataclass(frozen=True)
class ReinjectSettings:
    to: str = setting("", help="smtp:host:port, or the absolute path of a sendmail program; empty: /usr/sbin/sendmail.")
    timeout: Duration = setting(Duration(30), help="Longest wait for the mail server.", least=1, most=300)


@dataclass(frozen=True)
class DnsSettings:
    nameservers: tuple[str, ...] = setting((), help="host:port or [v6]:port of each; none: those of /etc/resolv.conf.")
    timeout: Duration = setting(Duration(5), help="Longest wait for one answer, retries included.", least=0.1, most=20)
    cache: int = setting(10000, help="Answers remembered in a worker; 0: none.", least=0, most=1000000)


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class LogSettings:
    format: LogFormat = setting(LogFormat.TEXT, help="text lines, or JSON.")
    level: LogLevel = setting(LogLevel.INFO, help="debug, info, warning or error.")
    target: str = setting("stderr", help="stderr, syslog, or the absolute path of a file.")

    def __post_init__(self) -> None:
        if self.target not in ("stderr", "syslog") and not self.target.startswith("/"):
            raise ValueError(f'target {self.target!r} is neither "stderr" nor "syslog" nor an absolute path')
