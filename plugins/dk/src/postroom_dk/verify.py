"""Verifies DKIM signatures (RFC 6376 6) by way of dkimpy, with OpenSSL's arithmetic and the checks it leaves out."""

from __future__ import annotations

import enum
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import dkim
from postroom.hookspecs import LookupFailed, Resolver
from postroom.mail import Message

from postroom_dk.canonical import HeaderField, header_octets, select
from postroom_dk.keyrecord import PublicKey, parse_key_record
from postroom_dk.mailview import SINGLE_FIELDS, BodyDigests, header_fields
from postroom_dk.results import Problem, SignatureResult, Status
from postroom_dk.signature import Signature, domain_text, parse_dkim_signature, parse_tags

MAX_TXT_RECORDS = 8
"""TXT records at one key's name that are looked at."""

KeyParser = Callable[[bytes], PublicKey]


class LengthPolicy(enum.StrEnum):
    """What becomes of a signature that verifies but covers only the first octets of the body (l=, RFC 6376 8.2)."""

    POLICY = "policy"
    NEUTRAL = "neutral"
    ACCEPT = "accept"


def cached_key_parser(size: int = 1024) -> KeyParser:
    """`parse_key_record` that remembers; a key's text says all there is, so nothing in it ever gets old."""
    return functools.lru_cache(maxsize=size)(parse_key_record)


@dataclass
class KeySource:
    """Public keys of the signers of one mail; each name is asked for once. `remaining`: seconds left for it all."""

    resolver: Resolver
    remaining: Callable[[], float]
    parse: KeyParser = parse_key_record
    _known: dict[str, Sequence[PublicKey] | Problem] = field(default_factory=dict)

    def get(self, selector: str, domain: str) -> Sequence[PublicKey]:
        """All keys at the name, in the order of DNS' answer, at least one; Problem when there is none."""
        name = f"{selector}._domainkey.{domain}"
        if name not in self._known:
            try:
                self._known[name] = self._fetch(name)
            except Problem as problem:
                self._known[name] = problem
        known = self._known[name]
        if isinstance(known, Problem):
            raise Problem(known.status, known.reason)
        return known

    def fitting(self, signature: Signature) -> PublicKey:
        """The first key that allows this signature, else the first: its `check_use` says what is wrong.

        RFC 6376 3.6.2.2 leaves several records at one name undefined, and DNS gives them in any order. An rsa and an
        ed25519 key at one name are a mistake that many make, and no other key than that of its kind verifies a
        signature.
        """
        keys = self.get(signature.selector, signature.domain)
        return next((key for key in keys if key.allows(signature)), keys[0])

    def _fetch(self, name: str) -> Sequence[PublicKey]:
        seconds = self.remaining()
        if seconds <= 0:
            raise Problem(Status.TEMPERROR, "no time left")
        try:
            records = self.resolver.lookup(name, "TXT", timeout=seconds).records
        except LookupFailed:
            raise Problem(Status.TEMPERROR, "no answer from DNS for the key") from None
        if not records:
            raise Problem(Status.PERMERROR, "no key")
        keys: list[PublicKey] = []
        problems: list[Problem] = []
        for record in records[:MAX_TXT_RECORDS]:
            try:
                keys.append(self.parse(bytes(record)))
            except Problem as problem:
                problems.append(problem)
        if not keys:
            raise problems[0]
        return keys


class OpenSslVerifier(dkim.DKIM):  # type: ignore[misc]  # dkimpy ships no types
    """dkimpy's verifier for one signature that is already taken apart; raises Problem instead of returning False."""

    def __init__(self, fields: Sequence[HeaderField], position: int, bodies: BodyDigests, signature: Signature) -> None:
        super().__init__()
        self.headers = fields
        self._position, self._bodies, self._signature = position, bodies, signature

    def verify_headerprep(
        self,
        idx: int = 0,  # noqa: ARG002  # dkimpy's signature
    ) -> tuple[Mapping[bytes, bytes], Sequence[bytes], Sequence[HeaderField]]:
        """dkimpy's place for reading the field; idx is always 0: the one signature that we were given."""
        return self._signature.tags, self._signature.names, [self.headers[self._position]]

    def verify_sig(
        self,
        sig: Mapping[bytes, bytes],  # noqa: ARG002  # dkimpy's signature
        include_headers: Sequence[bytes],
        sig_header: HeaderField,
        dnsfunc: Callable[[], PublicKey],
    ) -> bool:
        """dkimpy's place for key and arithmetic; `dnsfunc` gives the key itself."""
        key = dnsfunc()
        check_body(self._signature, self._bodies)
        others = [found for position, found in enumerate(self.headers) if position != self._position]
        missing = sum(name.strip().lower() == b"from" for name, _ in others)  # RFC 6376 8.15: no From goes unsigned
        signed = [others[position] for position in select(others, [*include_headers, *[b"from"] * missing])]
        check_header(self._signature, key, header_octets(signed, sig_header, self._signature.header_form))
        return True


def check_body(signature: Signature, bodies: BodyDigests) -> None:
    body = bodies.get(signature.body_form, signature.length)
    if signature.length is not None and signature.length > body.size:
        raise Problem(Status.PERMERROR, "the body is shorter than l=")
    if body.digest != signature.body_hash:
        raise Problem(Status.FAIL, "the body was changed")


