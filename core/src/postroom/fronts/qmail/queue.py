"""Stands before qmail-queue: before-data and before-queue.

qmail-queue(8): the mail on descriptor 0, then the envelope on descriptor 1; the exit status is the answer. Newer
callers also read a text from descriptor 6 after exit status 82.
"""

import os

from postroom.fronts.handover.client import (
    CHUNK,
    Answer,
    Away,
    arguments,
    ask,
    become,
    environment,
    occupy_low_descriptors,
    spool,
    temporary_file,
    write_all,
)

MAX_ADDRESS = 1002  # octets, qmail-queue.c
MAX_ENVELOPE = 64 << 20
ERROR_PIPE = 6

# Exit statuses that every caller knows; 11 to 40 are permanent.
TOO_LONG, REFUSED = 11, 31
NO_MEMORY, DISK_FULL, READ_ERROR, TRY_AGAIN, CUSTOM, BUG, BAD_ENVELOPE, NO_EXEC = 51, 53, 54, 71, 82, 81, 91, 120

FACTS = (
    b"PROTO", b"TCPREMOTEIP", b"TCPREMOTEPORT", b"TCPREMOTEHOST", b"TCPLOCALHOST", b"SMTPAUTHUSER",
    b"SMTPAUTHMETHOD", b"RELAYCLIENT", b"SSL_PROTOCOL",
)  # fmt: skip


class Refused(Exception):
    """Ends with that status; `said` is for the caller who reads descriptor 6."""

    def __init__(self, status: int, said: bytes = b"") -> None:
        super().__init__(status)
        self.status, self.said = status, said


def read_envelope(source: int) -> bytes:
    """`F sender NUL (T recipient NUL)… NUL`, checked as qmail-queue does; not an octet more is waited for."""
    octets = b""
    position, wanted = 0, b"F"
    while True:
        end = octets.find(b"\0", position)
        if end < 0 and len(octets) - position > MAX_ADDRESS + 1:
            raise Refused(TOO_LONG)
        if end < 0:
            more = os.read(source, CHUNK)
            if not more:
                raise Refused(READ_ERROR)
            octets += more
            if len(octets) > MAX_ENVELOPE:
                raise Refused(NO_MEMORY)
            continue
        if end == position and wanted == b"T":
            return octets[: end + 1]
        if octets[position : position + 1] != wanted:
            raise Refused(BAD_ENVELOPE)
        if end - position - 1 > MAX_ADDRESS:
            raise Refused(TOO_LONG)
        position, wanted = end + 1, b"T"


def split_envelope(envelope: bytes) -> "tuple[bytes, list[bytes]]":
    sender, *recipients = envelope.split(b"\0")[:-2]
    return sender[1:], [recipient[1:] for recipient in recipients]


def readable(envelope: bytes) -> int:
    """A descriptor from which the next program reads the envelope: a pipe, or a file when no pipe holds it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        written = os.write(writing, envelope)
    except BlockingIOError:
        written = 0
    os.close(writing)
    if written == len(envelope):
        return reading
    os.close(reading)
    file = temporary_file()
    write_all(file, envelope)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def is_error_pipe() -> bool:
    """Whether somebody reads what is written to descriptor 6. A caller's own pipe may be there by accident."""
    try:
        if os.fstat(ERROR_PIPE).st_mode & 0o170000 != 0o010000:  # S_IFIFO
            return False
        os.write(ERROR_PIPE, b"")  # EBADF where only reading is possible
    except OSError:
        return False
    return True


def session_facts() -> "dict[bytes, bytes]":
    known = environment()
    facts = {name: known[name] for name in FACTS if name in known}
    facts[b"PID"] = b"%d" % os.getpid()
    return facts


def decide(answer: Answer) -> None:
    """Refused unless the mail goes on."""
    if answer.word == b"DONE":
        raise Refused(0)
    if answer.word == b"REJECT":
        raise Refused(REFUSED, b"D" + answer.reason())
    if answer.word == b"DEFER":
        raise Refused(TRY_AGAIN, b"Z" + answer.reason())


def run() -> None:
    """Ends by becoming the original, or in Refused."""
    try:
        message = spool(0)
        envelope = read_envelope(1)
    except OSError as error:
        raise Refused(DISK_FULL if error.errno in (27, 28, 122) else READ_ERROR) from None  # EFBIG ENOSPC EDQUOT
    sender, recipients = split_envelope(envelope)
    if recipients:
        try:
            answer = ask(b"queue", session_facts(), sender, recipients, message)
        except Away:
            raise Refused(TRY_AGAIN, b"Zmail service unavailable - try again later (#4.3.0)") from None
        except OSError:
            raise Refused(DISK_FULL) from None
        decide(answer)
        if answer.message is not None:
            message = answer.message
        if answer.sender is not None or answer.recipients:
            sender = sender if answer.sender is None else answer.sender
            recipients = answer.recipients or recipients
            envelope = b"F" + sender + b"\0" + b"".join(b"T" + each + b"\0" for each in recipients) + b"\0"
    os.lseek(message, 0, os.SEEK_SET)
    source = readable(envelope)
    try:
        become(arguments(), {0: message, 1: source})
    except OSError:
        raise Refused(NO_EXEC) from None


def main() -> int:
    told = is_error_pipe()
    try:
        occupy_low_descriptors()
        run()
    except Refused as refused:
        if not told or not refused.said:
            return refused.status
        try:
            os.write(ERROR_PIPE, refused.said[:250])
        except OSError:
            return refused.status
        return CUSTOM
    except BaseException:  # noqa: BLE001  # 1 would do, but Python would also write to somebody's pipe
        return BUG
    return BUG


if __name__ == "__main__":
    os._exit(main())
