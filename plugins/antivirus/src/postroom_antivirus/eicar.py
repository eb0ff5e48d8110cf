"""The anti-malware test file (eicar.org), put together when it is asked for: no scanner shall find this package."""

from __future__ import annotations


def eicar() -> bytes:
    """68 octets that every scanner takes for a virus, and that do nothing."""
    return b"".join((b"X5O!P%@AP[4", b"\\", b"PZX54(P^)7CC)7}$EICAR-STAND", b"ARD-ANTIVIRUS-TEST-FILE!$H+H*"))


def mail_with(content: bytes, subject: str = "test of the virus scanner") -> bytes:
    """A mail that carries it as an attachment, as viruses come."""
    from base64 import encodebytes

    return (
        b"From: postmaster@localhost\r\nTo: postmaster@localhost\r\nSubject: " + subject.encode("ascii") + b"\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream; name=test.com\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + encodebytes(content).replace(b"\n", b"\r\n")
    )
