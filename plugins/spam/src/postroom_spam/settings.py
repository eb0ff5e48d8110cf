"""The settings of `[handlers.spam]` and of its contexts."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from postroom.config import Duration, Size, SocketAddress, setting
from postroom.mail import is_folder_name

from postroom_spam.engine import EngineKind


class Consequence(enum.StrEnum):
    """What becomes of a mail that is spam."""

    MARK = "mark"  # header fields and subject tag, into the inbox
    JUNK = "junk"  # the same, into the folder
    QUARANTINE = "quarantine"  # kept, and can be released
    DISCARD = "discard"  # accepted, and gone
    REJECT = "reject"  # bounces: see the page


class UserName(enum.StrEnum):
    """Under which name the engine looks for the recipient's preferences."""

    ADDRESS = "address"  # bob@example.org, without a tag
    LOCAL = "local"  # bob
    NONE = "none"  # the engine's own


_DEFAULT_SERVERS = {
    EngineKind.SPAMD: (SocketAddress("inet", "127.0.0.1", 783),),
    EngineKind.RSPAMD: (SocketAddress("inet", "127.0.0.1", 11333),),
}


@dataclass(frozen=True)
class SpamSettings:
    engine: EngineKind = setting(EngineKind.SPAMD, help="spamd (SpamAssassin) or rspamd.")
    servers: tuple[SocketAddress, ...] = setting(
        (), help="In order of preference; none: inet:127.0.0.1:783 for spamd, inet:127.0.0.1:11333 for rspamd."
    )
    controller: SocketAddress = setting(
        SocketAddress("inet", "127.0.0.1", 11334), help="rspamd's controller, for learning and `doctor`."
    )
    password: str = setting("", help="rspamd's password, where it wants one.", secret=True)
    threshold: float = setting(7.0, help="Score from which a mail is spam.", least=-1000, most=1000)
    engine_threshold: bool = setting(
        False,
        help="The engine says what is spam: spamd by the user's `required_score`, rspamd by its action.",
        word=True,
    )
    action: Consequence = setting(
        Consequence.MARK, help="What happens to spam: mark, junk, quarantine, discard, reject."
    )
    high_threshold: float = setting(0.0, help="Score from which `high_action` happens instead; 0: never.", least=0)
    high_action: Consequence = setting(Consequence.DISCARD, help="What happens to certain spam: one of the same.")
    folder: str = setting("Junk", help="Folder of the mailbox for `junk`.")
    tag: str = setting("*****SPAM*****", help="Put before the subject of spam that is delivered; empty: nothing.")
    headers: bool = setting(True, help="Write X-Spam-Flag, X-Spam-Status, X-Spam-Score and X-Spam-Level.")
    report: bool = setting(False, help="Write X-Spam-Report into spam, too: each rule with its points.", word=True)
    max_size: Size = setting(Size(512 << 10), help="A longer mail is not scanned, and says so.", least=1024)
    user: UserName = setting(
        UserName.ADDRESS, help="Whose preferences the engine uses: the recipient's address, local part, or none."
    )
    lists: bool = setting(True, help="White and black lists count: -100 and +100.")
    reply: str = setting("Message refused: it looks like spam", help="Told to the sender with `reject`.")
    connect_timeout: Duration = setting(Duration(5), help="Longest wait for a connection.", least=0.01, most=60)
    attempt_timeout: Duration = setting(
        Duration(20), help="Longest scan by one server while there is another to ask.", least=0.1, most=3600
    )
    retry_after: Duration = setting(Duration(30), help="How long a server that failed is asked last.", most=3600)

    def __post_init__(self) -> None:
        if self.high_threshold and not self.engine_threshold and self.high_threshold < self.threshold:
            raise ValueError(f"high_threshold {self.high_threshold:g} is below threshold {self.threshold:g}")
        if not is_folder_name(self.folder):
            raise ValueError(f"folder {self.folder!r} is no folder name, such as Junk or Junk.Today")
        if any(ord(character) < 32 or ord(character) == 127 for character in self.tag + self.reply):
            raise ValueError("tag and reply are one line each")
        if len(self.tag.encode()) > 100:
            raise ValueError("tag is longer than 100 octets")

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        return self.servers or _DEFAULT_SERVERS[self.engine]

    def required(self, engines_own: float | None) -> float:
        """The threshold in force, given what the engine said."""
        return engines_own if self.engine_threshold and engines_own is not None else self.threshold
