"""What the administrator chose for an installation in Postfix."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any

from postroom.mta.postfix_lists import End, Position


class Local(enum.StrEnum):
    """How Postfix hands over mail for its own mailboxes."""

    LMTP = "lmtp"
    PIPE = "pipe"  # the reference's way: a program for each mail
    NONE = "none"  # virtual_transport stays as it is: no before-local


@dataclass(frozen=True, slots=True)
class Options:
    """`position` None: first, or where our milter stands already. Paths are empty where nothing is wanted."""

    local: Local = Local.LMTP
    position: Position | None = None
    recipient_limit: int = 1
    program: str = ""
    """postroom-deliver, for Local.PIPE."""
    user: str = ""
    """Whom pipe(8) runs that and Mailman's program as."""
    mailman: str = ""
    mailman_user: str = ""
    maps: str = ""
    """Directory of what `postroom restore` writes."""
    sasl: str = ""
    """Dovecot's socket, as smtpd_sasl_path takes it."""


def options_to_json(options: Options) -> dict[str, Any]:
    return asdict(options)


def options_from_json(raw: dict[str, Any]) -> Options:
    position = raw["position"]
    known = {**raw, "local": Local(raw["local"]), "position": read_position(position) if position else None}
    return Options(**known)


def read_position(text: str | int) -> Position:
    """ValueError when it is neither `first`, `last`, nor a number from 1."""
    if str(text) in tuple(End):
        return End(str(text))
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is no position: counted from 1")
    return number
