"""Pure: the form of a sender in which two attempts of one mail are recognised as the same."""

from __future__ import annotations

import re

from postroom.lists.patterns import NULL
from postroom.mail import Address

_SRS0 = re.compile(r"srs0[=+-][^=]+=[^=]+=(.+)")  # SRS0=hash=time=domain=user
_SRS1 = re.compile(r"srs1[=+-][^=]+=([^=]+)=[=+-][^=]+=[^=]+=(.+)")  # SRS1=hash=forwarder==hash=time=domain=user
_BATV = re.compile(r"(?:prvs=\d[0-9a-f]{9}=(.+)|btv1==[0-9a-f]+==(.+)|prvs=([^=]+)=[0-9a-f]{10})")
_UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])")  # RFC 9562 4
_TOKEN = re.compile(r"[^-_.=#]+")
_DIGITS = re.compile(r"\d+")
_HEXADECIMAL = re.compile(r"(?=.*\d)[0-9a-f]{6,}")
_SERIAL_LENGTH = 16
"""A word of this length with a digit in it is a serial number in some alphabet, not a name."""


def normalised(sender: Address, *, strip_tags: bool) -> str:
    """The sender's key; with `strip_tags`, less what changes from one mail or attempt to the next."""
    if not sender:
        return NULL
    local, at, domain = sender.key.rpartition("@")
    if not at:
        local, domain = domain, ""
    return f"{_stripped(local) if strip_tags else local}{at}{domain}"


def _stripped(local: str) -> str:
    """`bounce-4711-bob=example.org+x` to `bounce-#-bob=example.org`."""
    if found := _SRS1.fullmatch(local):
        return f"srs1={found[1]}={found[2]}"
    if found := _SRS0.fullmatch(local):
        return f"srs0={found[1]}"
    if found := _BATV.fullmatch(local):
        local = found[1] or found[2] or found[3]
    local = local.partition("+")[0] or local
    return _TOKEN.sub(lambda word: _without_number(word[0]), _UUID.sub("#", local))


def _without_number(word: str) -> str:
    serial = _HEXADECIMAL.fullmatch(word) or (len(word) >= _SERIAL_LENGTH and _DIGITS.search(word))
    return "#" if serial else _DIGITS.sub("#", word)
