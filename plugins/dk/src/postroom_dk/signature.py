"""A signature field's text to its parts, with limits; what RFC 6376 6.1.1 asks of it before any key is fetched."""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dkim.util import InvalidTagValueList, parse_tag_value
from postroom.mail import to_a_label

from postroom_dk.canonical import CRLF, Canonicalization
from postroom_dk.results import Problem, Status

MAX_SIGNATURE_FIELD = 16384
"""Octets of one signature field that are looked at; real ones have less than 2,000."""
MAX_SIGNED_NAMES = 1024
"""Names in h=; real lists have less than 60."""
CLOCK_SKEW = 300
"""Seconds that another host's clock may be off (as opendkim's ClockSkew)."""

_TAG_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")  # RFC 6376 3.2
_DOMAIN = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_FIELD_NAME = re.compile(rb"[!-9<-~]+")  # RFC 6376 3.5 h=: ftext without ";"
_NUMBER = re.compile(rb"[0-9]{1,76}")
_HEX_OCTET = re.compile(rb"=([0-9A-Fa-f]{2})")  # RFC 6376 2.11
MAX_DOMAIN = 253


class Algorithm(enum.Enum):
    RSA_SHA256 = b"rsa-sha256"
    ED25519_SHA256 = b"ed25519-sha256"

    @property
    def key_type(self) -> str:
        return self.value.partition(b"-")[0].decode()


@dataclass(frozen=True)
class Signature:
    """The parts of a DKIM-Signature, ARC-Message-Signature or ARC-Seal field that passed the checks on its own text."""

    tags: Mapping[bytes, bytes]
    algorithm: Algorithm
    header_form: Canonicalization
    body_form: Canonicalization
    domain: str
    selector: str
    identity_domain: str
    names: tuple[bytes, ...]
    body_hash: bytes
    signature: bytes
    length: int | None = None


def unfolded(value: bytes) -> bytes:
    return value.replace(CRLF, b"").replace(b"\n", b"").strip(b" \t\r")


def parse_tags(value: bytes) -> Mapping[bytes, bytes]:
    """Tags of a signature field or key record (RFC 6376 3.2)."""
    if len(value) > MAX_SIGNATURE_FIELD:
        raise Problem(Status.POLICY, f"field longer than {MAX_SIGNATURE_FIELD} octets")
    try:
        tags: Mapping[bytes, bytes] = parse_tag_value(unfolded(value))
    except InvalidTagValueList:
        raise Problem(Status.NEUTRAL, "no valid list of tags") from None
    if any(not _TAG_NAME.fullmatch(name) for name in tags):
        raise Problem(Status.NEUTRAL, "no valid list of tags")
    return tags


def domain_text(octets: bytes) -> str:
    """A domain or selector in A-label form; empty when it is none."""
    try:
        text = to_a_label(octets.decode("utf-8").strip())
    except UnicodeDecodeError:
        return ""
    return text if len(text) <= MAX_DOMAIN and _DOMAIN.fullmatch(text) else ""


