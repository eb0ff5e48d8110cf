"""Who is behind a command, as the registry's history keeps it."""

from __future__ import annotations

import os
import pwd


def who() -> str:
    """Who runs this command: the user, and who was behind sudo."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = "?"
    behind = os.environ.get("SUDO_USER", "")
    if not behind and number == 0:
        behind = _login_user()
    if behind and behind != name and behind.isprintable():
        return f"{behind} as {name} (uid {number})"
    return f"{name} (uid {number})"


def _login_user() -> str:
    try:
        return os.getlogin()
    except OSError:  # no terminal: cron, a container
        return ""
