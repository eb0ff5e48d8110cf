"""What strangers wrote, made safe for replies, logs and header fields."""

from __future__ import annotations

MAX_SHOWN = 300  # characters of a stranger's text; a reply line holds 512 octets (RFC 5321 4.5.3.1.5)


def safe(text: str, most: int = MAX_SHOWN) -> str:
    """Printable ASCII on one line, at most that long; everything else becomes "?"."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(character if " " <= character <= "~" else "?" for character in cut)
