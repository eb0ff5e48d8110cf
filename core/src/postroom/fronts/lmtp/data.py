"""What follows DATA: finds the end, and undoes the dots."""

from __future__ import annotations

from postroom.fronts.content import ContentReceiver

_END = b"\r\n.\r\n"


class MailReceiver(ContentReceiver):
    """Takes the octets after 354 in pieces of any size.

    Only CRLF "." CRLF ends the mail (RFC 5321 4.1.1.4); a lone LF inside becomes CRLF, a lone CR stays, and neither
    ends a mail: where two servers disagree about that, mail is smuggled.
    """

    def __init__(self, max_message: int) -> None:
        super().__init__(max_message)
        self._held = b"\r\n"  # the end of the DATA command's line: a dot may follow at once
        self._skip = 2

    def feed(self, octets: bytes) -> bytes | None:
        """None while the mail goes on, else the octets that follow its end."""
        buffer = self._held + octets
        end = buffer.find(_END)
        if end >= 0:
            self._undo(buffer[: end + 2])
            self._held = b""
            return buffer[end + len(_END) :]
        keep = next((length for length in range(4, 0, -1) if buffer.endswith(_END[:length])), 0)
        self._held = buffer[len(buffer) - keep :]
        self._undo(buffer[: len(buffer) - keep])
        return None

    def _undo(self, octets: bytes) -> None:
        octets = octets.replace(b"\r\n.", b"\r\n")  # RFC 5321 4.5.2
        if self._skip and octets:
            octets, self._skip = octets[self._skip :], 0
        self.take(octets)
