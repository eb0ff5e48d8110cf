# mypy: disable-error-code="empty-body"
"""The contract for handlers, on one page, in the order of a mail's way.

A handler is an installed object (a class instance or a module) found by entry point group `postroom.handlers`; the
entry point's name is the handler's name. Its hooks are plain functions marked with `hookimpl`; they may take fewer
arguments than listed here. They run in threads, several at once: between mails a handler keeps nothing but its store.

What a handler is given: an `Envelope`, a `Message` (postroom.mail), its settings, and `Services`. What it answers: a
`Verdict` (postroom.verdict). No part of the mail server's protocol can be reached from here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import pluggy

from postroom.config import Config, Duration
from postroom.mail import Address, Envelope, Message, TrafficClass
from postroom.registration import OnError, Registration, Stage, Type
from postroom.verdict import Outcome, Verdict

if TYPE_CHECKING:
    import click
    import redis

NAMESPACE = "postroom"
ENTRY_POINT_GROUP = "postroom.handlers"
DIRECTORY_GROUP = "postroom.directories"
"""Entry points of directory services: a `DirectoryFactory` each, chosen by name with `[directory] provider`."""

hookspec = pluggy.HookspecMarker(NAMESPACE)
hookimpl = pluggy.HookimplMarker(NAMESPACE)

T = TypeVar("T")


# What a handler declares of itself


class Need(StrEnum):
    """What a handler has to see; what nobody needs is not asked of the mail server."""

    ENVELOPE = "envelope"
    HEADERS = "headers"
    BODY = "body"  # includes the headers


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a handler acts by default: what `postroom handlers add NAME` registers when nothing else is said."""

    stage: Stage
    type: Type
    priority: int


@dataclass(frozen=True)
class NoSettings:
    """For a handler that has none."""


@dataclass(frozen=True)
class HandlerInfo:
    """A handler's declaration of itself.

    `settings` is a frozen dataclass whose fields are made with `postroom.config.setting`. `exempt` are the traffic
    classes for which the handler is not called unless `[handlers.NAME] exempt` says otherwise. `timeout` is the
    deadline of one call. `edits_message`, `refuses`, `uses_network` tell administrators what the handler may do.
    """

    summary: str
    placements: tuple[Placement, ...]
    settings: type = NoSettings
    needs: Need = Need.ENVELOPE
    on_error: OnError = OnError.DEFER
    exempt: frozenset[TrafficClass] = frozenset()
    timeout: Duration = Duration(20)
    edits_message: bool = False
    refuses: bool = False
    uses_network: bool = False
    stages: frozenset[Stage] = frozenset()  # where it may be registered; empty: where it has a hook


# What handlers leave on a mail for others to read: `services.finding("spf", SenderPolicy)`


@runtime_checkable
class SenderPolicy(Protocol):
    """What `spf` leaves: the result's word of RFC 7208 2.6, and the domain that it is about."""

    @property
    def result(self) -> str: ...
    @property
    def domain(self) -> str: ...


# What the core lends to a handler


class Clock(Protocol):
    """Time; the tests bring their own."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


class Unavailable(Exception):
    """Something that a handler needs is out of use for now: what and why, in one line. A hook lets it through, or
    raises one of its own: `on_error` decides, and the log gets that line without a trace.

    `of_this_mail`: what is needed works, and gave up on this one mail. To the circuit breaker that is no failure: five
    mails that nobody can scan shall not let the sixth pass unscanned.
    """

    of_this_mail = False


class LookupFailed(Unavailable):
    """DNS gave no answer in time, or a server failure: try again later. Never raised for "there is none"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What DNS said. `records`: str for A, AAAA, PTR, CNAME and NS; (preference, name) for MX; bytes for TXT and SPF,
    the strings of one record joined (RFC 7208 3.3). No records and `exists` false: NXDOMAIN.
    """

    records: tuple[Any, ...] = ()
    exists: bool = True
    ttl: float = 0.0
    authenticated: bool = False  # the resolver said AD (RFC 4035 3.2.3)


class Resolver(Protocol):
    def lookup(self, name: str, kind: str, timeout: float | None = None) -> Answer:
        """Records of that kind, cached, following CNAMEs. LookupFailed when there is no answer in `timeout` seconds."""


class StateUnavailable(Unavailable):
    """The state store cannot be reached or used: what, why, and the remedy, in one line; never a password."""

    exit_status = 75  # EX_TEMPFAIL, where it ends a command


class StateStore(Protocol):
    """Where handlers keep what has to outlive a mail. Redis when configured, else SQLite files of this host."""

    @property
    def redis(self) -> redis.Redis | None:
        """A client with a bounded pool and time limits, shared by the worker's threads; None when not configured."""

    @property
    def prefix(self) -> str:
        """What every key in Redis begins with. In a cluster, keys used together share one `{hash tag}`."""

    def database(self, name: str) -> sqlite3.Connection:
        """This thread's connection to the SQLite file of that name (WAL, autocommit, bounded wait for locks)."""