def parse_dkim_signature(tags: Mapping[bytes, bytes], now: float) -> Signature:
    """A DKIM-Signature field's parts (RFC 6376 3.5, 6.1.1); Problem when it cannot be valid whatever the key is."""
    _require(tags, b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
    if tags[b"v"] != b"1":
        raise Problem(Status.NEUTRAL, "unknown version")
    domain = _domain(tags, b"d")
    identity_domain = domain
    if b"i" in tags:
        _, at, text = _unquoted(tags[b"i"]).rpartition(b"@")  # before it nothing, or any local part, quoted ones too
        identity_domain = domain_text(text)
        if not at or not identity_domain:
            raise Problem(Status.NEUTRAL, "i= is no address")
        if identity_domain != domain and not identity_domain.endswith("." + domain):
            raise Problem(Status.PERMERROR, "i= is not within d=")  # RFC 6376 6.1.1: domain mismatch
    methods = [method.strip() for method in tags.get(b"q", b"dns/txt").split(b":")]
    if b"dns/txt" not in methods:
        raise Problem(Status.NEUTRAL, "no known q= method")
    header_form, body_form = _forms(tags.get(b"c", b"simple/simple"))
    signature = Signature(
        tags,
        _algorithm(tags),
        header_form,
        body_form,
        domain,
        _domain(tags, b"s"),
        identity_domain,
        _signed_names(tags),
        _base64(tags, b"bh"),
        _base64(tags, b"b"),
        _number(tags, b"l"),
    )
    _check_times(tags, now)
    return signature


def parse_arc_message_signature(tags: Mapping[bytes, bytes]) -> Signature:
    """RFC 8617 4.1.2: as a DKIM-Signature, with i= the instance, without v=, always relaxed where c= is not given.

    From may be left unsigned: the chain says who handled the mail, and its result names what it does not cover.
    """
    _require(tags, b"i", b"a", b"b", b"bh", b"d", b"h", b"s")
    if b"v" in tags:
        raise Problem(Status.FAIL, "ARC-Message-Signature with v=")
    header_form, body_form = _forms(tags.get(b"c", b"relaxed/relaxed"))
    names = tuple(filter(None, _listed_names(tags)))  # blank names sign nothing, nor does an empty list: others agree
    _check_names(names)
    if b"arc-seal" in names:
        raise Problem(Status.FAIL, "ARC-Message-Signature signs an ARC-Seal")
    domain = _domain(tags, b"d")
    return Signature(
        tags,
        _algorithm(tags),
        header_form,
        body_form,
        domain,
        _domain(tags, b"s"),
        domain,
        names,
        _base64(tags, b"bh"),
        _base64(tags, b"b"),
        _number(tags, b"l"),
    )


def parse_arc_seal(tags: Mapping[bytes, bytes]) -> Signature:
    """RFC 8617 4.1.3: covers ARC fields only, in relaxed form; h=, bh=, c= have no place in it."""
    _require(tags, b"i", b"a", b"b", b"cv", b"d", b"s")
    if b"h" in tags or b"bh" in tags:
        raise Problem(Status.FAIL, "ARC-Seal with h= or bh=")
    domain = _domain(tags, b"d")
    relaxed = Canonicalization.RELAXED
    return Signature(
        tags, _algorithm(tags), relaxed, relaxed, domain, _domain(tags, b"s"), domain, (), b"", _base64(tags, b"b")
    )


def _unquoted(value: bytes) -> bytes:
    """A tag's value out of DKIM-Quoted-Printable (RFC 6376 2.11); in i= any octet may be written so."""
    return _HEX_OCTET.sub(lambda found: bytes.fromhex(found[1].decode()), value)


def _require(tags: Mapping[bytes, bytes], *names: bytes) -> None:
    for name in names:
        if name not in tags:
            raise Problem(Status.PERMERROR, f"{name.decode()}= is missing")


def _algorithm(tags: Mapping[bytes, bytes]) -> Algorithm:
    if tags[b"a"].lower() == b"rsa-sha1":
        raise Problem(Status.FAIL, "rsa-sha1 is no longer valid")  # RFC 8301 3.1
    try:
        return Algorithm(tags[b"a"].lower())
    except ValueError:
        raise Problem(Status.NEUTRAL, "unknown algorithm") from None


def _domain(tags: Mapping[bytes, bytes], name: bytes) -> str:
    text = domain_text(tags[name])
    if not text:
        raise Problem(Status.NEUTRAL, f"{name.decode()}= is no domain")
    return text


def _forms(octets: bytes) -> tuple[Canonicalization, Canonicalization]:
    header, _, body = octets.lower().partition(b"/")
    try:
        return Canonicalization(header.strip()), Canonicalization(body.strip() or b"simple")
    except ValueError:
        raise Problem(Status.NEUTRAL, "unknown canonicalization") from None


def _signed_names(tags: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    names = _listed_names(tags)
    if names == (b"",):
        raise Problem(Status.PERMERROR, "h= is empty")
    _check_names(names)
    if b"from" not in names:
        raise Problem(Status.PERMERROR, "From is not signed")  # RFC 6376 6.1.1
    return names


def _listed_names(tags: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    if tags[b"h"].count(b":") >= MAX_SIGNED_NAMES:
        raise Problem(Status.POLICY, f"more than {MAX_SIGNED_NAMES} names in h=")
    return tuple(name.strip().lower() for name in tags[b"h"].split(b":"))


def _check_names(names: Iterable[bytes]) -> None:
    if any(not _FIELD_NAME.fullmatch(name) for name in names):
        raise Problem(Status.NEUTRAL, "h= is no list of field names")


def _base64(tags: Mapping[bytes, bytes], name: bytes) -> bytes:
    try:
        octets = base64.b64decode(b"".join(tags[name].split()), validate=True)
    except binascii.Error:
        raise Problem(Status.NEUTRAL, f"{name.decode()}= is no base64") from None
    if not octets:
        raise Problem(Status.NEUTRAL, f"{name.decode()}= is empty")
    return octets


def _number(tags: Mapping[bytes, bytes], name: bytes) -> int | None:
    if name not in tags:
        return None
    if not _NUMBER.fullmatch(tags[name]):
        raise Problem(Status.NEUTRAL, f"{name.decode()}= is no number")
    return int(tags[name])


def _check_times(tags: Mapping[bytes, bytes], now: float) -> None:
    made, expires = _number(tags, b"t"), _number(tags, b"x")
    if made is not None and made > now + CLOCK_SKEW:
        raise Problem(Status.NEUTRAL, "t= is in the future")
    if expires is None:
        return
    if made is not None and expires < made:
        raise Problem(Status.NEUTRAL, "x= is before t=")
    if expires < now - CLOCK_SKEW:
        raise Problem(Status.FAIL, "expired")  # RFC 6376 3.5 x=
