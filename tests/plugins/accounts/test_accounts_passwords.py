"""Passwords: the standard's own example, Dovecot's judgement, and nothing that shows one."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postroom.config import Config
from postroom_accounts.passwords import CRYPT_SCHEME, SCRAM_SCHEME, check_hash, crypt, matches, prepare, scram
from postroom_accounts.records import Account, Domain, InvalidAccount
from postroom_accounts.store.accounts import Accounts
from postroom_accounts.transfer import export, import_, passwd_file
from requirements import require

SECRET = "correct horse battery"


def test_scram_is_the_example_of_the_standard() -> None:
    # RFC 7677 3: user "user", password "pencil" (too short for us, hence the eight-letter variant below)
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    import hashlib
    import hmac

    stored = scram("pencil  pencil", salt, 4096).removeprefix(SCRAM_SCHEME)
    iterations, _, stored_key, server_key = stored.split(",")
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil  pencil", salt, 4096)
    assert iterations == "4096"
    assert base64.b64decode(server_key) == hmac.digest(salted, b"Server Key", "sha256")
    assert base64.b64decode(stored_key) == hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()


@pytest.mark.parametrize("password", [SECRET, "pässwörter", "ＦＵＬＬwidth", 'with"quote:colon', "x" * 200])
@pytest.mark.parametrize("make", [crypt, scram])
def test_dovecot_takes_the_hashes(password: str, make: object) -> None:
    require("doveadm")
    stored = make(password)  # type: ignore[operator]  # one of the two
    prepared = prepare(password).decode()
    for given_, right in ((prepared, True), ("something else", False)):
        done = subprocess.run(
            ["doveadm", "-c", "/dev/null", "-o", "ssl=no", "pw", "-t", stored, "-p", given_],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert ("(verified)" in done.stdout) is right, done.stderr


@pytest.mark.parametrize(
    "password", ["short", "", "bell\x07inside", "private\ue000use", "x" * 1025, "mixed\u0627abcdefg"]
)
def test_what_cannot_be_a_password(password: str) -> None:
    with pytest.raises(InvalidAccount) as refused:
        prepare(password)
    assert not password or password not in str(refused.value)


def test_saslprep_of_the_standard() -> None:
    assert prepare("I\u00adX-padding") == b"IX-padding"  # RFC 4013 3
    assert prepare("\u2168-paddings") == b"IX-paddings"
    assert prepare("no\u00a0break space") == b"no break space"


@given(st.text(min_size=8, max_size=30), st.text(min_size=8, max_size=30))
@settings(max_examples=30, deadline=None)
def test_a_password_matches_itself_alone(password: str, other: str) -> None:
    try:
        octets = prepare(password)
    except InvalidAccount:
        return
    stored = scram(password, iterations=10)
    assert matches(password, stored)
    try:
        same = prepare(other) == octets
    except InvalidAccount:
        same = False
    assert matches(other, stored) is same


def test_argon_matches_itself() -> None:
    stored = crypt(SECRET)
    assert matches(SECRET, stored)
    assert not matches(SECRET + "!", stored)
    assert not matches(SECRET, CRYPT_SCHEME + "garbage")
    assert not matches(SECRET, "{PLAIN}" + SECRET)


KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "stored",
    [
        "{PLAIN}secret",
        "{ARGON2ID}$argon2id$a:b",
        "x\n",
        "{SCRAM-SHA-256}4096",
        "{SCRAM-SHA-256}1,2,3",
        f"{{SCRAM-SHA-256}}0,AAAA,{KEY},{KEY}",
        f"{{SCRAM-SHA-256}}99999999999,AAAA,{KEY},{KEY}",
        f"{{SCRAM-SHA-256}}4096,,{KEY},{KEY}",
        f"{{SCRAM-SHA-256}}4096,A,{KEY},{KEY}",
        f"{{SCRAM-SHA-256}}4096,AAAA,AAAA,{KEY}",
        f"{{SCRAM-SHA-256}}4096,AAAA,{KEY}",
    ],
)
def test_a_file_cannot_bring_what_is_no_hash(stored: str) -> None:
    for scheme in (CRYPT_SCHEME, SCRAM_SCHEME):
        with pytest.raises(InvalidAccount) as refused:
            check_hash(stored, scheme)
        assert stored not in str(refused.value)
    assert not matches(SECRET, stored)


@pytest.fixture
def people(accounts: Accounts) -> Accounts:
    accounts.domains.add(Domain("example.org", quota=5 << 20))
    accounts.mailboxes.add(Account("bob@example.org", languages=("de",), message_limit=1000))
    accounts.mailboxes.add(Account("ann@example.org", enabled=False, keep_copy=False, maildir="/srv/ann"))
    accounts.targets.add("ann@example.org", ["ann@far.example"], alias=False)
    accounts.targets.add("info@example.org", ["bob@example.org", "ann@example.org"], alias=True)
    accounts.logins.put("bob@example.org", crypt(SECRET), scram(SECRET, iterations=4096), 1_700_000_000.0)
    accounts.logins.put("ann@example.org", crypt(SECRET), "", 1_700_000_000.5)
    return accounts


def test_who_may_log_in(people: Accounts) -> None:
    logins = {each.address: each for each in people.logins.all()}
    assert logins["bob@example.org"].methods == ("plain", "scram-sha-256")
    assert logins["bob@example.org"].changed == 1_700_000_000.0
    assert not logins["ann@example.org"].enabled  # her mailbox is disabled
    people.logins.set("bob@example.org", enabled=False)
    assert not people.logins.get("bob@example.org").enabled
    assert passwd_file(people, CRYPT_SCHEME) == ""


def test_a_repr_shows_no_hash(people: Accounts) -> None:
    assert "argon2id$" not in repr(people.logins.hashes())


def test_export_and_import_are_each_others_reverse(people: Accounts, tmp_path: Path) -> None:
    text = export(people, with_hashes=True)
    other = Config(paths=Config().paths.__class__(state=tmp_path / "other"))
    with Accounts.open(other) as copy:
        assert import_(copy, text) == {"domain": 1, "mailbox": 2, "alias": 1}
        assert export(copy, with_hashes=True) == text
        assert import_(copy, text) == {"domain": 1, "mailbox": 2, "alias": 1}  # again: nothing is different
        assert export(copy, with_hashes=True) == text
    assert "argon2id$" in text
    without = export(people)
    assert "argon2id" not in without
    assert "SCRAM" not in without


def test_who_may_not_log_in_may_not_after_a_move_either(people: Accounts, tmp_path: Path) -> None:
    """A password that is disabled, and a mailbox or a domain that is: each is enabled by itself again."""
    people.logins.set("ann@example.org", enabled=False)
    people.domains.set("example.org", enabled=False)
    other = Config(paths=Config().paths.__class__(state=tmp_path / "other"))
    with Accounts.open(other) as copy:
        import_(copy, export(people, with_hashes=True))
        copy.domains.set("example.org", enabled=True)
        copy.mailboxes.set("ann@example.org", enabled=True)
        assert {each.address: each.enabled for each in copy.logins.all()} == {
            "ann@example.org": False,
            "bob@example.org": True,
        }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 20_000, "no valid TOML"),
        ('[[domain]]\nname = "x.example"\n[[domain]]\nname = "X.example"', "stands there twice"),
        ('[[mailbox]]\naddress = "bob@example.org"\npassword_changed = nan', "is no time"),
        ('[[mailbox]]\naddress = "bob@example.org"\npassword_changed = 2026-01-01', "is no time"),
        ('[[mailbox]]\naddress = "bob@example.org"\npassword_changed = -1', "is no time"),
        ("[[domain]\n", "no valid TOML"),
        ("[[domains]]\n", "unknown table"),
        ('[domain]\nname = "x.example"', "list of tables"),
        ('[[domain]]\nname = "x.example"\nquotas = 1', "unknown key 'quotas'"),
        ('[[domain]]\nname = "x.example"\nquota = -5', "is no size"),
        ('[[domain]]\nname = "x.example"\nquota = "lots"', "is no size"),
        ('[[mailbox]]\naddress = "x@y.example"\nenabled = "maybe"', "wrong kind"),
        ('[[domain]]\nname = "new.example"\n[[mailbox]]\naddress = "x@new.example"\npassword_crypt = "secret"', "hash"),
        ("[[domain]]\n", "is no domain"),
    ],
)
def test_a_wrong_file_changes_nothing(people: Accounts, text: str, words: str) -> None:
    before = export(people, with_hashes=True)
    with pytest.raises(InvalidAccount, match=words):
        import_(people, text)
    assert export(people, with_hashes=True) == before
