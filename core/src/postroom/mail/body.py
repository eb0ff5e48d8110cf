"""The octets after the empty line, which many handlers may read at once: in memory, or in a file past a limit."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import BinaryIO

MEMORY_LIMIT = 1 << 20
"""Octets of a body kept in memory; a longer one is spooled to an unnamed file."""


class _SpoolReader(io.RawIOBase):
    """A read position of its own over a shared file: several handlers' threads may read one body."""

    def __init__(self, spool: _Spool, size: int) -> None:
        self._spool, self._size, self._position = spool, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed wants Buffer
        octets = os.pread(self._spool.file.fileno(), len(buffer), self._position)
        buffer[: len(octets)] = octets
        self._position += len(octets)
        return len(octets)


class _Spool:
    """An unnamed file that is closed when the last body or reader lets go of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        weakref.finalize(self, _close_quietly, file)


def _close_quietly(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # a full disk: whoever wrote was told
        file.close()


class Body:
    """The octets after the empty line: in memory when small, in an unnamed file when not."""

    def __init__(self, octets: bytes = b"", *, spool: _Spool | None = None, size: int | None = None) -> None:
        self._octets, self._spool = octets, spool
        self.size = len(octets) if size is None else size

    def open(self) -> BinaryIO:
        """A new reader at the start; safe to use beside others."""
        if self._spool is None:
            return io.BytesIO(self._octets)  # shares the bytes until somebody writes
        return io.BufferedReader(_SpoolReader(self._spool, self.size), 1 << 16)

    def read(self) -> bytes:
        """All of it at once: for bodies that the caller has bounded (`size`)."""
        if self._spool is None:
            return self._octets
        with self.open() as reader:
            return reader.read()

    def chunks(self, length: int = 1 << 16) -> Iterator[bytes]:
        if self._spool is None and self.size <= length:
            if self._octets:
                yield self._octets
            return
        with self.open() as reader:
            while chunk := reader.read(length):
                yield chunk


class BodyCollector:
    """Takes a body in chunks, as a front receives it, and spools past `memory_limit`.

    The spool is where `tempfile` puts files: a worker points that at the state directory.
    """

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self._memory_limit = memory_limit
        self._chunks: list[bytes] = []
        self._spool: _Spool | None = None
        self.size = 0

    def append(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._spool is None and self.size > self._memory_limit:
            self._spool = _Spool(tempfile.TemporaryFile())  # noqa: SIM115  # closed by _Spool
            self._spool.file.writelines(self._chunks)
            self._chunks.clear()
        if self._spool is None:
            self._chunks.append(chunk)
        else:
            self._spool.file.write(chunk)

    def finish(self) -> Body:
        if self._spool is None:
            return Body(b"".join(self._chunks))
        self._spool.file.flush()
        return Body(spool=self._spool, size=self.size)
