"""Whether the host's clock may be believed when something is deleted by its age."""

from __future__ import annotations

import contextlib
import json
import secrets
from pathlib import Path

TRIAL = 86400.0
"""Seconds that a clock has to go on without a jump before something is deleted by it."""
LONGEST_STEP = 86400.0
"""Seconds between two looks; a longer step is a jump, or a server that did not run, which looks the same."""
SET_BACK = 300.0
"""Seconds that a clock may go back: what time daemons correct, and hosts with one state directory differ by."""


def steady_at(path: Path, now: float, longest_step: float = LONGEST_STEP) -> float:
    """When, in seconds since 1970, the clock may be believed, if it goes on like this: a time that is not after `now`
    says that it may be now.

    A host that starts with the clock in another year would otherwise take all it has for old. `path` keeps what was
    seen; OSError when it cannot.
    """
    since, last = _seen(path)
    if not -SET_BACK <= now - last <= longest_step:
        since = now
    _note(path, since, now)
    return since + TRIAL


def _seen(path: Path) -> tuple[float, float]:
    try:
        seen = json.loads(path.read_text())
        return float(seen["since"]), float(seen["last"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0.0, float("-inf")  # nothing was seen, or not by us: the trial begins


def _note(path: Path, since: float, last: float) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        new.write_text(json.dumps({"since": since, "last": last}))
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
