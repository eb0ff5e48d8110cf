"""Line ends of a program's mails: LF alone, where a mail has CR LF on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from postroom.mail import CRLF


def with_lf(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The octets with LF line ends; a CR LF that a chunk cuts in two is still one line end."""
    held = b""
    for chunk in chunks:
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        yield octets[: len(octets) - len(held)].replace(CRLF, b"\n")
    if held:
        yield held
