"""Submission over SMTP: all recipients, or none."""

from __future__ import annotations

import contextlib
import re
import smtplib
from collections.abc import Callable, Iterable, Iterator, Sequence

from postroom.mail import Address

FINAL_WAIT = 600.0
"""Seconds for the answer to the final dot: who gives up sooner sends the mail twice (RFC 5321 4.5.3.2.6)."""

_LINE_END = re.compile(rb"\r\n|\r|\n")


class SubmissionFailed(OSError):
    """The mail server did not take the mail. `refused` are the recipients that it named, where it named some."""

    def __init__(self, text: str, *, permanent: bool = False, refused: tuple[Address, ...] = ()) -> None:
        super().__init__(text)
        self.permanent, self.refused = permanent, refused


class SmtpTransport:
    """Speaks to one SMTP server. `timeout` is for each wait; `host_name` is how we call ourselves."""

    def __init__(self, host: str, port: int, timeout: float, host_name: Callable[[], str]) -> None:
        self._host, self._port, self._timeout, self._host_name = host, port, timeout, host_name

    def send(self, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        try:
            with contextlib.closing(self._connect()) as smtp:
                self._send(smtp, sender, recipients, mail)
                with contextlib.suppress(OSError):  # the mail is theirs by now
                    smtp.docmd("QUIT")
        except SubmissionFailed:
            raise
        except OSError as error:  # smtplib.SMTPException is one
            raise SubmissionFailed(f"mail server {self._host}:{self._port}: {_one_line(error)}") from None

    def _connect(self) -> smtplib.SMTP:
        smtp = smtplib.SMTP(self._host, self._port, local_hostname=self._host_name(), timeout=self._timeout)
        try:
            smtp.ehlo_or_helo_if_needed()
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _send(self, smtp: smtplib.SMTP, sender: Address, recipients: Sequence[Address], mail: Iterable[bytes]) -> None:
        options = self._options(smtp, (sender, *recipients))
        _expect(2, _command(smtp, b"MAIL FROM:<%b>%b" % (_octets(sender), options)), "sender", (sender,))
        # All of them first: a mail that only some would get is not sent, or they would get it twice.
        refused = []
        for recipient in recipients:
            answer = _command(smtp, b"RCPT TO:<%b>" % _octets(recipient))
            if answer[0] // 100 != 2:
                refused.append((recipient, answer))
        if refused:
            _command(smtp, b"RSET")
            raise _refusal(refused)
        _expect(3, _command(smtp, b"DATA"), "mail", ())
        for chunk in smtp_octets(mail):
            smtp.send(chunk)
        assert smtp.sock is not None
        smtp.sock.settimeout(max(self._timeout, FINAL_WAIT))
        _expect(2, smtp.getreply(), "mail", ())

    def _options(self, smtp: smtplib.SMTP, addresses: Iterable[Address]) -> bytes:
        options = b" BODY=8BITMIME" if smtp.has_extn("8bitmime") else b""  # RFC 6152; 7-bit mail may say so, too
        international = [each for each in addresses if not each.text.isascii() and _is_utf8(each)]
        if international and not smtp.has_extn("smtputf8"):
            raise SubmissionFailed(
                f"mail server {self._host}:{self._port} takes no internationalised addresses (RFC 6531)",
                permanent=True,
                refused=tuple(international),
            )
        return options + (b" SMTPUTF8" if international else b"")


def _command(smtp: smtplib.SMTP, line: bytes) -> tuple[int, bytes]:
    smtp.send(line + b"\r\n")
    return smtp.getreply()


def _octets(address: Address) -> bytes:
    return address.text.encode("utf-8", "surrogateescape")


def _is_utf8(address: Address) -> bool:
    try:
        address.text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expect(kind: int, answer: tuple[int, bytes], what: str, who: tuple[Address, ...]) -> None:
    code, text = answer
    if code // 100 != kind:
        raise SubmissionFailed(
            f"the mail server refused the {what}: {code} {_decoded(text)}", permanent=code // 100 == 5, refused=who
        )


def _refusal(refused: Sequence[tuple[Address, tuple[int, bytes]]]) -> SubmissionFailed:
    told = "; ".join(f"{recipient} ({code} {_decoded(text)})" for recipient, (code, text) in refused[:3])
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    return SubmissionFailed(
        f"the mail server refused {told}{more}",
        permanent=all(code // 100 == 5 for _, (code, _) in refused),
        refused=tuple(recipient for recipient, _ in refused),
    )


def _decoded(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "backslashreplace").split())


def _one_line(error: OSError) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error if isinstance(error.smtp_error, bytes) else str(error.smtp_error).encode()
        return f"{error.smtp_code} {_decoded(said)}"
    return " ".join((error.strerror or str(error) or type(error).__name__).split())


def smtp_octets(mail: Iterable[bytes]) -> Iterator[bytes]:
    """A mail as it goes after DATA: CRLF line ends only, dots doubled, the final dot (RFC 5321 2.3.8, 4.5.2)."""
    line_start = True
    for chunk in crlf_octets(mail):
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        yield b"." + stuffed if line_start and stuffed.startswith(b".") else stuffed
        line_start = chunk.endswith(b"\r\n")
    yield b".\r\n" if line_start else b"\r\n.\r\n"


def crlf_octets(mail: Iterable[bytes]) -> Iterator[bytes]:
    """With bare CR and LF made line ends: one that passed could end the mail early for the next server."""
    held = b""
    for chunk in mail:
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        octets = octets[: len(octets) - len(held)]
        if not octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r"):
            octets = _LINE_END.sub(b"\r\n", octets)
        if octets:
            yield octets
    if held:
        yield b"\r\n"
