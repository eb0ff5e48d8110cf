"""Delivery into Maildirs: tmp, write, fsync, rename to new, fsync of the directory.

Every step works on open directories and follows no symbolic link inside the Maildir, because the server may run as
root while the Maildir belongs to somebody else.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from postroom.config import DeliverySettings, Host
from postroom.delivery.folder import DIRECTORY_MODE, FILE_MODE, open_folder, open_subdirectory
from postroom.delivery.parcel import Parcel, lf_chunks
from postroom.delivery.report import DELIVERED, UNAVAILABLE, Report, bad_mailbox_name, disabled, no_such_user
from postroom.hookspecs import Clock, Directory, Logger
from postroom.mail import Address, Message

MAX_NAME = 255  # octets of one path component; NAME_MAX on Linux
MAX_HOST_PART = 64  # characters of our own name in a file's name, so that all of it fits

_FULL = Report("452", "4.3.1", "Not enough space - try again later")
_OVER_QUOTA = Report("452", "4.2.2", "Mailbox is full")

SIZE_FILE = "maildirsize"
"""The running total of a Maildir++: a line a change."""


class MaildirDelivery:
    """ROOT/domain/user/Maildir, or what the directory service says."""

    def __init__(
        self, settings: DeliverySettings, host: Host, host_name: str, directory: Directory, clock: Clock, log: Logger
    ) -> None:
        self._settings, self._delimiter = settings, host.recipient_delimiter
        self._directory, self._clock, self._log = directory, clock, log
        self._host_part = host_name[:MAX_HOST_PART].replace("/", "\\057").replace(":", "\\072")  # maildir(5)
        self._count = itertools.count(1)

    def final(self, recipient: Address) -> bool:  # noqa: ARG002  # the same for all
        return True

    def check(self, recipient: Address, root: Path | None = None) -> Report | None:
        try:
            place = self._place(recipient, root)
        except OSError as error:
            return self._failure(error, recipient)
        return place if isinstance(place, Report) else None

    def deliver(self, parcel: Parcel) -> Report:
        try:
            place = self._place(parcel.recipient, parcel.root)
            if isinstance(place, Report):
                return place
            name = self._write(place, parcel)
        except OSError as error:
            return self._failure(error, parcel.recipient, parcel.envelope.queue_id)
        self._log.debug(
            "written", queue_id=parcel.envelope.queue_id, maildir=str(place), folder=parcel.folder, file=name
        )
        return DELIVERED

    def close(self) -> None:
        pass

    def _place(self, recipient: Address, root: Path | None) -> Path | Report:
        """The recipient's Maildir, or why there is none."""
        asked = root
        mailbox = self._directory.mailbox(recipient) if root is None else None
        if mailbox is not None and not mailbox.enabled:
            return disabled()
        if mailbox is not None and mailbox.maildir:
            place = Path(mailbox.maildir)
            return place if self._settings.create or place.is_dir() else UNAVAILABLE  # promised but absent: not mounted
        root = root or self._settings.root
        users = [unquoted(key.rpartition("@")[0]) for key in (recipient.key, recipient.without_tag(self._delimiter))]
        if not all(is_safe_name(name) for name in (recipient.domain, *users)):
            return bad_mailbox_name()
        if mailbox is None and asked is None and self._directory.authoritative:
            return no_such_user()
        places = [root / recipient.domain / user / "Maildir" for user in users]
        for place in places:  # a mailbox that has the delimiter in its own name comes before the tag
            if place.is_dir():
                return place
        if mailbox is not None or self._settings.create:
            return places[-1] if root.is_dir() else UNAVAILABLE
        return no_such_user() if _is_surely_nobody(root, recipient.domain, users) else UNAVAILABLE

    def _write(self, place: Path, parcel: Parcel) -> str:
        if self._settings.create and not place.is_dir():
            make_directories(place)
        maildir = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            owner = os.fstat(maildir)
            folder = self._folder(maildir, parcel, owner)
            try:
                name, size = self._write_below(maildir if folder is None else folder, owner, parcel.message)
            finally:
                if folder is not None:
                    os.close(folder)
            self._count_in(maildir, place, size)
            return name
        finally:
            os.close(maildir)

    def _folder(self, maildir: int, parcel: Parcel, owner: os.stat_result) -> int | None:
        """The folder's directory, open; None for the inbox, also where something that is no folder has its name."""
        if not parcel.folder:
            return None
        try:
            return open_folder(maildir, parcel.folder, owner)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            self._log.warning(
                "no folder; the mail goes to the inbox",
                queue_id=parcel.envelope.queue_id,
                recipient=parcel.recipient.text,
                folder=parcel.folder,
                error=error.strerror or str(error),
            )
            return None

    def _write_below(self, directory: int, owner: os.stat_result, message: Message) -> tuple[str, int]:
        new = open_subdirectory(directory, "new", owner)
        try:
            tmp = open_subdirectory(directory, "tmp", owner)
            try:
                return self._write_into(tmp, new, owner, message)
            finally:
                os.close(tmp)
        finally:
            os.close(new)

    def _write_into(self, tmp: int, new: int, owner: os.stat_result, message: Message) -> tuple[str, int]:
        name = self._unique_name()
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE, dir_fd=tmp)
        try:
            size = 0
            try:
                for chunk in lf_chunks(message):
                    size += len(chunk)
                    _write_all(descriptor, chunk)
                if os.geteuid() == 0:
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            final = f"{name},S={size}"  # Maildir++: the size, so that quotas need no stat
            os.rename(name, final, src_dir_fd=tmp, dst_dir_fd=new)
        except BaseException:
            _remove(tmp, name)
            raise
        os.fsync(new)
        return final, size

    def _count_in(self, maildir: int, place: Path, size: int) -> None:
        """Keep the Maildir's total true, where there is one. The mail is delivered, whatever becomes of this."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(SIZE_FILE, flags, dir_fd=maildir)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.write(descriptor, b"%d 1\n" % size)  # Maildir++: one write, so that no lock is needed
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._log.warning("size of the mail is not counted", maildir=str(place), error=error.strerror or str(error))

    def _unique_name(self) -> str:
        now = self._clock.now()
        microseconds = int(now % 1 * 1_000_000)
        unique = f"M{microseconds}P{os.getpid()}Q{next(self._count)}R{secrets.token_hex(8)}"
        return f"{int(now)}.{unique}.{self._host_part}"

    def _failure(self, error: OSError, recipient: Address, queue_id: str = "") -> Report:
        self._log.error(
            "delivery failed",
            queue_id=queue_id,
            recipient=recipient.text,
            error=error.strerror or str(error),
            path=str(error.filename or ""),
        )
        match error.errno:
            case errno.ENOSPC:
                return _FULL
            case errno.EDQUOT:
                return _OVER_QUOTA
            case errno.ENAMETOOLONG:
                return bad_mailbox_name()
            case _:
                return UNAVAILABLE


def _is_surely_nobody(root: Path, domain: str, users: Sequence[str]) -> bool:
    """Not where a name is there that leads nowhere, nor where there is nothing at all: a file system that is not
    mounted, below the root, a domain or a user, bounces nobody's mail.
    """
    place = root / domain
    if place.is_dir():
        return any(place.iterdir()) and not any(os.path.lexists(place / user) for user in users)
    return any(root.iterdir()) and not os.path.lexists(place)


def unquoted(local_part: str) -> str:
    """The user name that a quoted local part means (RFC 5321 4.1.2)."""
    if len(local_part) < 2 or local_part[0] != '"' or local_part[-1] != '"':
        return local_part
    characters = iter(local_part[1:-1])
    return "".join(next(characters, "") if character == "\\" else character for character in characters)


def is_safe_name(name: str) -> bool:
    """Whether a user or domain may be one component of a path: nothing that leaves the root or hides in it."""
    return (
        bool(name)
        and not name.startswith(".")
        and not any(character == "/" or ord(character) < 32 or ord(character) == 127 for character in name)
        and len(os.fsencode(name)) <= MAX_NAME
    )


def make_directories(place: Path) -> None:
    """The Maildir and what is missing above it, durably; made by root, they belong to whom the next one up belongs."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), (place, *place.parents)))
    for path in reversed(missing):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            owner = os.fstat(parent)
            try:
                os.mkdir(path.name, DIRECTORY_MODE, dir_fd=parent)
            except FileExistsError:
                continue  # another delivery was quicker
            if os.geteuid() == 0:
                os.chown(path.name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
            os.fsync(parent)
        finally:
            os.close(parent)


def _write_all(descriptor: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(descriptor, view) :]


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass  # already moved, or the disk is gone: tmp/ is swept by whoever reads the Maildir (maildir(5))
