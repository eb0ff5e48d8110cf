"""The supervisor's pid in a file: for people, and to tell a predecessor that was killed from one that runs."""

from __future__ import annotations

import os
from pathlib import Path

PID_FILE = "postroom.pid"
MAX_LENGTH = 20  # octets of it that are read


class PidFile:
    def __init__(self, run: Path) -> None:
        self.path = run / PID_FILE
        self._is_ours = False

    def tells_of_the_dead(self) -> bool:
        """Whether a server wrote it that is gone and had no time to remove it."""
        try:
            with self.path.open("rb") as file:
                pid = int(file.read(MAX_LENGTH))
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, OverflowError):
            pass  # there is none, it cannot be read, or its process is another user's
        return False

    def write(self) -> None:
        self.path.write_text(f"{os.getpid()}\n")
        self._is_ours = True

    def remove(self) -> None:
        """Not that of a server that runs, where this one could not start."""
        if self._is_ours:
            self.path.unlink(missing_ok=True)
