"""The settings of `[handlers.clamav]`, `[handlers.drweb]`, `[handlers.kaspersky]`, and of their contexts."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from postroom.config import Duration, Size, SocketAddress, setting

HANDLERS = ("clamav", "drweb", "kaspersky")
_FIELD_NAME = re.compile(r"X-[A-Za-z0-9-]{1,60}")
_SERVICE = re.compile(r"[!-~]{1,200}")


class Consequence(enum.StrEnum):
    """What becomes of a mail."""

    PASS = "pass"  # noqa: S105  # no password  # goes on as it is
    MARK = "mark"  # goes on, with the header field and the subject tag
    REJECT = "reject"
    QUARANTINE = "quarantine"  # kept, and can be released
    DISCARD = "discard"  # accepted, and gone


class Protocol(enum.StrEnum):
    """How to talk to a server."""

    CLAMD = "clamd"
    ICAP = "icap"


@dataclass(frozen=True)
class AntivirusSettings:
    """What all three have."""

    servers: tuple[SocketAddress, ...] = setting(
        (), help="Scanners in order of preference: `unix:`, `inet:`, `inet6:`."
    )
    max_size: Size = setting(Size(25 << 20), help="A longer mail is not scanned: see `too_large`.", least=1024)
    infected: Consequence = setting(Consequence.REJECT, help="A virus was found: reject, quarantine, discard or mark.")
    suspicious: Consequence = setting(
        Consequence.QUARANTINE, help="What was found is among `suspicious_names`: these four, or pass."
    )
    unscannable: Consequence = setting(
        Consequence.MARK, help="The scanner could not look into all of it: these four, or pass."
    )
    too_large: Consequence = setting(Consequence.MARK, help="Longer than `max_size`, or than the scanner takes.")
    ignored_names: tuple[str, ...] = setting((), help="Patterns of signature names that count as nothing found.")
    unscannable_names: tuple[str, ...] = setting(
        ("Heuristics.Encrypted.*", "Heuristics.Limits.Exceeded*"),
        help="Patterns of signature names that say: not looked into.",
    )
    suspicious_names: tuple[str, ...] = setting(
        ("Heuristics.*", "PUA.*"), help="Patterns of signature names that are no viruses for certain."
    )
    header: str = setting("X-Virus-Status", help="Header field for the result; taken out of mail that brings it along.")
    clean_header: bool = setting(False, help="Write the header field into clean mail, too.", word=True)
    subject_tag: str = setting("", help="Put before the subject of a marked mail, such as `[VIRUS]`.")
    reply: str = setting("Message refused: it contains malicious content", help="Told to who sent a virus.")
    name_in_reply: bool = setting(False, help="Tell the signature's name in replies.", word=True)
    connect_timeout: Duration = setting(Duration(3), help="Longest wait for a connection.", least=0.01, most=60)
    attempt_timeout: Duration = setting(
        Duration(20), help="Longest scan by one server while there is another to ask.", least=0.1, most=3600
    )
    retry_after: Duration = setting(Duration(30), help="How long a server that failed is asked last.", most=3600)

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError('servers is empty: name one, for example ["inet:127.0.0.1:3310"]')
        if self.infected is Consequence.PASS:
            raise ValueError("infected cannot be pass: take mark, or disable the registration")
        if not _FIELD_NAME.fullmatch(self.header):
            raise ValueError(f"header {self.header!r} is no name of an X- field, such as X-Virus-Status")
        if any(ord(character) < 32 for character in self.subject_tag + self.reply):
            raise ValueError("subject_tag and reply are one line each")


@dataclass(frozen=True)
class ClamavSettings(AntivirusSettings):
    servers: tuple[SocketAddress, ...] = setting(
        (SocketAddress("unix", path="/run/clamav/clamd.ctl"),),
        help="clamd's sockets in order of preference: `unix:`, `inet:`, `inet6:`.",
    )
    max_age: Duration = setting(Duration(3 * 86400), help="`doctor` warns of signatures older than this.", least=3600)


@dataclass(frozen=True)
class IcapSettings(AntivirusSettings):
    servers: tuple[SocketAddress, ...] = setting(
        (SocketAddress("inet", "127.0.0.1", 1344),),
        help="Scanners in order of preference: `unix:`, `inet:`, `inet6:`.",
    )
    service: str = setting("respmod", help="ICAP service: what stands after the host in `icap://host/service`.")
    preview: Size = setting(
        Size(0),
        help="ICAP: octets by which the scanner may decide not to look at the rest; 0: it gets all.",
        most=65536,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _SERVICE.fullmatch(self.service):
            raise ValueError(f"service {self.service!r} is no path of an ICAP service, such as respmod")


@dataclass(frozen=True)
class DrwebSettings(IcapSettings):
    protocol: Protocol = setting(Protocol.ICAP, help="icap for Dr.Web ICAPD, clamd for Dr.Web ClamD.")
    max_age: Duration = setting(Duration(3 * 86400), help="`doctor` warns of signatures older than this.", least=3600)


@dataclass(frozen=True)
class KasperskySettings(IcapSettings):
    service: str = setting("resp", help="ICAP service: what stands after the host in `icap://host/service`.")