class DirectoryUnavailable(Unavailable):
    """The directory cannot be asked, in one line with the remedy: the answer is *temporary*, never "unknown user"."""

    exit_status = 75  # EX_TEMPFAIL, where it ends a command


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One of our own mailboxes. `quota`, `used` and `message_limit` are octets; None: unlimited, unknown.

    `languages` are the owner's, the best liked first. A mailbox that is not `enabled` takes no mail. `next_hop`: who
    has its mail after before-local instead of a Maildir, a list manager for instance: `lmtp:` and a socket, or
    `command`, which is `[delivery] list_command`.
    """

    address: Address
    maildir: str = ""
    quota: int | None = None
    used: int | None = None
    languages: tuple[str, ...] = ()
    message_limit: int | None = None
    enabled: bool = True
    next_hop: str = ""


class Directory(Protocol):
    """Who is ours. Every question may raise DirectoryUnavailable; whoever asks lets it pass, or answers *temporary*."""

    @property
    def authoritative(self) -> bool:
        """Whether `mailbox` knows every mailbox: then what it does not know is not there, whatever is on the disk."""

    def is_local(self, address: Address) -> bool | None:
        """Whether we are the last hop for the address; None: nobody told us."""

    def mailbox(self, address: Address) -> Mailbox | None:
        """The mailbox, tag (`user+tag@d`) taken off; None: there is none, or nobody told us."""

    def expand(self, address: Address) -> tuple[Address, ...]:
        """Where mail for the address ends up, through aliases and forwards; itself when it is nothing but itself."""

    def mailboxes(self) -> Iterator[Mailbox]:
        """All mailboxes, for commands."""


@runtime_checkable
class MapSource(Protocol):
    """A directory that can write down all it knows, for servers that read files (`postroom restore`)."""

    def maps(self) -> Mapping[str, Mapping[str, str]]:
        """Postfix' maps by file: `virtual_domains`, `vmailbox`, `virtual`, and others of the reference where known."""

    def logins(self) -> str:
        """A passwd-file of Dovecot: who may log in, and the hashes."""


class DirectoryFactory(Protocol):
    """What an entry point of group `postroom.directories` names. It connects to nothing: a database may be down."""

    def __call__(self, config: Config) -> Directory:
        """ConfigError when `[directory]` makes no sense."""


