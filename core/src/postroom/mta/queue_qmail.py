"""qmail's queue, read from its directory as qmail's INTERNALS describes it; no program of qmail's is needed."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from postroom.mta.queue import QueueAction, QueuedMail, QueuedRecipient, QueueFilter

TODO = "todo"  # qmail-send has not looked at it yet (state S4)
WAITING = "waiting"  # sorted into local and remote recipients (S5)
BOUNCING = "bouncing"  # as before, and for some recipient it has failed for good: a bounce will be sent
QUEUES = (TODO, WAITING, BOUNCING)

_NUMBER = re.compile(r"[1-9][0-9]{0,19}")
_SENDER, _OPEN = ord("F"), ord("T")  # "D" instead of "T": done with that recipient


class QmailFailed(Exception):
    """What to tell the administrator, in one line."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class QmailQueue:
    """The queue below qmail's directory."""

    def __init__(self, root: Path) -> None:
        self._queue = root / "queue"
        self._mutex = self._queue / "lock" / "sendmutex"
        if not (self._queue / "mess").is_dir() or not self._mutex.exists():
            raise QmailFailed(f"{self._queue} is no qmail queue, or closed to you: see --qmail-root")
        self._split = sum(1 for each in os.scandir(self._queue / "mess") if each.name.isdigit() and each.is_dir())

    def mails(self) -> Generator[QueuedMail, None, None]:
        """All mails as they are found."""
        for id_ in self._numbers(TODO):
            if mail := self._mail(id_):
                yield mail
        for id_ in self._numbers("info"):
            mail = None if self._todo(id_).exists() else self._mail(id_)
            if mail:
                yield mail

    def show(self, id_: str, *, body: bool) -> Iterator[bytes]:
        """A mail as it is in the queue, or its header alone."""
        if not _NUMBER.fullmatch(id_):
            raise QmailFailed(f"{id_!r} is no queue id of qmail: they are numbers", 2)
        try:
            with self._place("mess", id_).open("rb") as file:
                for line in file:
                    if not body and line == b"\n":
                        return
                    yield line
        except FileNotFoundError:
            raise QmailFailed(f"{id_} is not in the queue") from None

    def check(self, action: QueueAction, chosen: QueueFilter) -> None:
        """QmailFailed when qmail has no such thing."""
        match action:
            case QueueAction.HOLD | QueueAction.RELEASE | QueueAction.REQUEUE:
                raise QmailFailed(f"qmail has no {action}: it tries mail when it is due, or all of it (flush)", 2)
            case QueueAction.FLUSH if not chosen.everything:
                raise QmailFailed("qmail tries all its mail at once, or none: flush --all", 2)
            case _:
                return

    def ready(self, action: QueueAction) -> None:
        """QmailFailed when it cannot be done now."""
        if action is QueueAction.DELETE:
            with self._locked():
                return

    def act(self, action: QueueAction, mails: Collection[QueuedMail]) -> int:
        """Delete those that are still as they were listed; how many that were."""
        self.check(action, QueueFilter())
        if action is QueueAction.FLUSH:
            self.flush_all()
            return len(mails)
        with self._locked():
            # a number is given away again: it has to be the same mail
            found = [mail for mail in mails if self._mail(mail.id) == mail]
            for mail in found:
                self._delete(mail.id)
        return len(found)

    def flush_all(self) -> None:
        """qmail-send(8): ALRM makes every mail due now."""
        process = self._sender()
        if process is None and self._running():
            raise QmailFailed("qmail-send's process cannot be told from others: as root, run `svc -a` on its service")
        if process is None:
            raise QmailFailed("qmail-send is not running: start it, it tries what is due")
        try:
            signal.pidfd_send_signal(process, signal.SIGALRM)
        finally:
            os.close(process)

    def _mail(self, id_: str) -> QueuedMail | None:
        """None when it has left the queue, or leaves it just now."""
        try:
            size = self._place("mess", id_).stat().st_size
            envelope, at = _records(self._todo(id_))
            if envelope:
                return _queued(id_, TODO, at, size, envelope, envelope)
            envelope, at = _records(self._place("info", id_))
            if not envelope:
                return None
            recipients = [each for name in ("local", "remote") for each in _records(self._place(name, id_))[0]]
        except FileNotFoundError:
            return None
        queue = BOUNCING if (self._queue / "bounce" / id_).exists() else WAITING
        return _queued(id_, queue, at, size, envelope, recipients)

    def _numbers(self, name: str) -> Iterator[str]:
        """The mails in a directory, whether it is split or not."""
        with os.scandir(self._queue / name) as entries:
            for entry in entries:
                if entry.is_dir():
                    with os.scandir(entry.path) as inner:
                        yield from (each.name for each in inner if _NUMBER.fullmatch(each.name))
                elif _NUMBER.fullmatch(entry.name):
                    yield entry.name

    def _place(self, name: str, id_: str) -> Path:
        return self._queue / name / str(int(id_) % max(self._split, 1)) / id_

    def _todo(self, id_: str, name: str = TODO) -> Path:
        """Not split, but in a qmail that was built for many mails."""
        split = self._place(name, id_)
        return split if split.parent.is_dir() else self._queue / name / id_

    def _delete(self, id_: str) -> None:
        """Every state on the way is one that qmail cleans up after a crash; nothing is bounced in any of them."""
        for path in (
            self._queue / "bounce" / id_,
            *(self._place(name, id_) for name in ("local", "remote", "info")),
            self._todo(id_, "intd"),
            self._todo(id_),
            self._place("mess", id_),
        ):
            path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """qmail-send neither runs nor starts meanwhile: it has its queue in memory and would not see what changes."""
        with self._mutex.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a qmail that was built without flock
            except BlockingIOError:
                raise QmailFailed("qmail-send is running: stop its service, delete, and start it again") from None
            yield

    def _running(self) -> bool:
        try:
            with self._locked():
                return False
        except QmailFailed:
            return True

    def _sender(self) -> int | None:
        """A descriptor of the process that is qmail-send and has this queue's lock; it cannot become another one."""
        inode = self._mutex.stat().st_ino
        for process in _holders(inode):
            with suppress(OSError):
                descriptor = os.pidfd_open(process)
                if _is_sender(process, self._mutex):
                    return descriptor
                os.close(descriptor)
        return None


