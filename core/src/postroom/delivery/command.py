"""Delivery to a program: mail on standard input, exit status read as Postfix' pipe(8) reads it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from postroom.delivery.parcel import Parcel, lf_chunks
from postroom.delivery.report import DELIVERED, UNAVAILABLE, Report, bad_mailbox_name, leading_status
from postroom.hookspecs import Logger
from postroom.mail import Address

MAX_OUTPUT = 4096  # octets of a program's output that are kept
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C"}

_PLACEHOLDER = re.compile(r"\{(?:sender|recipient|user|domain|queue_id|folder)\}")

_STATUS = {  # sysexits.h to (enhanced code, text), as pipe(8) maps them
    os.EX_USAGE: ("5.3.0", "Command line usage error"),
    os.EX_DATAERR: ("5.6.0", "Data format error"),
    os.EX_NOINPUT: ("5.3.0", "Cannot open input"),
    os.EX_NOUSER: ("5.1.1", "User unknown"),
    os.EX_NOHOST: ("5.1.2", "Host name unknown"),
    os.EX_UNAVAILABLE: ("5.3.0", "Service unavailable"),
    os.EX_SOFTWARE: ("5.3.0", "Internal software error"),
    os.EX_OSERR: ("4.3.0", "System error - try again later"),
    os.EX_OSFILE: ("5.3.0", "Critical system file missing"),
    os.EX_CANTCREAT: ("5.2.0", "Cannot create output file"),
    os.EX_IOERR: ("5.3.0", "Input or output error"),
    os.EX_TEMPFAIL: ("4.3.0", "Temporary failure - try again later"),
    os.EX_PROTOCOL: ("5.5.0", "Remote error in protocol"),
    os.EX_NOPERM: ("5.7.0", "Permission denied"),
    os.EX_CONFIG: ("5.3.5", "Local configuration error"),
}
_DIED = ("5.3.0", "Command failed")
_BROKE = ("4.3.0", "Command failed - try again later")

QMAIL_AGAIN = 111
"""What programs say that were written for qmail (qmail-command(8))."""
SHELL_FAILED = 126
"""From here on a shell says that a program is not there, may not be run, or died of a signal (POSIX, sh): that is
temporary without a shell between, too. pipe(8) would bounce the mail.
"""


class CommandDelivery:
    """Runs one program a mail, from a list of arguments and never through a shell."""

    def __init__(self, command: Sequence[str], timeout: float, log: Logger, *, delimiter: str = "+") -> None:
        self._command, self._timeout, self._log, self._delimiter = tuple(command), timeout, log, delimiter

    def final(self, recipient: Address) -> bool:  # noqa: ARG002  # the same for all
        return True

    def check(self, recipient: Address, root: Path | None = None) -> Report | None:  # noqa: ARG002  # Maildirs only
        return None if recipient.text and "\0" not in recipient.text else bad_mailbox_name()

    def deliver(self, parcel: Parcel) -> Report:
        arguments = fill(self._command, parcel, self._delimiter)
        if arguments is None:
            return bad_mailbox_name()
        try:
            return self._run(arguments, parcel)
        except (OSError, ValueError) as error:  # not there, not executable, no process: pipe(8) defers too
            self._log.error(
                "command cannot be run", queue_id=parcel.envelope.queue_id, command=arguments[0], error=str(error)
            )
            return UNAVAILABLE

    def close(self) -> None:
        pass

    def _run(self, arguments: list[str], parcel: Parcel) -> Report:
        with tempfile.TemporaryFile() as mail:  # a file, not a pipe: some programs seek, and none can block us
            for chunk in lf_chunks(parcel.message):
                mail.write(chunk)
            mail.seek(0)
            with subprocess.Popen(
                arguments,
                stdin=mail,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            ) as process:
                assert process.stdout is not None
                output = _watch(process, process.stdout, self._timeout)
        facts = {"queue_id": parcel.envelope.queue_id, "command": arguments[0], "recipient": parcel.recipient.text}
        if output is None:
            self._log.error("command overran its time limit and was killed", seconds=self._timeout, **facts)
            return UNAVAILABLE
        if process.returncode:
            self._log.warning("command failed", status=process.returncode, output=output, **facts)
        return report(process.returncode, output)


def fill(command: Sequence[str], parcel: Parcel, delimiter: str = "+") -> list[str] | None:
    """The arguments for this mail; None when an address would be taken for an option or cannot be an argument."""
    values = {
        "{sender}": parcel.envelope.sender.text,
        "{recipient}": parcel.recipient.text,
        "{user}": parcel.recipient.without_tag(delimiter).rpartition("@")[0],  # pipe(8): without the extension
        "{domain}": parcel.recipient.domain,
        "{queue_id}": parcel.envelope.queue_id,
        "{folder}": parcel.folder,
    }
    filled = []
    for template in command:
        argument = _PLACEHOLDER.sub(lambda found: values[found[0]], template)
        if "\0" in argument or (argument.startswith("-") and not template.startswith("-")):
            return None
        filled.append(argument)
    return filled


def report(status: int, output: str) -> Report:
    """What an exit status means; an enhanced code at the start of the output comes first, as in pipe(8)."""
    if status == 0:
        return DELIVERED
    said = leading_status(output)
    if status < 0:  # killed by a signal
        return UNAVAILABLE
    if said is not None and said[0][0] in "45":
        enhanced, text = said
        return Report("451" if enhanced[0] == "4" else "550", enhanced, text.strip() or "Command failed")
    enhanced, text = _STATUS.get(status, _BROKE if status == QMAIL_AGAIN or status >= SHELL_FAILED else _DIED)
    return Report("451" if enhanced[0] == "4" else "550", enhanced, text)


def _watch(process: subprocess.Popen[bytes], output: IO[bytes], timeout: float) -> str | None:
    """The beginning of what the program wrote, once it has ended; None when it had to be killed.

    A grandchild that keeps the pipe open holds nobody up: the program's own end counts.
    """
    deadline = time.monotonic() + timeout
    kept = bytearray()
    os.set_blocking(output.fileno(), False)
    ended = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(output.fileno(), select.POLLIN)
    poll.register(ended, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poll.poll(left * 1000))
            if output.fileno() in ready and not _drain(output, kept):
                poll.unregister(output.fileno())
            if ended in ready:
                _drain(output, kept)
                process.wait()
                return " ".join(kept.decode("utf-8", "replace").split())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
    finally:
        os.close(ended)


def _drain(output: IO[bytes], kept: bytearray) -> bool:
    """Take what is there; False at the end of the stream."""
    while True:
        try:
            chunk = os.read(output.fileno(), 65536)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        kept += chunk[: max(0, MAX_OUTPUT - len(kept))]
