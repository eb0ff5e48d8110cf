"""Private keys: made, read from PEM, and used to sign; and the DNS record that belongs to each."""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from postroom_dk.keyrecord import MIN_RSA_BITS
from postroom_dk.signature import Algorithm

DEFAULT_RSA_BITS = 2048
MAX_STRING = 255  # octets of one string of a TXT record, RFC 1035 3.3.14


class KeyType(enum.StrEnum):
    RSA = "rsa"
    ED25519 = "ed25519"


class NotAKey(Exception):
    """What the octets are instead, in a few words."""


@dataclass(frozen=True)
class PrivateKey:
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

    @property
    def type(self) -> KeyType:
        return KeyType.RSA if isinstance(self.key, rsa.RSAPrivateKey) else KeyType.ED25519

    @property
    def bits(self) -> int:
        return self.key.key_size if isinstance(self.key, rsa.RSAPrivateKey) else 256

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm.RSA_SHA256 if self.type is KeyType.RSA else Algorithm.ED25519_SHA256

    def sign(self, digest: bytes) -> bytes:
        """The signature over a SHA-256 digest (RFC 6376 3.3.1, RFC 8463 3)."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(digest, PKCS1v15(), Prehashed(SHA256()))
        return self.key.sign(digest)

    @cached_property
    def traditional_pem(self) -> bytes:
        """PKCS #1 (RFC 8017 A.1.2), the form that dkimpy reads; for RSA keys."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def to_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def record(self) -> str:
        """The text of the TXT record at SELECTOR._domainkey.DOMAIN (RFC 6376 3.6.1, RFC 8463 4.2)."""
        public = self.key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            octets = public.public_bytes_raw()
        else:
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k={self.type}; p={base64.b64encode(octets).decode()}"


def make_key(type_: KeyType, bits: int = DEFAULT_RSA_BITS) -> PrivateKey:
    match type_:
        case KeyType.RSA:
            return PrivateKey(rsa.generate_private_key(public_exponent=65537, key_size=bits))
        case KeyType.ED25519:
            return PrivateKey(ed25519.Ed25519PrivateKey.generate())


def load_key(octets: bytes) -> PrivateKey:
    """A key from PEM (PKCS #1 or PKCS #8, not encrypted); NotAKey when it is none that can sign mail."""
    try:
        key = load_pem_private_key(octets, password=None)
    except TypeError:
        raise NotAKey("encrypted; store it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise NotAKey("no private key in PEM form") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise NotAKey(f"an rsa key of {key.key_size} bits, which nobody accepts")  # RFC 8301 3.2
        return PrivateKey(key)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return PrivateKey(key)
    raise NotAKey("neither an rsa nor an ed25519 key")


def zone_line(selector: str, domain: str, record: str) -> str:
    """The record as a line of a zone file, its text in strings of at most 255 octets (RFC 6376 3.6.2.2)."""
    strings = [record[start : start + MAX_STRING] for start in range(0, len(record), MAX_STRING)]
    return f"{selector}._domainkey.{domain}. IN TXT ( " + " ".join(f'"{text}"' for text in strings) + " )"
