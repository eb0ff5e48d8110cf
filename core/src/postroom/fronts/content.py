"""Takes a mail's content as it comes in, parts header from body, and keeps the limits."""

from __future__ import annotations

import re

from postroom.mail import Body, BodyCollector, Field, Message, parse_message

MAX_HEADER = 2 << 20
"""Octets of header; twice what the milter front lets in, so that nothing is accepted there and bounced here."""

MEMORY_LIMIT = 256 << 10
"""Octets of a body kept in memory for each connection; a longer one is spooled."""

_LONE_LF = re.compile(rb"(?<!\r)\n")


class ContentReceiver:
    """Call `take` for each piece, none of which ends between CR and LF, then `finish`; then look what went wrong."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._head = bytearray()
        self._fields: tuple[Field, ...] | None = None
        self._body = BodyCollector(MEMORY_LIMIT)
        self.size = 0
        self.too_big = False
        self.header_too_long = False
        self.failed: OSError | None = None

    def finish(self) -> Message:
        """The mail, once all of it was taken."""
        if self._fields is None:
            self._part(bytes(self._head))
        assert self._fields is not None
        try:
            return Message(self._fields, self._body.finish())
        except OSError as error:
            self.failed = error
            return Message(self._fields, Body())

    def take(self, octets: bytes) -> None:
        """More of it, line ends CRLF; a lone LF becomes one."""
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
        self._body = BodyCollector(MEMORY_LIMIT)
