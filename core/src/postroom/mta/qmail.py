"""Puts the wrappers before qmail's own programs, and takes them away again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from postroom.mta.host import Surroundings
from postroom.mta.script import Wrapper
from postroom.mta.wrapping import Wrapping

ROOT = Path("/var/qmail")

_PARTS = {
    "qmail-queue": "postroom.fronts.qmail.queue",
    "qmail-local": "postroom.fronts.qmail.local",
    "qmail-remote": "postroom.fronts.qmail.remote",
}


def wrappings(root: Path, here: Surroundings) -> Sequence[Wrapping]:
    """One for each program; `root` is qmail's directory."""

    def make(name: str) -> Wrapping:
        def wrapper(original: Path) -> Wrapper:
            settings = here.settings(original)
            if name == "qmail-local":
                settings["CONTROL"] = str(root / "control")
            return Wrapper(name, _PARTS[name], settings, here.interpreter)

        return Wrapping(root / "bin" / name, wrapper)

    return [make(name) for name in _PARTS]
