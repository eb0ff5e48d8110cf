"""How much mail is in a Maildir: from its maildirsize, else counted, in a bounded time.

The Maildir belongs to somebody else than the server: nothing in it is followed out of it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from postroom_quota import maildirsize

SIZE_FILE = "maildirsize"
MAX_FOLDERS = 10_000
MAX_COUNTED = 10_000
"""Counts that a process remembers."""
MAX_AT_ONCE = 4
"""Maildirs that are counted at the same time; more wait in line, and so do disks."""

NOT_READ = -1.0
"""In place of the time at which a maildirsize was written that says nothing."""

TICK = 0.05
"""Seconds in which two changes of a directory may bear the same time."""

_SIZE_IN_NAME = re.compile(rb",S=(\d{1,18})(?=[,:]|$)")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRASH = b".Trash"


@dataclass(frozen=True, slots=True)
class Usage:
    """`recorded`: a maildirsize keeps it true; else it grows older until it is counted again."""

    octets: int
    messages: int
    recorded: bool = False


class Stopped(Exception):
    """The process ends."""


def read_total(place: Path) -> tuple[maildirsize.Total, float] | None:
    """What its maildirsize says, and when it was written; None: it has to be counted. OSError: nobody may look.

    What its owner may have put in its place (a symbolic link, a socket, a file that nobody else may read) says nothing.
    """
    try:
        with _opened(place) as maildir:
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(SIZE_FILE, flags, dir_fd=maildir)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
                    return None
                raise
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    return None
                total = maildirsize.parse(os.read(descriptor, maildirsize.MAX_FILE + 1))
            finally:
                os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    return (total, found.st_mtime) if total else None


def count(place: Path, *, trash: bool, definition: str, stopped: Callable[[], bool] = lambda: False) -> Usage:
    """Count the Maildir and its folders, and leave the result in its maildirsize where that is permitted.

    A Maildir that is not there is empty: nothing has been delivered. OSError when it may not be read.
    """
    try:
        with _opened(place) as maildir:
            before = time.time()
            octets = messages = 0
            newest = 0.0
            for folder in _folders(maildir, trash=trash):
                folder_octets, folder_messages, changed = _count_folder(maildir, folder, trash, stopped)
                octets, messages, newest = octets + folder_octets, messages + folder_messages, max(newest, changed)
            recorded = newest < before - TICK and _record(maildir, maildirsize.write(definition, octets, messages))
            if recorded and _newest(maildir, trash) > newest:  # somebody delivered or deleted meanwhile: count again
                _unlink(maildir, SIZE_FILE)
                recorded = False
            return Usage(octets, messages, recorded)
    except FileNotFoundError:
        return Usage(0, 0)


def _folders(maildir: int, *, trash: bool) -> Iterator[bytes]:
    yield b"."
    with os.scandir(maildir) as entries:
        names = [os.fsencode(entry.name) for entry in entries if entry.name.startswith(".")][:MAX_FOLDERS]
    for name in names:
        if trash or (name != _TRASH and not name.startswith(_TRASH + b".")):
            yield name


def _count_folder(maildir: int, folder: bytes, trash: bool, stopped: Callable[[], bool]) -> tuple[int, int, float]:
    octets = messages = 0
    newest = 0.0
    for name in (b"new", b"cur"):
        try:
            directory = os.open(folder + b"/" + name, _DIRECTORY, dir_fd=maildir)
        except (FileNotFoundError, NotADirectoryError, OSError) as error:
            if isinstance(error, PermissionError):
                raise
            continue  # no folder, or a symbolic link
        try:
            newest = max(newest, os.fstat(directory).st_mtime)
            with os.scandir(directory) as entries:
                for number, entry in enumerate(entries):
                    if number % 1024 == 0 and stopped():
                        raise Stopped
                    file = os.fsencode(entry.name)
                    if file.startswith(b".") or (not trash and _is_trashed(file)):
                        continue
                    size = _size_of(file, entry)
                    if size is not None:
                        octets, messages = octets + size, messages + 1
        finally:
            os.close(directory)
    return octets, messages, newest


def _size_of(name: bytes, entry: os.DirEntry[str]) -> int | None:
    """From its name, which costs nothing, else from the disk; None: it has just gone, or is no mail."""
    if found := _SIZE_IN_NAME.search(name):
        return int(found[1])
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _is_trashed(name: bytes) -> bool:
    """Flag T of maildir(5)."""
    return b"T" in name.rpartition(b":2,")[2] if b":2," in name else False


def _newest(maildir: int, trash: bool) -> float:
    newest = 0.0
    for folder in _folders(maildir, trash=trash):
        for name in (b"new", b"cur"):
            try:
                newest = max(newest, os.stat(folder + b"/" + name, dir_fd=maildir, follow_symlinks=False).st_mtime)
            except OSError:
                continue
    return newest


def _record(maildir: int, text: bytes) -> bool:
    """Put a new maildirsize in place, whole; False where that is not permitted."""
    name = f"maildirsize.{secrets.token_hex(8)}"
    try:
        tmp = os.open("tmp", _DIRECTORY, dir_fd=maildir)
    except OSError:
        return False
    try:
        owner = os.fstat(maildir)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=tmp)
        try:
            if os.geteuid() == 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
        try:
            os.rename(name, SIZE_FILE, src_dir_fd=tmp, dst_dir_fd=maildir)
        except OSError:
            _unlink(tmp, name)
            return False
    except OSError:
        return False
    finally:
        os.close(tmp)
    return True


def _unlink(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass


@contextmanager
def _opened(place: Path) -> Iterator[int]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Counting:
    """One Maildir that is being counted; whoever wants to know waits for it, each as long as it can."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.usage: Usage | None = None
        self.error: Exception | None = None


