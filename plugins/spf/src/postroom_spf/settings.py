"""The settings of `[handlers.spf]` and of a registration's context."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from postroom.config import Duration, Network, setting

from postroom_spf.macros import MacroError, expand
from postroom_spf.record import check_rules

MAX_SECONDS = 20  # RFC 7208 4.6.4: a whole check takes no longer


class Level(enum.IntEnum):
    """What a result means for the mail, as in the reference; each level holds those before it."""

    RECORD = 1  # only add the header fields
    DEFER_TROUBLE = 2  # temporary error on DNS trouble
    REJECT_FAIL = 3
    REJECT_SOFTFAIL = 4
    REJECT_NEUTRAL = 5
    REQUIRE_PASS = 6  # reject unless pass


class HeloCheck(enum.StrEnum):
    """When the domain of HELO is checked (RFC 7208 2.3)."""

    NULL_SENDER = "null-sender"  # only where there is no other domain (RFC 7208 2.4)
    ALWAYS = "always"  # first; its `fail` decides


class Authenticated(enum.StrEnum):
    """What happens to a client that logged in, where `exempt` does not already keep it away from here."""

    HEADER = "header"  # it passes with a header field that says so, as in the reference
    CHECK = "check"  # it is checked like everybody


@dataclass(frozen=True)
class SpfSettings:
    level: Level = setting(
        Level.RECORD,
        help="1 only add Received-SPF, 2 temporary error on DNS trouble, 3 reject fail, 4 also softfail, "
        "5 also neutral, 6 reject unless pass.",
    )
    local_rules: str = setting("", help="Mechanisms put into each sender's record before its `all`; alone without one.")
    guess_rules: str = setting("", help="A record for domains that publish none, such as `a/24 mx/24 ptr ?all`.")
    explanation: str = setting(
        "%{c} is not allowed to send mail for %{o}",
        help="Told to a client that fails, when the domain explains nothing itself; macros of RFC 7208 7.",
    )
    domain_explanation: bool = setting(True, help="Tell the domain's own explanation (exp=) where there is one.")
    trusted_relays: tuple[Network, ...] = setting(
        (), help="Own gateways beside `[host] relays`: the client before them counts."
    )
    check_helo: HeloCheck = setting(HeloCheck.NULL_SENDER, help="null-sender, or always: its fail decides as well.")
    authenticated: Authenticated = setting(
        Authenticated.HEADER, help="header: pass, and say so; check. Reached only when `exempt` leaves the class out."
    )
    allow_domains: tuple[str, ...] = setting(
        (), help="Never refused: these sender domains; `.example.org` means all below it too."
    )
    allow_clients: tuple[Network, ...] = setting((), help="Never refused: these clients.")
    void_lookups: int = setting(
        2, help="Terms without DNS records that a check may meet (RFC 7208 4.6.4).", least=0, most=10
    )
    time_limit: Duration = setting(Duration(MAX_SECONDS), help="Longest whole check.", least=0.1, most=MAX_SECONDS)
    debug: bool = setting(False, help="Log every step of the evaluation.", word=True)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "local_rules", check_rules(self.local_rules, alone=False))
        except ValueError as error:
            raise ValueError(f"local_rules: {error}") from None
        try:
            object.__setattr__(self, "guess_rules", check_rules(self.guess_rules, alone=True))
        except ValueError as error:
            raise ValueError(f"guess_rules: {error}") from None
        try:
            expand(self.explanation, lambda _letter: "", explanation=True)
        except MacroError as error:
            raise ValueError(f"explanation: {error}; macros are %{{s}} %{{l}} %{{o}} %{{d}} %{{c}} %{{h}} …") from None
