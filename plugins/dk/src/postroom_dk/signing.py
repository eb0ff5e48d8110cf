"""Makes DKIM signatures and ARC seals by way of dkimpy, with OpenSSL's arithmetic, a clock that is given, own folds."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import dkim
from postroom.mail import Body, BodyCollector, Field, InsertField

from postroom_dk.arc import ARC_FIELDS, ArcSet
from postroom_dk.canonical import CRLF, Canonicalization, HeaderField, canonical_body, header_octets, select
from postroom_dk.mailview import BodyDigests, header_fields
from postroom_dk.privatekey import PrivateKey
from postroom_dk.results import ArcResult, SignatureResult, Status

LINE_LENGTH = 76
MAX_LINE = 998  # RFC 5322 2.1.1: longer lines are broken on the way, and signatures with them
RELAXED_POLICY = dkim.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")

Tag = tuple[bytes, bytes]


def fold_tags(tags: Sequence[Tag], used: int) -> bytes:
    """`tag=value; …`, folded between tags and between the names of h=, never inside a word.

    `used`: octets that stand before it on the first line. The last tag begins a line of its own.
    """
    words: list[tuple[bytes, bytes]] = []  # what stands before a word on the same line, and the word
    for tag, value in tags[:-1]:
        names = value.replace(b" ", b"").split(b":") if tag == b"h" else [value]
        names = [name + b":" for name in names[:-1]] + [names[-1] + b";"]
        words.append((b" ", tag + b"=" + names[0]))
        words.extend((b"", name) for name in names[1:])
    lines, line = [], b" " * used
    for glue, word in words:
        if len(line) + len(glue) + len(word) > LINE_LENGTH:
            lines.append(line)
            line = b" " + word
        else:
            line += glue + word
    tag, value = tags[-1]
    return CRLF.join([*lines, line, b" " + tag + b"=" + value])[used:].lstrip(b" ")


def fold_base64(octets: bytes) -> bytes:
    text = base64.b64encode(octets)
    return (CRLF + b" ").join(text[start : start + LINE_LENGTH - 4] for start in range(0, len(text), LINE_LENGTH - 4))


class _OpenSslSigner(dkim.DomainSigner):  # type: ignore[misc]  # dkimpy ships no types
    """dkimpy's place for making a signature field, with our key."""

    key: PrivateKey

    def gen_header(
        self,
        fields: Sequence[Tag],
        include_headers: Iterable[bytes],
        canon_policy: dkim.CanonicalizationPolicy,
        header_name: bytes,
        pk: object,  # noqa: ARG002  # dkimpy's own form of the key
        standardize: bool = False,  # noqa: ARG002  # dkimpy's signature
    ) -> bytes:
        form = Canonicalization(canon_policy.header_algorithm.name)
        unsigned = fold_tags([*(tag for tag in fields if tag[0] != b"b"), (b"b", b"")], len(header_name) + 1)
        signed = [self.headers[position] for position in select(self.headers, include_headers)]
        octets = header_octets(signed, (header_name, b" " + unsigned + CRLF), form)
        return unsigned + fold_base64(self.key.sign(hashlib.sha256(octets).digest())) + CRLF


class OpenSslDkim(_OpenSslSigner, dkim.DKIM):  # type: ignore[misc]
    """Signs one mail with one key. dkimpy's `sign` would parse the key again and take its time over the body."""

    def __init__(self, fields: Sequence[HeaderField], bodies: BodyDigests, key: PrivateKey) -> None:
        super().__init__(signature_algorithm=key.algorithm.value)
        self.headers, self._bodies, self.key = fields, bodies, key

    def signature_field(self, domain: str, selector: str, names: Sequence[bytes], now: int, expires: int) -> bytes:
        """The value of a DKIM-Signature field (RFC 6376 3.5), relaxed/relaxed, for the whole body: never l=."""
        tags = [
            (b"v", b"1"),
            (b"a", self.key.algorithm.value),
            (b"c", b"relaxed/relaxed"),
            (b"d", domain.encode()),
            (b"s", selector.encode()),
            (b"t", b"%d" % now),
            *([(b"x", b"%d" % expires)] if expires else []),
            (b"h", b":".join(names)),
            (b"bh", base64.b64encode(self._bodies.get(Canonicalization.RELAXED).digest)),
        ]
        value: bytes = self.gen_header(tags, names, RELAXED_POLICY, b"DKIM-Signature", None)
        return b" " + value.removesuffix(CRLF)


