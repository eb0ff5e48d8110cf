"""Stands before qmail-remote: before-remote.

qmail-rspawn(8) runs `qmail-remote host sender recipient…`, with the queue's own file on descriptor 0 and a pipe for the
report on 1 and 2. The exit status is 0 whatever happens; the report is a letter and a text for each recipient, then one
for the mail, each ended by NUL.
"""

import os
import sys

from postroom.fronts.handover.client import (
    Answer,
    Away,
    arguments,
    ask,
    become,
    occupy_low_descriptors,
    spool,
    write_all,
)


def whole_report(letter: bytes, text: bytes, count: int) -> bytes:
    """The mail's own letter (K, Z, D) decides where every recipient's is r."""
    return b"r\0" * max(1, count) + letter + text + b"\n\0"


def report(answer: Answer, recipients: "list[bytes]") -> bytes:
    """For a mail that does not go on."""
    if answer.word == b"DONE":
        return whole_report(b"K", b"taken over by a mail handler", len(recipients))
    if not answer.out:
        return whole_report(b"D" if answer.word == b"REJECT" else b"Z", answer.reason(), len(recipients))
    letters = []  # those that could go on come again alone
    for recipient in recipients:
        action, text = answer.out.get(recipient, (b"DEFER", b""))
        letters.append((b"h" if action == b"REJECT" else b"s") + (text or b"try again later") + b"\n\0")
    return b"".join(letters) + b"Kanswered for each recipient\n\0"


def run() -> bytes:
    """Ends by becoming the original, or with the report."""
    argv = arguments()
    if len(argv) < 4:
        become(argv, {})
    sender, recipients = argv[2], argv[3:]
    try:
        os.lseek(0, 0, os.SEEK_SET)
        message = 0
    except OSError:
        message = spool(0)
    answer = ask(b"remote", {}, sender, recipients, message)
    if answer.word != b"PASS":
        return report(answer, recipients)
    if answer.message is not None:
        message = answer.message
    if answer.sender is not None:
        argv[2] = answer.sender
    os.lseek(message, 0, os.SEEK_SET)
    become(argv, {0: message})
    return b""


def main() -> int:
    count = len(sys.argv) - 3
    try:
        occupy_low_descriptors()
        said = run()
    except Away:
        said = whole_report(b"Z", b"Mail service unavailable - try again later (#4.3.0)", count)
    except OSError:
        said = whole_report(b"Z", b"Unable to handle the message (#4.3.0)", count)
    except BaseException:  # noqa: BLE001  # any other status than 0 or 111 bounces the mail
        said = whole_report(b"Z", b"Internal error of the mail service (#4.3.0)", count)
    try:
        write_all(1, said)
    except OSError:
        return 111  # the report cannot be written: qmail-rspawn takes this for temporary
    return 0


if __name__ == "__main__":
    os._exit(main())
