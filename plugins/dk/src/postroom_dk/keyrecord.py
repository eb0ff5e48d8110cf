"""A key record's text (RFC 6376 3.6.1) to a public key and what it may be used for."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dkim.crypto import UnparsableKeyError, parse_public_key

from postroom_dk.results import Problem, Status
from postroom_dk.signature import Algorithm, Signature, parse_tags

MIN_RSA_BITS = 1024  # RFC 8301 3.2
MAX_RSA_BITS = 8192
"""Larger keys cost a verifier milliseconds each; RFC 8301 3.2 asks for 4096."""


@dataclass(frozen=True)
class PublicKey:
    key: RSAPublicKey | Ed25519PublicKey
    bits: int
    hashes: frozenset[bytes] | None = None  # None: all
    testing: bool = False  # t=y
    strict: bool = False  # t=s: i= must have the domain of d= itself

    def check_use(self, signature: Signature) -> None:
        """Problem when the record does not allow this signature (RFC 6376 6.1.2)."""
        if self.key_type != signature.algorithm.key_type:
            raise Problem(
                Status.PERMERROR, f"a= wants an {signature.algorithm.key_type} key, the key is {self.key_type}"
            )
        if self.hashes is not None and b"sha256" not in self.hashes:
            raise Problem(Status.PERMERROR, "the key is not for sha256")
        if self.strict and signature.identity_domain != signature.domain:
            raise Problem(Status.PERMERROR, "the key is not for subdomains")  # RFC 6376 3.6.1 t=s
        if isinstance(self.key, RSAPublicKey) and self.bits > MAX_RSA_BITS:
            raise Problem(Status.POLICY, f"rsa key longer than {MAX_RSA_BITS} bits")

    def allows(self, signature: Signature) -> bool:
        try:
            self.check_use(signature)
        except Problem:
            return False
        return True

    @property
    def key_type(self) -> str:
        return "rsa" if isinstance(self.key, RSAPublicKey) else "ed25519"

    def verifies(self, signature: bytes, digest: bytes, algorithm: Algorithm) -> bool:
        """Whether `signature` was made with the private key over this SHA-256 digest."""
        try:
            match algorithm, self.key:
                case Algorithm.RSA_SHA256, RSAPublicKey() as rsa:
                    rsa.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
                case Algorithm.ED25519_SHA256, Ed25519PublicKey() as edwards:
                    edwards.verify(signature, digest)  # RFC 8463 3: over the digest
                case _:
                    return False
        except InvalidSignature:
            return False
        return True


def parse_key_record(record: bytes) -> PublicKey:
    """The key in a TXT record; Problem when there is none that may be used for mail."""
    try:
        tags = parse_tags(record)
    except Problem:
        raise Problem(Status.PERMERROR, "the key record cannot be read") from None
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise Problem(Status.PERMERROR, "the key record has an unknown version")
    if b"p" not in tags:
        raise Problem(Status.PERMERROR, "the key record has no key")
    if not tags[b"p"]:
        raise Problem(Status.PERMERROR, "the key is revoked")
    if not _list(tags.get(b"s", b"*")) & {b"*", b"email"}:
        raise Problem(Status.PERMERROR, "the key is not for mail")
    flags = _list(tags.get(b"t", b""))
    try:
        octets = base64.b64decode(b"".join(tags[b"p"].split()), validate=True)
    except binascii.Error:
        raise Problem(Status.PERMERROR, "the key is no base64") from None
    match tags.get(b"k", b"rsa").lower():
        case b"rsa":
            key, bits = _rsa(octets)
        case b"ed25519":
            key, bits = _ed25519(octets), 256
        case _:
            raise Problem(Status.PERMERROR, "the key is of an unknown type")
    hashes = frozenset(_list(tags[b"h"])) if tags.get(b"h") else None
    return PublicKey(key, bits, hashes, testing=b"y" in flags, strict=b"s" in flags)


def _list(octets: bytes) -> set[bytes]:
    return {word.strip().lower() for word in octets.split(b":")}


def _rsa(octets: bytes) -> tuple[RSAPublicKey | Ed25519PublicKey, int]:
    bits = _modulus_bits(octets)
    if bits < MIN_RSA_BITS:
        raise Problem(Status.FAIL, f"rsa key of {bits} bits: too short")  # RFC 8301 3.2
    try:
        key = load_der_public_key(octets)  # SubjectPublicKeyInfo as all publish it, or RSAPublicKey
    except (ValueError, UnsupportedAlgorithm):
        raise Problem(Status.PERMERROR, "the key cannot be read") from None
    if not isinstance(key, RSAPublicKey):
        raise Problem(Status.PERMERROR, "the key is of another type than k= says")
    return key, bits


def _modulus_bits(octets: bytes) -> int:
    """By dkimpy's reader: OpenSSL refuses to load what is far too short, and the reason is worth telling."""
    try:
        modulus: int = parse_public_key(octets)["modulus"]
    except (UnparsableKeyError, AssertionError, IndexError, KeyError, TypeError, ValueError):  # its reader asserts
        raise Problem(Status.PERMERROR, "the key cannot be read") from None
    return modulus.bit_length()


def _ed25519(octets: bytes) -> Ed25519PublicKey:
    if len(octets) != 32:  # RFC 8463 4.2: the bare key
        raise Problem(Status.PERMERROR, "the key cannot be read")
    return Ed25519PublicKey.from_public_bytes(octets)
