"""Files that other programs read: put in place whole, and so that a program that watches them notices."""

from __future__ import annotations

import os
from pathlib import Path


def replace_noticeably(new: Path, target: Path) -> None:
    """Put `new` into `target`'s place in one step, its time of change in a later second than that of what was there.

    Dovecot reads a passwd-file again when the second of its last change or its size differs. Two passwords of one
    length, set within a second, would differ in neither, and the first would go on opening the mailbox.
    """
    try:
        before = int(target.stat().st_mtime)
    except FileNotFoundError:
        before = 0
    if int(new.stat().st_mtime) <= before:
        os.utime(new, (before + 1, before + 1))
    new.replace(target)
