"""Folders of a Maildir (Maildir++): `.Junk` beside `new`, made, marked and subscribed when first used.

Every step works on open directories and follows no symbolic link; what root makes belongs to the Maildir's owner.
"""

from __future__ import annotations

import base64
import os
import stat

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
SUBDIRECTORIES = ("tmp", "new", "cur")
MAX_SUBSCRIPTIONS = 1 << 20  # octets that are read of the list of folders; a mailbox has no more

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_subdirectory(maildir: int, name: str, owner: os.stat_result) -> int:
    """One of tmp, new and cur; all three are made where one is missing."""
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=maildir)
    except FileNotFoundError:
        for missing in SUBDIRECTORIES:
            try:
                os.mkdir(missing, DIRECTORY_MODE, dir_fd=maildir)
            except FileExistsError:
                continue
            _give(missing, maildir, owner)
        os.fsync(maildir)
        descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=maildir)
        assert stat.S_ISDIR(os.fstat(descriptor).st_mode)
        return descriptor


def open_folder(maildir: int, folder: str, owner: os.stat_result) -> int:
    """The folder's directory. OSError (ENOTDIR, ELOOP) when something else has its name."""
    folder = _without_prefix(maildir, folder)
    name = directory_name(folder)
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=maildir)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=maildir)
        _give(name, maildir, owner)
    except FileExistsError:
        pass  # another delivery was quicker
    os.fsync(maildir)
    descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=maildir)
    try:
        _mark(descriptor, owner)
        _subscribe(maildir, folder, owner)
    except OSError:
        pass  # readers find the folder all the same
    return descriptor


def _without_prefix(maildir: int, folder: str) -> str:
    """Junk for INBOX.Junk, as IMAP servers call `.Junk` that put every folder below the inbox (Courier, Dovecot with a
    prefix), unless there is an `.INBOX.Junk`, as others have it.
    """
    first, _, rest = folder.partition(".")
    if first.upper() != "INBOX" or not rest:
        return folder
    try:
        os.stat(directory_name(folder), dir_fd=maildir, follow_symlinks=False)
    except FileNotFoundError:
        return rest
    return folder


def directory_name(folder: str) -> str:
    """`.Junk` for Junk; letters outside ASCII in modified UTF-7 (RFC 3501 5.1.3), as IMAP servers write them."""
    return "." + modified_utf7(folder)


def modified_utf7(text: str) -> str:
    written, held = "", ""
    for character in [*text, ""]:
        if character and not " " <= character <= "~":
            held += character
            continue
        if held:
            encoded = base64.b64encode(held.encode("utf-16-be")).decode("ascii").rstrip("=").replace("/", ",")
            written, held = f"{written}&{encoded}-", ""
        written += "&-" if character == "&" else character
    return written


def _mark(folder: int, owner: os.stat_result) -> None:
    """Maildir++: an empty file tells programs that deliver here that the quota is the parent's."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open("maildirfolder", flags, FILE_MODE, dir_fd=folder))
    except FileExistsError:
        return
    _give("maildirfolder", folder, owner)


def _subscribe(maildir: int, folder: str, owner: os.stat_result) -> None:
    """Add it to the list that IMAP clients show: a name a line (Dovecot's first form), or after `V\\t2` by levels."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open("subscriptions", flags, FILE_MODE, dir_fd=maildir)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        there = os.pread(descriptor, MAX_SUBSCRIPTIONS, 0)
        separator = "\t" if there.startswith(b"V\t2") else "."
        line = separator.join(modified_utf7(level) for level in folder.split("."))
        if line.encode() not in there.split(b"\n"):
            start = b"" if not there or there.endswith(b"\n") else b"\n"
            os.write(descriptor, start + line.encode() + b"\n")  # one write, so that no lock is needed
        if not there and os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def _give(name: str, directory: int, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=directory, follow_symlinks=False)
