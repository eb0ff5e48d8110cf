"""Reads a log's lines from a file, also from one that its rotation has compressed."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"  # RFC 1952, RFC 8878


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[Iterable[str]]:
    """Its lines; a damaged one ends with an error that names it."""
    with path.open("rb") as file:
        begins = file.peek(6)[:6]
        if begins.startswith(_ZSTD):
            raise click.ClickException(f"{path} is compressed by zstd: zstdcat it into this command with --log -")
        with io.TextIOWrapper(_plain(file, begins), encoding="utf-8", errors="surrogateescape") as text:
            yield _lines(path, text)


def _plain(file: io.BufferedReader, begins: bytes) -> io.BufferedReader:
    import bz2  # these three only where a log is read
    import gzip
    import lzma

    if begins.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if begins.startswith(_BZIP2):
        return io.BufferedReader(bz2.BZ2File(file))
    if begins.startswith(_XZ):
        return io.BufferedReader(lzma.LZMAFile(file))
    return file


def _lines(path: Path, text: Iterable[str]) -> Iterator[str]:
    import lzma

    try:
        yield from text
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise click.ClickException(f"{path} cannot be read to its end: {error}") from None