def _holders(inode: int) -> Iterator[int]:
    """proc_locks(5); devices are left out, as some filesystems show another one there."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "->" not in words and words[5].rpartition(":")[2] == str(inode) and int(words[4]) > 0:
                yield int(words[4])


def _is_sender(process: int, mutex: Path) -> bool:
    place = Path(f"/proc/{process}")
    if (place / "comm").read_text().strip() != "qmail-send":
        return False
    return any(each.exists() and each.samefile(mutex) for each in (place / "fd").iterdir())


def _records(path: Path) -> tuple[list[bytes], float]:
    """The records of a file, each with a NUL at its end, and when it was written; nothing when it is not there."""
    try:
        with path.open("rb") as file:
            at = os.fstat(file.fileno()).st_mtime
            return file.read().split(b"\0")[:-1], at
    except FileNotFoundError:
        return [], 0.0


def _queued(
    id_: str, queue: str, at: float, size: int, envelope: Collection[bytes], recipients: Collection[bytes]
) -> QueuedMail:
    sender = next((each[1:] for each in envelope if each[:1] and each[0] == _SENDER), b"")
    waiting = tuple(QueuedRecipient(_text(each[1:])) for each in recipients if each[:1] and each[0] == _OPEN)
    return QueuedMail(id_, queue, at, size, _text(sender), waiting)


def _text(address: bytes) -> str:
    return address.decode("utf-8", "surrogateescape")
