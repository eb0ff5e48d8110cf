"""Pure: from a password to what may be stored, in the forms that Dovecot reads; and back to yes or no."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata

from postroom_accounts.records import InvalidAccount

SCRAM_ITERATIONS = 32768  # RFC 7677 4 asks for at least 4096; a client pays for each
SALT = 16
_ITERATIONS = re.compile(r"[1-9][0-9]{0,6}")  # more would keep a server busy for seconds
MIN_LENGTH, MAX_LENGTH = 8, 1024

CRYPT_SCHEME, SCRAM_SCHEME = "{ARGON2ID}", "{SCRAM-SHA-256}"

_PROHIBITED = (  # RFC 4013 2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepare(password: str) -> bytes:
    """SASLprep (RFC 4013), as SCRAM wants it; InvalidAccount when it cannot be a password."""
    mapped = "".join(
        " " if stringprep.in_table_c12(each) else each for each in password if not stringprep.in_table_b1(each)
    )
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(check(each) for each in text for check in _PROHIBITED):
        raise InvalidAccount("the password holds control or private characters: leave them out")
    right_to_left = [stringprep.in_table_d1(each) for each in text]
    if any(right_to_left) and not (
        right_to_left[0] and right_to_left[-1] and not any(stringprep.in_table_d2(each) for each in text)
    ):  # RFC 3454 6
        raise InvalidAccount("the password mixes directions of writing: use one")
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
        raise InvalidAccount(f"the password has {len(text)} characters: use {MIN_LENGTH} to {MAX_LENGTH}")
    return text.encode()


def crypt(password: str) -> str:
    """Argon2id (RFC 9106) for whoever sends the password itself."""
    return CRYPT_SCHEME + str(_hasher().hash(prepare(password)))


def scram(password: str, salt: bytes | None = None, iterations: int = SCRAM_ITERATIONS) -> str:
    """SCRAM-SHA-256 (RFC 5802, RFC 7677): iterations, salt, stored key and server key."""
    salt = secrets.token_bytes(SALT) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepare(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = (salt, hashlib.sha256(client_key).digest(), server_key)
    return f"{SCRAM_SCHEME}{iterations},{','.join(base64.b64encode(part).decode() for part in parts)}"


def matches(password: str, stored: str) -> bool:
    """Whether the password is the one that `stored` (either form) was made of."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        octets = prepare(password)
    except InvalidAccount:
        return False
    if stored.startswith(CRYPT_SCHEME):
        try:
            return bool(_hasher().verify(stored.removeprefix(CRYPT_SCHEME), octets))
        except (VerificationError, InvalidHashError):
            return False
    if stored.startswith(SCRAM_SCHEME) and _is_scram(stored.removeprefix(SCRAM_SCHEME)):
        iterations, salt, *_ = stored.removeprefix(SCRAM_SCHEME).split(",")
        return hmac.compare_digest(stored, scram(password, base64.b64decode(salt), int(iterations)))
    return False


def check_hash(stored: str, scheme: str) -> str:
    """A hash from a file, in a shape that can be one; InvalidAccount when it is not. It is never named."""
    body = stored.removeprefix(scheme)
    good = not stored or (
        stored.startswith(scheme) and stored.isascii() and stored.isprintable() and ":" not in body and " " not in body
    )
    if good and stored:
        good = _is_scram(body) if scheme == SCRAM_SCHEME else body.startswith("$argon2id$")
    if not good:
        raise InvalidAccount(f"a password hash is not of the form {scheme}…: export it again with --with-hashes")
    return stored


def _is_scram(body: str) -> bool:
    """Iterations that a client would do, a salt, and two keys of SHA-256."""
    iterations, *encoded = body.split(",")
    if not _ITERATIONS.fullmatch(iterations) or len(encoded) != 3:
        return False
    try:
        salt, *keys = (base64.b64decode(each, validate=True) for each in encoded)
    except binascii.Error:
        return False
    return bool(salt) and all(len(key) == hashlib.sha256().digest_size for key in keys)


@functools.cache
def _hasher():  # type: ignore[no-untyped-def]  # its type would cost the import
    from argon2 import PasswordHasher  # 20 ms that only setting a password pays

    return PasswordHasher()
