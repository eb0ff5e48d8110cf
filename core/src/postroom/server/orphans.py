"""What workers leave behind: programs that a handler started and whose worker is dead."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2), linux/prctl.h


class Orphans:
    """Children of dead workers: the supervisor inherits them, ends them, and lets none become a zombie.

    Nobody waits for their answer: the mail server took the broken connection for a temporary failure, and the time
    limit died with the worker. What a program had put into the background before is spared where that was seen.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._spared: set[int] = set()

    def adopt(self) -> None:
        """From now on they become this process's children, not those of process 1."""
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def look(self, own: Collection[int]) -> None:
        """Note who is there; `own` are not meant. To be called before one asks whether workers are alive."""
        self._seen = _children() - set(own)

    def spare(self) -> None:
        """All workers were alive after the last look: who was seen then is no dead worker's."""
        self._spared = self._seen

    def end(self, own: Collection[int]) -> list[int]:
        """A worker has died: end what it left, with all that this has started; the pids."""
        found = {pid for pid in _children() - set(own) - self._spared if _leads_session(pid)}
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        return sorted(found)

    def reap(self, own: Collection[int]) -> None:
        """Take leave of those that have ended."""
        for pid in _children() - set(own):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _leads_session(pid: int) -> bool:
    """As all that workers start: what an administrator runs in the same container is not ours to end."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _children() -> set[int]:
    """Of this process; empty where the kernel does not say (CONFIG_PROC_CHILDREN)."""
    found: set[int] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, file.read_text().split()))
    return found
