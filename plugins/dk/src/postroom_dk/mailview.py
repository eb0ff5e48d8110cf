"""A mail as signatures see it: header fields as octets, digests of its body, its author, and what our host added."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from postroom.mail import Body, Field, Message, to_a_label

from postroom_dk.canonical import CRLF, BodyCanonicalizer, Canonicalization, HeaderField
from postroom_dk.signature import MAX_DOMAIN

SINGLE_FIELDS = frozenset(  # RFC 5322 3.6: at most once; Content-Type and the like: RFC 2045 3
    (
        *(b"date", b"from", b"sender", b"reply-to", b"to", b"cc", b"message-id", b"subject", b"mime-version"),
        *(b"content-type", b"content-transfer-encoding"),
    )
)
_DELIVERY_FIELDS = (b"return-path", b"delivered-to", b"x-original-to")

_LEXEMES = re.compile(r'"(?:[^"\\]|\\.)*"|\\.|[()]|[^"()\\]+|["\\]', re.DOTALL)  # RFC 5322 3.2
_ROUTE = re.compile(r"<\s*@[^<>:]*:")  # RFC 5322 4.4
_ATEXT = r"[^\x00-\x20\x7f()<>@,;:\\\"\[\].]+"
_AFTER_AT = re.compile(rf"@\s*(\[[^\[\]<>@]{{,{MAX_DOMAIN}}}\]|{_ATEXT}(?:\s*\.\s*{_ATEXT})*)", re.ASCII)


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


def author_domains(message: Message) -> tuple[str, ...]:
    """The domains of all addresses of all From fields (RFC 5322 3.6.2), as A-labels, each once.

    More than the grammar allows is taken for an address: nobody shall keep his domain's policy from being applied by
    a From that other programs read and this one does not. It takes time in proportion to the field, however it nests.
    """
    found: dict[str, None] = {}
    for each in message.fields:
        if each.name.strip().lower() == b"from":
            text = _ROUTE.sub("<", _bare(each.text))
            found |= dict.fromkeys(re.sub(r"\s+", "", domain) for domain in _AFTER_AT.findall(text))
    domains = (to_a_label(domain) for domain in found if len(domain) <= MAX_DOMAIN)
    return tuple(dict.fromkeys(domain for domain in domains if domain))


def _bare(text: str) -> str:
    """Without comments that end, and with nothing in quoted strings; never recursive."""
    kept: list[str] = []
    opened: list[int] = []  # where in `kept` each comment begins that has not ended
    for lexeme in _LEXEMES.finditer(text):
        word = lexeme[0]
        if word == "(":
            opened.append(len(kept))
            kept.append(" ")
        elif word == ")" and opened:
            del kept[opened.pop() :]
            kept.append(" ")
        else:
            kept.append('""' if word[0] == '"' and len(word) > 1 else word)
    return "".join(kept)
