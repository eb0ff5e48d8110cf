"""What a scanner may call clean without having looked into it, and mails without harm that show it."""

from __future__ import annotations

import enum
import gzip
import io
import os
import zipfile

from postroom_antivirus.eicar import mail_with

LEVELS = 110
"""Archives inside each other: more than clamd ever opens (its MaxRecursion ends at 100), and 2 KB."""
_ENCRYPTED = 0x1  # APPNOTE.TXT 4.4.4, general purpose bit 0
_FLAGS_OF_FILE, _FLAGS_OF_ENTRY = 6, 8  # where they stand in its two headers (APPNOTE.TXT 4.3.7, 4.3.12)


class BlindSpot(enum.StrEnum):
    """What was called clean."""

    LIMITS = "archives inside each other beyond its limits"
    ENCRYPTED = "an encrypted archive"


def probe(spot: BlindSpot) -> bytes:
    """A mail that nobody can look into wholly; another one each time, since clamd remembers what was clean."""
    content = nested() if spot is BlindSpot.LIMITS else encrypted()
    return mail_with(content, subject="what cannot be looked into")


def nested(levels: int = LEVELS) -> bytes:
    content = os.urandom(16)
    for _ in range(levels):
        content = gzip.compress(content, mtime=0)
    return content


def encrypted() -> bytes:
    """A zip archive that says so of its one file; random octets look no different from encrypted ones."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("probe", os.urandom(64))
    octets = bytearray(packed.getvalue())
    octets[_FLAGS_OF_FILE] |= _ENCRYPTED
    octets[octets.rindex(b"PK\x01\x02") + _FLAGS_OF_ENTRY] |= _ENCRYPTED
    return bytes(octets)
