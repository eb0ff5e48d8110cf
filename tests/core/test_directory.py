"""Who is ours: domains of the configuration, Maildirs on disk, and nothing that a peer's address makes up."""

from __future__ import annotations

from pathlib import Path

import pytest
from postroom.config import Config, DeliverySettings, Host
from postroom.mail import Address
from postroom.services.directory import ConfigDirectory


def directory(root: Path, *domains: str, delimiter: str = "+") -> ConfigDirectory:
    return ConfigDirectory(
        Config(host=Host(domains=domains, recipient_delimiter=delimiter), delivery=DeliverySettings(root=root))
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for user in ("bob", "ann+tag", "a b", "jörg"):
        (root / "example.org" / user / "Maildir").mkdir(parents=True)
    (root / "other.example/eve/Maildir").mkdir(parents=True)
    (tmp_path / "outside/Maildir").mkdir(parents=True)
    return root


def test_domains_decide_who_is_local(root: Path) -> None:
    ours = directory(root, "Example.ORG", "bücher.example")
    assert ours.is_local(Address("x@EXAMPLE.org")) is True
    assert ours.is_local(Address("x@xn--bcher-kva.example")) is True
    assert ours.is_local(Address("x@other.example")) is False
    assert ours.is_local(Address("")) is False
    assert directory(root).is_local(Address("x@example.org")) is None


@pytest.mark.parametrize(
    ("recipient", "user"),
    [
        ("bob@example.org", "bob"),
        ("BOB+lists@Example.Org", "bob"),
        ("ann+tag@example.org", "ann+tag"),
        ('"a b"@example.org', "a b"),
        ("jörg@example.org", "jörg"),
    ],
)
def test_a_mailbox_is_where_its_maildir_is(root: Path, recipient: str, user: str) -> None:
    mailbox = directory(root).mailbox(Address(recipient))
    assert mailbox is not None
    assert mailbox.maildir == str(root / "example.org" / user / "Maildir")


@pytest.mark.parametrize(
    "recipient",
    [
        "ann@example.org",
        "../../outside@example.org",
        "outside@..",
        "x/../bob@example.org",
        '"../../outside"@example.org',
        ".@example.org",
        "a\0b@example.org",
        "",
        "bob",
        "x" * 300 + "@example.org",
        "@example.org",
    ],
)
def test_no_address_leads_out_of_the_root(root: Path, recipient: str) -> None:
    assert directory(root).mailbox(Address(recipient)) is None


def test_a_maildir_of_a_domain_that_is_not_ours_is_no_mailbox(root: Path) -> None:
    assert directory(root).mailbox(Address("eve@other.example")) is not None
    assert directory(root, "example.org").mailbox(Address("eve@other.example")) is None


def test_without_a_delimiter_there_are_no_tags(root: Path) -> None:
    assert directory(root, delimiter="").mailbox(Address("bob+x@example.org")) is None
