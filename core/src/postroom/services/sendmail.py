"""Submission through a sendmail program."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence

from postroom.mail import Address
from postroom.services.submission import SubmissionFailed, crlf_octets

MAX_SAID = 300  # characters of what the program said, in the error
_PERMANENT = frozenset({65, 67, 68, 77, 100})  # EX_DATAERR, NOUSER, NOHOST, NOPERM of sysexits(3); qmail's 100
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SendmailTransport:
    """Runs `program` with `-i -f sender -- recipients` and the mail on standard input; no shell."""

    def __init__(self, program: tuple[str, ...], timeout: float) -> None:
        self._program, self._timeout = program, timeout

    def send(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        addresses = [each.text.encode("utf-8", "surrogateescape") for each in (sender, *recipients)]
        arguments = [*map(os.fsencode, self._program), b"-i", b"-f", addresses[0], b"--", *addresses[1:]]
        with tempfile.TemporaryFile() as spool:
            for chunk in crlf_octets(mail):
                spool.write(chunk.replace(b"\r\n", b"\n"))  # the line ends of a local program
            spool.seek(0)
            status, said = self._run(arguments, spool.fileno())
        if status:
            text = " ".join(said.decode("utf-8", "backslashreplace").split())[-MAX_SAID:]
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise SubmissionFailed(
                f"{self._program[0]} {how}{f': {text}' if text else ''}", permanent=status in _PERMANENT
            )

    def _run(self, arguments: list[bytes], stdin: int) -> tuple[int, bytes]:
        environment = {"PATH": _PATH, "LANG": "C"}
        if "MAIL_CONFIG" in os.environ:
            environment["MAIL_CONFIG"] = os.environ["MAIL_CONFIG"]
        try:
            process = subprocess.Popen(
                arguments,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SubmissionFailed(f"{self._program[0]} cannot be run: {error.strerror}") from None
        with process:
            try:
                said, _ = process.communicate(timeout=self._timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise SubmissionFailed(f"{self._program[0]} took longer than {self._timeout:g} s") from None
        return process.returncode, said