class HeaderMismatch(Problem):
    """The signature does not match header and key: perhaps our own host changed a signed field."""

    def __init__(self) -> None:
        super().__init__(Status.FAIL, "the signature does not match the header")


def check_header(signature: Signature, key: PublicKey, octets: bytes) -> None:
    if not key.verifies(signature.signature, hashlib.sha256(octets).digest(), signature.algorithm):
        raise HeaderMismatch


@dataclass(frozen=True)
class Verification:
    """How one mail's signatures are verified. `arrived` gives the mail less what our own host added to it."""

    message: Message
    arrived: Callable[[], Message]
    keys: KeySource
    now: float
    max_signatures: int = 8
    length_policy: LengthPolicy = LengthPolicy.POLICY

    @functools.cached_property
    def bodies(self) -> BodyDigests:
        return BodyDigests(self.message.body)

    @functools.cached_property
    def fields(self) -> list[HeaderField]:
        return header_fields(self.message.fields)

    @functools.cached_property
    def counts(self) -> Counter[bytes]:
        return Counter(name.strip().lower() for name, _ in self.fields)

    def results(self) -> tuple[SignatureResult, ...]:
        """One for each signature, topmost first; those over the limit share one."""
        positions = [at for at, (name, _) in enumerate(self.fields) if name.strip().lower() == b"dkim-signature"]
        found = [self._verify(position) for position in positions[: self.max_signatures]]
        if len(positions) > self.max_signatures:
            reason = f"{len(positions) - self.max_signatures} more signatures than are looked at"
            found.append(SignatureResult(Status.POLICY, reason=reason))
        return tuple(found)

    def _verify(self, position: int) -> SignatureResult:
        try:
            tags = parse_tags(self.fields[position][1])
        except Problem as problem:
            return SignatureResult(problem.status, reason=problem.reason)
        known = _described(tags)
        try:
            signature = parse_dkim_signature(tags, self.now)
            if not self.counts[b"from"]:
                raise Problem(Status.PERMERROR, "the mail has no From")
            key = self.keys.fitting(signature)
        except Problem as problem:
            return replace(known, status=problem.status, reason=problem.reason)
        known = replace(
            known,
            testing=key.testing,
            key_bits=key.bits,
            signed_fields=tuple(name.decode() for name in signature.names),
        )
        try:
            key.check_use(signature)
            self._check(position, signature, key)
        except Problem as problem:
            return replace(known, status=problem.status, reason=problem.reason)
        return replace(known, status=Status.PASS, notes=self._notes(signature))

    def _check(self, position: int, signature: Signature, key: PublicKey) -> None:
        if self.keys.remaining() <= 0:
            raise Problem(Status.TEMPERROR, "no time left")
        try:
            self._run(self.fields, position, signature, key)
        except HeaderMismatch:
            fields = header_fields(self.arrived().fields)
            if fields == self.fields or self.fields[position] not in fields:
                raise
            self._run(fields, fields.index(self.fields[position]), signature, key)
        if self.counts[b"from"] > 1:
            raise Problem(Status.POLICY, "the mail has more than one From")  # RFC 6376 8.15
        if signature.length is not None and signature.length < self._body_size(signature):
            match self.length_policy:
                case LengthPolicy.POLICY:
                    raise Problem(Status.POLICY, "l= leaves the end of the body open")
                case LengthPolicy.NEUTRAL:
                    raise Problem(Status.NEUTRAL, "l= leaves the end of the body open")
                case LengthPolicy.ACCEPT:
                    pass

    def _body_size(self, signature: Signature) -> int:
        return self.bodies.get(signature.body_form, signature.length).size

    def _run(self, fields: Sequence[HeaderField], position: int, signature: Signature, key: PublicKey) -> None:
        OpenSslVerifier(fields, position, self.bodies, signature).verify(dnsfunc=lambda: key)

    def _notes(self, signature: Signature) -> tuple[str, ...]:
        signed = Counter(signature.names)
        return tuple(
            f"{name.decode()} is not signed" if not signed[name] else f"{name.decode()} was added after signing"
            for name in sorted(SINGLE_FIELDS)
            if self.counts[name] > signed[name] and name != b"from"
        )


def _described(tags: Mapping[bytes, bytes]) -> SignatureResult:
    """What a result can say about a signature of which nothing is known to be right."""
    domain = domain_text(tags.get(b"d", b""))
    identity = tags.get(b"i", b"").decode("utf-8", "replace") or (f"@{domain}" if domain else "")
    return SignatureResult(
        Status.NEUTRAL,
        domain=domain,
        selector=domain_text(tags.get(b"s", b"")),
        identity=_printable(identity),
        algorithm=_printable(tags.get(b"a", b"").decode("ascii", "replace").lower()),
        signature=_printable(b"".join(tags.get(b"b", b"").split()).decode("ascii", "replace")),
    )


def _printable(text: str, limit: int = 1024) -> str:
    """`text` where it may stand in a header field of ours; empty where it may not."""
    return text if len(text) <= limit and text.isprintable() and "\ufffd" not in text else ""
