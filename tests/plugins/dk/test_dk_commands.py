"""`postroom dk …` as its users see it, without the rest of the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from plugins.dk.dk_mail import DOMAIN, MAIL, SigningHost, name_of
from postroom.config import Config
from postroom.hookspecs import FindingLevel, Services
from postroom.registration import Registration
from postroom_dk.check import CheckSettings
from postroom_dk.commands import dk
from postroom_dk.keystore import STATES_FILE, KeyState
from postroom_dk.privatekey import PrivateKey
from postroom_dk.sign import DkSign, SignSettings


class Environment:
    """What the command line gives to a plugin's commands."""

    def __init__(self, host: SigningHost, *, as_json: bool = False) -> None:
        self.host, self.as_json = host, as_json

    @property
    def config(self) -> Config:
        return self.host.services.config

    def services(self, handler: str) -> Services:
        return self.host.services

    def settings(self, handler: str) -> Any:
        return {"dk_check": CheckSettings(), "dk_sign": SignSettings()}[handler]

    def registrations(self, handler: str) -> Sequence[Registration]:
        return ()

    def show(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        for row in rows:
            click.echo(json.dumps(dict(zip(columns, row, strict=True))))

    def fail(self, message: str, status: int = 1) -> Any:
        click.echo(message, err=True)
        raise click.exceptions.Exit(status)


@pytest.fixture
def empty(tmp_path: Path) -> SigningHost:
    return SigningHost(tmp_path)


def run(host: SigningHost, *words: str, as_json: bool = False, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(dk, words, obj=Environment(host, as_json=as_json), input=stdin)


def publish(host: SigningHost, line: str) -> None:
    """Put a printed zone line into DNS, as an administrator would."""
    name = line.split(" ", 1)[0].removesuffix(".")
    host.dns.records[name, "TXT"] = ("".join(re.findall(r'"([^"]*)"', line)).encode(),)


def test_a_key_is_made_published_and_signs(empty: SigningHost) -> None:
    made = run(empty, "keygen", "Sender.Example")
    assert made.exit_code == 0
    assert made.stdout.startswith("default._domainkey.sender.example. IN TXT ( ")
    assert all(len(text) <= 255 for text in re.findall(r'"([^"]*)"', made.stdout))
    publish(empty, made.stdout)
    assert empty.find(empty.signed()).author_passed
    assert run(empty, "record", DOMAIN).stdout == made.stdout


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("keygen", "../etc"), 2, "is no domain"),
        (("keygen", DOMAIN, "--selector", "a/b"), 2, "is no selector"),
        (("keygen", DOMAIN, "--bits", "512"), 2, "--bits"),
        (("keygen", DOMAIN, "--type", "dsa"), 2, "--type"),
        (("rotate", DOMAIN), 1, "has no key yet"),
        (("record", DOMAIN), 1, "has no key"),
        (("activate", DOMAIN, "x"), 1, "has no key x"),
        (("check", "/nonexistent"), 1, "No such file"),
        (("list", "a b"), 2, "is no domain"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(empty: SigningHost, words: tuple[str, ...], status: int, text: str) -> None:
    result = run(empty, *words)
    assert result.exit_code == status
    assert text in result.stderr
    assert result.stdout == ""


def test_a_key_is_never_written_over(empty: SigningHost) -> None:
    run(empty, "keygen", DOMAIN)
    before = (empty.store.root / DOMAIN / "default.key").read_bytes()
    result = run(empty, "keygen", DOMAIN)
    assert (result.exit_code, "there already" in result.stderr) == (1, True)
    assert (empty.store.root / DOMAIN / "default.key").read_bytes() == before


def test_a_rollover_from_key_to_key(empty: SigningHost) -> None:
    publish(empty, run(empty, "keygen", DOMAIN, "--type", "ed25519").stdout)
    rotated = run(empty, "rotate", DOMAIN, "--type", "ed25519")
    assert rotated.exit_code == 0
    assert "postroom dk activate sender.example 20231114e" in rotated.stderr
    assert selectors(empty) == {"default": "active", "20231114e": "pending"}
    assert [found.selector for found in empty.find(empty.signed()).signatures] == ["default"]

    refused = run(empty, "activate", DOMAIN, "20231114e")  # not yet published
    assert (refused.exit_code, "publish it first" in refused.stderr) == (1, True)
    publish(empty, rotated.stdout)
    assert run(empty, "activate", DOMAIN, "20231114e").exit_code == 0
    finding = empty.find(empty.signed())
    assert {(found.selector, found.status.value) for found in finding.signatures} == {
        ("default", "pass"),
        ("20231114e", "pass"),
    }

    old = empty.signed()
    assert run(empty, "retire", DOMAIN, "default").exit_code == 0
    assert [found.selector for found in empty.find(empty.signed()).signatures] == ["20231114e"]
    assert all(found.status.value == "pass" for found in empty.find(old).signatures)  # still on its way
    last = run(empty, "retire", DOMAIN, "20231114e")
    assert (last.exit_code, "last active key" in last.stderr) == (1, True)
    assert selectors(empty) == {"default": "retired", "20231114e": "active"}


def selectors(host: SigningHost) -> dict[str, str]:
    rows = [json.loads(line) for line in run(host, "list").stdout.splitlines()]
    return {row["selector"]: row["state"] for row in rows}


def test_two_rotations_of_one_day_have_two_names(empty: SigningHost) -> None:
    run(empty, "keygen", DOMAIN, "--type", "ed25519")
    for _ in range(2):
        run(empty, "rotate", DOMAIN, "--type", "ed25519")
    assert sorted(selectors(empty)) == ["20231114e", "20231114e-2", "default"]


def test_records_as_json(host: SigningHost) -> None:
    (row,) = (json.loads(line) for line in run(host, "record", DOMAIN, as_json=True).stdout.splitlines())
    assert row["name"] == "s._domainkey.sender.example"
    assert row["text"].startswith("v=DKIM1; k=rsa; p=")


def test_states_are_written_atomically_beside_the_keys(host: SigningHost) -> None:
    states = host.store.root / DOMAIN / STATES_FILE
    assert json.loads(states.read_text())["selectors"] == {"s": {"state": "active"}}
    assert [path.name for path in states.parent.iterdir() if path.name.startswith(".")] == []


def test_a_mail_is_signed_and_checked_by_hand(host: SigningHost, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(MAIL)
    assert run(host, "check", str(path)).exit_code == 1
    signed = run(host, "sign", str(path))
    assert signed.exit_code == 0
    path.write_bytes(signed.stdout_bytes)
    checked = run(host, "check", str(path))
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["result"] == "pass"
    assert run(host, "check", "-", stdin=signed.stdout_bytes).exit_code == 0


def test_signing_by_hand_says_why_it_does_not(empty: SigningHost, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(MAIL)
    result = run(empty, "sign", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no active key for sender.example" in result.stderr


def test_a_key_that_is_none_is_listed_with_its_problem(host: SigningHost) -> None:
    (host.store.root / DOMAIN / "s.key").write_bytes(b"no key")
    (row,) = (json.loads(line) for line in run(host, "list").stdout.splitlines())
    assert "no private key in PEM form" in row["problem"]


# postroom doctor


def diagnose(host: SigningHost) -> list[tuple[FindingLevel, str, str]]:
    return [(found.level, found.text, found.remedy) for found in DkSign().diagnose(SignSettings(), host.services)]


def test_doctor_is_content_with_a_published_key(host: SigningHost) -> None:
    assert [level for level, _, _ in diagnose(host)] == [FindingLevel.OK]


def test_doctor_sees_a_missing_or_wrong_record(host: SigningHost, rsa: PrivateKey, edwards: PrivateKey) -> None:
    host.publish("s", edwards.record().encode())
    ((level, text, remedy),) = diagnose(host)
    assert (level, "another key" in text, "postroom dk record sender.example s" in remedy) == (
        FindingLevel.ERROR,
        True,
        True,
    )
    host.dns.records[name_of("s")] = (rsa.record().encode(), edwards.record().encode())
    assert diagnose(host)[0][:2] == (
        FindingLevel.ERROR,
        "DNS has 2 keys at this name: which of them counts is undefined",
    )
    host.dns.records.clear()
    assert "no key" in diagnose(host)[0][1]


def test_doctor_sees_wrong_modes_and_keys_that_are_none(host: SigningHost, rsa: PrivateKey) -> None:
    path = host.store.root / DOMAIN / "s.key"
    path.chmod(0o644)
    ((level, text, remedy),) = diagnose(host)
    assert (level, text, remedy) == (FindingLevel.ERROR, f"{path}: mode 0644 lets others in", "chmod 0600 it")
    path.chmod(0o600)
    path.write_bytes(b"no key")
    assert "no private key" in diagnose(host)[0][1]


def test_doctor_sees_a_domain_without_active_key_and_no_keys_at_all(empty: SigningHost, rsa: PrivateKey) -> None:
    assert diagnose(empty)[0][0] is FindingLevel.WARNING
    empty.add("old", rsa, state=KeyState.RETIRED)
    assert [(level, text) for level, text, _ in diagnose(empty)] == [(FindingLevel.WARNING, "no active key")]