class Counter:
    """Usage of Maildirs, in a bounded time: what takes longer goes on in the background, once for all who ask."""

    def __init__(self, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now, self._monotonic = now, monotonic
        self._lock = threading.Lock()
        self._turn = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._counted: OrderedDict[Path, tuple[float, Usage, float]] = OrderedDict()
        self._under_way: dict[Path, _Counting] = {}
        self._stopped = threading.Event()

    def usage(
        self, place: Path, limit: int | None, room: int, *, trash: bool, cache: float, patience: float
    ) -> Usage | None:
        """None: it is not known in time. `room`: the octets that are asked for; if there seems to be none for them, an
        old or much changed maildirsize is not believed. OSError when the Maildir may not be read.
        """
        definition = maildirsize.definition_of(limit)
        written = NOT_READ
        if (found := read_total(place)) is not None:
            total, written = found
            definition = total.definition
            fits = limit is None or total.octets + room <= limit
            if fits or total.believable_when_full(self._now() - written):
                return Usage(total.octets, total.messages, recorded=True)
        with self._lock:
            kept = self._counted.get(place)
        # else each mail for a full mailbox would have it counted, where its maildirsize cannot be written anew
        if kept is not None and self._monotonic() - kept[0] < cache and kept[2] == written:
            return kept[1]
        return self._count(place, trash, definition, patience, written)

    def close(self) -> None:
        self._stopped.set()

    def _count(self, place: Path, trash: bool, definition: str, patience: float, written: float) -> Usage | None:
        with self._lock:
            counting = self._under_way.get(place)
            if counting is None:
                counting = _Counting()
                work = (place, trash, definition, counting, written)
                threading.Thread(target=self._work, args=work, name="quota-count", daemon=True).start()
                self._under_way[place] = counting
        if not counting.done.wait(patience):
            return None
        if counting.error is not None:
            raise counting.error
        return counting.usage

    def _work(self, place: Path, trash: bool, definition: str, counting: _Counting, written: float) -> None:
        try:
            with self._turn:
                counting.usage = count(place, trash=trash, definition=definition, stopped=self._stopped.is_set)
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001  # it is raised where somebody waits; nobody waits for ever
            counting.error = error
        with self._lock:
            if counting.usage is not None:
                self._counted[place] = (self._monotonic(), counting.usage, written)
                self._counted.move_to_end(place)
                while len(self._counted) > MAX_COUNTED:
                    self._counted.popitem(last=False)
            self._under_way.pop(place, None)
        counting.done.set()
