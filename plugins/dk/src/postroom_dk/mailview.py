"""A mail as signatures see it: header fields as octets, digests of its body, its author, and what our host added."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import getaddresses

from postroom.mail import Address, Body, Field, Message

from postroom_dk.canonical import CRLF, BodyCanonicalizer, Canonicalization, HeaderField

MAX_FROM = 8192
"""Octets of a From field that are read for its addresses."""

SINGLE_FIELDS = frozenset(  # RFC 5322 3.6: at most once; Content-Type and the like: RFC 2045 3
    (
        *(b"date", b"from", b"sender", b"reply-to", b"to", b"cc", b"message-id", b"subject", b"mime-version"),
        *(b"content-type", b"content-transfer-encoding"),
    )
)
_DELIVERY_FIELDS = (b"return-path", b"delivered-to", b"x-original-to")


class _BoundedHash:
    """SHA-256 of the first `limit` octets written, counting them all."""

    def __init__(self, limit: int | None) -> None:
        self._hash, self._limit, self.size = hashlib.sha256(), limit, 0

    def write(self, octets: bytes) -> None:
        wanted = len(octets) if self._limit is None else max(0, self._limit - self.size)
        self._hash.update(octets[:wanted])
        self.size += len(octets)

    def digest(self) -> bytes:
        return self._hash.digest()


@dataclass(frozen=True, slots=True)
class BodyDigest:
    digest: bytes
    size: int  # of the whole canonical body


@dataclass
class BodyDigests:
    """Digests of one body, each computed once however many signatures want it."""

    body: Body
    _known: dict[tuple[Canonicalization, int | None], BodyDigest] = field(default_factory=dict)

    def get(self, form: Canonicalization, length: int | None = None) -> BodyDigest:
        known = self._known.get((form, length))
        if known is None:
            bounded = _BoundedHash(length)
            canonicalizer = BodyCanonicalizer(form, bounded.write)
            for chunk in self.body.chunks(1 << 18):
                canonicalizer.update(chunk)
            canonicalizer.finish()
            known = self._known[form, length] = BodyDigest(bounded.digest(), bounded.size)
        return known


def header_fields(fields: Iterable[Field]) -> list[HeaderField]:
    return [(found.name, found.value + CRLF) for found in fields]


def without_own_additions(message: Message, host_name: str, authserv_id: str) -> Message:
    """The mail less what our own host and its handlers put on it: the mail as it arrived, as far as can be told.

    Fields that handlers added have no origin. On top stand the mail server's trace fields (RFC 5321 4.4) down to
    the first one that is not ours.
    """
    fields = [found for found in message.fields if found.origin >= 0] or list(message.fields)
    for position, found in enumerate(fields):
        if not _is_own_trace(found, host_name.lower(), authserv_id.lower()):
            return Message(tuple(fields[position:]), message.body)
    return Message(tuple(fields), message.body)


def _is_own_trace(found: Field, host_name: str, authserv_id: str) -> bool:
    name = found.name.strip().lower()
    if name in _DELIVERY_FIELDS:
        return True
    if name == b"received":
        by = re.search(r"\bby\s+(\S+)", found.text.lower()[:2000])
        return by is not None and by[1].rstrip(".;") == host_name
    if name == b"authentication-results":
        return found.text.partition(";")[0].split()[:1] == [authserv_id]
    return False


def author_addresses(message: Message) -> tuple[Address, ...]:
    """The addresses of all From fields (RFC 5322 3.6.2); what cannot be read as an address is left out."""
    texts = [found.text[:MAX_FROM] for found in message.fields if found.name.strip().lower() == b"from"]
    return tuple(Address(text) for _, text in getaddresses(texts) if "@" in text)


def author_domains(message: Message) -> tuple[str, ...]:
    domains = (address.domain for address in author_addresses(message))
    return tuple(dict.fromkeys(domain for domain in domains if domain))
