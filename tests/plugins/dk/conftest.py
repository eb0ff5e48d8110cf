"""Keys are made once: an rsa key takes a tenth of a second."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.dk.dk_mail import SigningHost, rsa_key
from postroom_dk.privatekey import KeyType, PrivateKey, make_key


@pytest.fixture(scope="session")
def rsa() -> PrivateKey:
    return rsa_key()


@pytest.fixture(scope="session")
def edwards() -> PrivateKey:
    return make_key(KeyType.ED25519)


@pytest.fixture
def host(tmp_path: Path, rsa: PrivateKey) -> SigningHost:
    """A host with the active rsa key `s` of sender.example."""
    return SigningHost(tmp_path, {"s": rsa})
