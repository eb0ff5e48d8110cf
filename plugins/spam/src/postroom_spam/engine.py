"""What both engines have in common: a mail in, a score out. What a score means is not known here."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from postroom.config import SocketAddress
from postroom.mail import Address, Envelope

if TYPE_CHECKING:
    from postroom.backends.deadline import Deadline
    from postroom.backends.octets import Octets

MAX_SYMBOLS = 200
"""Rules that a report keeps; an engine with more than that at one mail is out of its mind."""
MAX_REPORT = 64 << 10  # characters of a report that are kept


class EngineKind(enum.StrEnum):
    SPAMD = "spamd"  # SpamAssassin, SPAMC protocol
    RSPAMD = "rspamd"  # HTTP


class Lesson(enum.StrEnum):
    """What a mail is to be learnt as."""

    SPAM = "spam"
    HAM = "ham"


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine says of one mail. `required`: the engine's own threshold, for this user, by which `is_spam`.

    rspamd has several: there `required` is the last one, and `is_spam` holds from the first that marks. `text`: for
    people. `unfinished`: why not all rules were tried; the score counts only where it makes the mail spam already.
    `skipped`: why none was, as its administrator wants it.
    """

    score: float
    required: float
    is_spam: bool
    symbols: tuple[str, ...] = ()
    text: str = ""
    unfinished: str = ""
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Whose mail it is: `user` names the preferences; `envelope` is told to engines that want to know."""

    envelope: Envelope
    recipient: Address
    user: str = ""
    with_report: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself."""

    version: str
    facts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Engine(Protocol):
    """One server. Every method keeps to the deadline, and raises BackendTrouble."""

    @property
    def address(self) -> SocketAddress: ...

    def check(self, mail: Octets, question: Question, deadline: Deadline) -> Report: ...

    def learn(self, mail: Octets, lesson: Lesson, user: str, deadline: Deadline) -> bool:
        """Whether it was new."""

    def health(self, deadline: Deadline) -> Health: ...


# The test string of SpamAssassin and rspamd, in two pieces so that our own source is no spam.
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

PROBE = (
    "From: postmaster@probe.invalid\r\nTo: postmaster@probe.invalid\r\nSubject: probe\r\n\r\n" + GTUBE + "\r\n"
).encode()