class Reinjector(Protocol):
    """Hands a new mail to the mail server. The stage whose handler sent it does not see it again."""

    def submit(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        """Return only when the mail server has taken it; OSError when it has not."""


class Logger(Protocol):
    """structlog's bound logger: an event in words, then key=value pairs."""

    def debug(self, event: str, **facts: Any) -> Any: ...
    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...
    def error(self, event: str, **facts: Any) -> Any: ...


class Services(Protocol):
    """What the core lends for one call."""

    # Properties, because nobody sets them: whoever lends a finer type conforms too.

    @property
    def config(self) -> Config: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def dns(self) -> Resolver: ...

    @property
    def state(self) -> StateStore: ...

    @property
    def directory(self) -> Directory: ...

    @property
    def reinject(self) -> Reinjector: ...

    @property
    def log(self) -> Logger:
        """Bound to queue id, handler and stage."""

    def deadline(self) -> float:
        """Seconds left for this call; use it as the time limit of everything that waits."""

    def finding(self, handler: str, kind: type[T]) -> T | None:
        """What another handler left on this mail, when it did and it is of that type."""


class FindingLevel(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of `postroom doctor`: what was looked at, what was found, and the remedy when it is not well."""

    level: FindingLevel
    subject: str
    text: str
    remedy: str = ""


class CommandEnvironment(Protocol):
    """What `commands()` finds in `click.Context.obj`."""

    config: Config
    as_json: bool

    def services(self, handler: str) -> Services: ...

    def settings(self, handler: str) -> Any:
        """The handler's `[handlers.NAME]` table as its settings type."""

    def registrations(self, handler: str) -> Sequence[Registration]: ...

    def register(self, registration: Registration) -> bool:
        """Register and enable it; where one with its key is registered, enable that. False: nothing had to change."""

    def unregister(self, registration: Registration) -> bool:
        """Remove the one with its key; False: there is none."""

    def show(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        """A table on a terminal, aligned text in a pipe, a list of objects with --json."""

    def fail(self, message: str, status: int = 1) -> Any:
        """End the command with one line on stderr."""


# What an observer is told


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that was made, for the log and observers. `consequence`: what a failure came to."""

    handler: str
    stage: Stage
    verdict: Verdict
    seconds: float
    registration: Registration
    generation: int
    recipients: tuple[Address, ...]
    shadow: bool = False
    error: str = ""
    consequence: str = ""


@dataclass(frozen=True)
class MailRecord:
    """One mail at one stage, when all calls are done."""

    stage: Stage
    envelope: Envelope
    outcome: Outcome
    calls: tuple[CallRecord, ...] = field(default=())


class HandlerHooks:
    """Every hook there is.

    A plugin with `describe` and a hook of a stage is a handler. One with neither is an observer (`after_call`,
    `after_mail`) or, with `commands` or `diagnose` alone, an extension: a service that brings its command line and is
    looked at by `postroom doctor`, and never sees a mail. An extension has no settings: `settings` is None.
    """

    @hookspec
    def describe(self) -> HandlerInfo:
        """Once, when the plugin is loaded."""

    @hookspec
    def start(self, services: Services) -> None:
        """Once in each worker process, before the first mail."""

    @hookspec
    def before_data(self, envelope: Envelope, settings: Any, services: Services) -> Verdict:
        """All recipients are known (or, when the host answers at RCPT, this one), and nothing of the mail."""

    @hookspec
    def before_queue(self, envelope: Envelope, message: Message, settings: Any, services: Services) -> Verdict:
        """The mail has arrived and the mail server has not yet taken responsibility for it."""

    @hookspec
    def before_local(self, envelope: Envelope, message: Message, settings: Any, services: Services) -> Verdict:
        """The mail is about to be put into one mailbox: the envelope has exactly one recipient."""

    @hookspec
    def before_remote(self, envelope: Envelope, message: Message, settings: Any, services: Services) -> Verdict:
        """The mail is about to leave for somebody else's host."""

    @hookspec
    def after_call(self, record: CallRecord) -> None:
        """For observers: one call was made. An exception is logged and changes nothing."""

    @hookspec
    def after_mail(self, record: MailRecord) -> None:
        """For observers: all calls of one stage of one mail are done."""

    @hookspec
    def commands(self) -> click.Command | None:
        """What becomes `postroom NAME …`; `click.Context.obj` is a CommandEnvironment."""

    @hookspec
    def diagnose(self, settings: Any, services: Services) -> Iterable[Diagnosis]:
        """For `postroom doctor`: is what this handler needs there, and well?"""

    @hookspec
    def stop(self) -> None:
        """Once in each worker process, after the last mail."""


STAGE_HOOKS: Mapping[Stage, str] = {
    Stage.BEFORE_DATA: "before_data",
    Stage.BEFORE_QUEUE: "before_queue",
    Stage.BEFORE_LOCAL: "before_local",
    Stage.BEFORE_REMOTE: "before_remote",
}
