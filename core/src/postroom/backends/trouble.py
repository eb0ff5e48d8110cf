"""What can be wrong with a server that was asked. The texts are for logs and name no server: who asked knows it."""

from __future__ import annotations

from postroom.hookspecs import Unavailable

MAX_WORDS = 200
"""Characters of a stranger's words that are kept."""

LATE = "does not answer in time"


class BackendTrouble(Unavailable):
    """The server is no use: not there, broken, or speaks something else."""


class BackendLate(BackendTrouble):
    """Nothing came in time."""


class BackendClosed(BackendTrouble):
    """It closed or reset the connection where more had to come."""


class BackendDeclined(BackendTrouble):
    """The server is well but cannot answer this question; for handlers to raise, so that the next server is asked."""


def safe(text: str) -> str:
    """Printable ASCII on one line, bounded: a stranger's words for logs, replies and header fields."""
    return "".join(character if " " <= character <= "~" else "?" for character in text.strip()[:MAX_WORDS])
