"""What wrappers need of this host: an interpreter that everybody may start, and the server's socket."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from postroom.config import Config
from postroom.hookspecs import Diagnosis, FindingLevel

SYSTEM_INTERPRETER = "/usr/bin/python3"
TEMPORARY = Path("/var/tmp")  # noqa: S108  # the files in it have no names


@dataclass(frozen=True)
class Surroundings:
    """Goes into every wrapper."""

    socket: str
    interpreter: str
    temporary: Path = TEMPORARY

    def settings(self, original: Path) -> dict[str, str]:
        return {"SOCKET": self.socket, "TEMPORARY": str(self.temporary), "ORIGINAL": str(original)}


def default_interpreter() -> str:
    """The system's, which starts fast and is for everybody; else ours."""
    return SYSTEM_INTERPRETER if shutil.which(SYSTEM_INTERPRETER) else os.path.realpath(sys.executable)


def handover_socket(config: Config) -> str:
    """The path of the first one that is configured; "" when there is none."""
    return config.handover.listen[0].path if config.handover.listen else ""


def check_surroundings(here: Surroundings) -> Iterator[Diagnosis]:
    """Whether every user of this host can run a wrapper and reach the server."""
    yield from _check_reachable("interpreter", Path(here.interpreter), stat.S_IXOTH | stat.S_IROTH)
    yield from _check_reachable("temporary files", here.temporary, stat.S_IWOTH | stat.S_IXOTH)
    if not Path(here.socket).exists():
        yield _wrong("socket", f"{here.socket} is not there", "start the server: postroom serve")
    else:
        yield from _check_reachable("socket", Path(here.socket), stat.S_IWOTH)


def _check_reachable(what: str, path: Path, needed: int) -> Iterator[Diagnosis]:
    path = path.resolve()
    for parent in path.parents:
        if not parent.exists() or not parent.stat().st_mode & stat.S_IXOTH:
            yield _wrong(what, f"{parent} is closed to other users", f"chmod o+x {parent}, or use another place")
            return
    if not path.exists() or path.stat().st_mode & needed != needed:
        yield _wrong(what, f"{path} cannot be used by everybody", "choose another, or change its mode")


def _wrong(what: str, text: str, remedy: str) -> Diagnosis:
    return Diagnosis(FindingLevel.ERROR, what, text, remedy)