class OpenSslSealer(_OpenSslSigner, dkim.ARC):  # type: ignore[misc]
    """Adds an ARC set to one mail. `headers` are ordered as a chain is, whatever order the mail has."""

    def __init__(self, fields: Sequence[Field], body: Body, sets: Sequence[ArcSet], key: PrivateKey) -> None:
        super().__init__()
        newest_first = [arc_set.fields[kind] for arc_set in reversed(sets) for kind in reversed(ARC_FIELDS)]
        dropped = {b"authentication-results", *ARC_FIELDS}
        others = [found for found in header_fields(fields) if found[0].strip().lower() not in dropped]
        self.headers = [*newest_first, *others]
        self.body = canonical_body(body.chunks(), Canonicalization.RELAXED)  # dkimpy's own form is then quick
        self.should_not_sign = set(dkim.DKIM.SHOULD_NOT) - {b"dkim-signature"}  # RFC 8617 4.1.2 wants it signed
        self._sets, self.key = sets, key

    def sorted_arc_headers(self) -> tuple[int, list[tuple[int, HeaderField]]]:
        """dkimpy's place for finding the sets, newest first."""
        return len(self._sets), [
            (arc_set.instance, (kind, arc_set.fields[kind][1]))
            for arc_set in reversed(self._sets)
            for kind in reversed(ARC_FIELDS)
        ]

    def seal(
        self, domain: str, selector: str, names: Sequence[bytes], now: int, authserv_id: str, results: str
    ) -> tuple[InsertField, ...]:
        """The edits that put the three fields on top; `results` is what our Authentication-Results field says."""
        self.headers = [(b"Authentication-Results", f" {authserv_id}; {results}".encode() + CRLF), *self.headers]
        lines = self.sign(
            selector.encode(), domain.encode(), self.key.traditional_pem, authserv_id.encode(), names, timestamp=now
        )
        parts = [line.removesuffix(CRLF).partition(b":") for line in reversed(lines)]
        return tuple(InsertField(name, value) for name, _, value in parts)


def names_to_sign(fields: Iterable[Field], sign: Iterable[str], oversign: Iterable[str]) -> tuple[bytes, ...]:
    """h=: each field that is there as often as it is, those of `oversign` once more, so that none can be added."""
    counts = Counter(found.name.strip().lower() for found in fields)
    frozen = {name.lower().encode() for name in oversign}
    wanted = dict.fromkeys([*(name.lower().encode() for name in sign), *sorted(frozen)])
    return tuple(name for name in wanted for _ in range(counts[name] + (name in frozen)))


def results_text(signatures: Iterable[SignatureResult], arc: ArcResult) -> str:
    """Our own results as the value of an Authentication-Results field has them (RFC 8617 4.1.1)."""
    parts = [
        f"dkim={found.status}"
        + (f" header.d={found.domain}" if found.domain else "")
        + (f" header.s={found.selector}" if found.selector else "")
        for found in signatures
    ] or [f"dkim={Status.NONE}"]
    return "; ".join([*parts, f"arc={arc.status}"])


def with_crlf(body: Body) -> Body | None:
    """The body with every bare CR or LF as CRLF (RFC 6376 5.3); None when it has none."""
    if not _has_bare_line_ends(body):
        return None
    collector, held = BodyCollector(), b""
    for chunk in body.chunks():
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        collector.append(_converted(octets.removesuffix(b"\r") if held else octets))
    collector.append(CRLF if held else b"")
    return collector.finish()


def _converted(octets: bytes) -> bytes:
    return octets.replace(CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", CRLF)


def _has_bare_line_ends(body: Body) -> bool:
    held = b""
    for chunk in body.chunks():
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        pairs = octets.count(CRLF)
        if octets.count(b"\n") != pairs or octets.count(b"\r") - len(held) != pairs:
            return True
    return bool(held)


def has_line_over(body: Body, limit: int) -> bool:
    """Whether a line is longer than `limit` octets without its CRLF; looks only where a line may end."""
    rest, window = b"", limit + len(CRLF)
    for chunk in body.chunks():
        octets, start = rest + chunk, 0
        while len(octets) - start > window:
            end = octets.rfind(b"\n", start, start + window)
            if end < 0:
                return True
            start = end + 1
        rest = octets[start:]
    return any(len(line.removesuffix(b"\r")) > limit for line in rest.split(b"\n"))
