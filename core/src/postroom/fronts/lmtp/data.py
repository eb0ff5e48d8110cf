"""What follows DATA: finds the end, undoes the dots, and parts header from body as the octets come in."""

from __future__ import annotations

import re

from postroom.mail import Body, BodyCollector, Field, Message, parse_message

MAX_HEADER = 2 << 20
"""Octets of header; twice what the milter front lets in, so that nothing is accepted there and bounced here."""

MEMORY_LIMIT = 256 << 10
"""Octets of a body kept in memory for each connection; a longer one is spooled."""

_END = b"\r\n.\r\n"
_LONE_LF = re.compile(rb"(?<!\r)\n")


class MailReceiver:
    """Takes the octets after 354 in pieces of any size.

    Only CRLF "." CRLF ends the mail (RFC 5321 4.1.1.4); a lone LF inside becomes CRLF, a lone CR stays, and neither
    ends a mail: where two servers disagree about that, mail is smuggled.
    """

    def __init__(self, max_message: int, spool_directory: str | None = None) -> None:
        self._max_message, self._spool_directory = max_message, spool_directory
        self._held = b"\r\n"  # the end of the DATA command's line: a dot may follow at once
        self._skip = 2
        self._head = bytearray()
        self._fields: tuple[Field, ...] | None = None
        self._body = BodyCollector(spool_directory, MEMORY_LIMIT)
        self.size = 0
        self.too_big = False
        self.header_too_long = False
        self.failed: OSError | None = None

    def feed(self, octets: bytes) -> bytes | None:
        """None while the mail goes on, else the octets that follow its end."""
        buffer = self._held + octets
        end = buffer.find(_END)
        if end >= 0:
            self._take(buffer[: end + 2])
            self._held = b""
            return buffer[end + len(_END) :]
        keep = next((length for length in range(4, 0, -1) if buffer.endswith(_END[:length])), 0)
        self._held = buffer[len(buffer) - keep :]
        self._take(buffer[: len(buffer) - keep])
        return None

    def finish(self) -> Message:
        """The mail, once `feed` has found its end."""
        if self._fields is None:
            self._part(bytes(self._head))
        assert self._fields is not None
        try:
            return Message(self._fields, self._body.finish())
        except OSError as error:
            self.failed = error
            return Message(self._fields, Body())

    def _take(self, octets: bytes) -> None:
        octets = octets.replace(b"\r\n.", b"\r\n")  # RFC 5321 4.5.2
        if self._skip and octets:
            octets, self._skip = octets[self._skip :], 0
        if octets.count(b"\n") != octets.count(b"\r\n"):
            octets = _LONE_LF.sub(b"\r\n", octets)
        self.size += len(octets)
        if self.size > self._max_message or self.failed:
            self._drop()
        elif self._fields is None:
            self._take_head(octets)
        else:
            self._append(octets)

    def _take_head(self, octets: bytes) -> None:
        searched = max(0, len(self._head) - 3)
        self._head += octets
        if self._head.startswith(b"\r\n") or self._head.find(b"\r\n\r\n", searched) >= 0:
            self._part(bytes(self._head))
        elif len(self._head) > MAX_HEADER:
            self._end_long_head()

    def _end_long_head(self) -> None:
        """No empty line in all this: either a line that is no field has ended the header, or it is too long."""
        whole_lines, line_end, rest = bytes(self._head).rpartition(b"\r\n")
        self._part(whole_lines + line_end)
        self.header_too_long = not self._body.size  # all of it was header
        self._append(rest)

    def _part(self, head: bytes) -> None:
        message = parse_message(head)
        self._fields = message.fields
        self.header_too_long = len(head) - message.body.size > MAX_HEADER
        self._head.clear()
        self._append(message.body.read())

    def _append(self, octets: bytes) -> None:
        try:
            self._body.append(octets)
        except OSError as error:  # the spool's disk is full
            self.failed = error
            self._drop()

    def _drop(self) -> None:
        """Let go of what was kept; the rest is read only to find the end."""
        self.too_big = self.size > self._max_message
        self._head.clear()
        self._fields = ()
        self._body = BodyCollector(self._spool_directory, MEMORY_LIMIT)
