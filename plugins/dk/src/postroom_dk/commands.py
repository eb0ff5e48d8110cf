"""`postroom dk …`: keys, their records, and a mail checked or signed by hand."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from postroom.hookspecs import CommandEnvironment
from postroom.mail import Envelope, Message, TrafficClass, parse_message
from postroom.verdict import Action

from postroom_dk.check import CheckSettings, DkCheck
from postroom_dk.diagnose import published_difference
from postroom_dk.keystore import KeyState, KeyStore, KeyUnusable, Selector, check_domain, check_selector
from postroom_dk.privatekey import DEFAULT_RSA_BITS, KeyType, PrivateKey, make_key, zone_line
from postroom_dk.results import SignatureResult, Status
from postroom_dk.sign import DkSign, SenderCheck, SignSettings, keys_directory

MAX_MAIL = 256 << 20
FIRST_SELECTOR = "default"  # the reference's

F = TypeVar("F", bound=Callable[..., Any])

type_option = click.option(
    "--type",
    "type_",
    type=click.Choice([kind.value for kind in KeyType]),
    default=KeyType.RSA.value,
    show_default=True,
    help="Kind of key.",
)
bits_option = click.option(
    "--bits",
    type=click.IntRange(1024, 8192),
    default=DEFAULT_RSA_BITS,
    show_default=True,
    help="Length of an rsa key; below 2048 is weak.",
)


def json_option(command: F) -> F:
    """--json, as every command has that lists."""

    def remember(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            context.obj.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON, for programs."
    )(command)


@click.group()
def dk() -> None:
    """DKIM and ARC: keys, DNS records, checking and signing by hand.

    \b
    Examples:
      postroom dk keygen example.org
      postroom dk record example.org
      postroom dk check mail.eml
    """


@dk.command()
@click.argument("domain")
@click.option("--selector", default=FIRST_SELECTOR, show_default=True, help="Name of the key in DNS.")
@type_option
@bits_option
@click.option("--pending", is_flag=True, help="Do not sign with it until 'postroom dk activate'.")
@json_option
@click.pass_obj
def keygen(environment: CommandEnvironment, domain: str, selector: str, type_: str, bits: int, pending: bool) -> None:
    """Make a key and print the DNS record that belongs to it."""
    state = KeyState.PENDING if pending else KeyState.ACTIVE
    made, key = _make(environment, domain, selector, KeyType(type_), bits, state)
    _show_record(environment, made, key)


@dk.command()
@click.argument("domain")
@click.option("--selector", default="", help="Name of the new key; default: from the date.")
@type_option
@bits_option
@json_option
@click.pass_obj
def rotate(environment: CommandEnvironment, domain: str, selector: str, type_: str, bits: int) -> None:
    """Make the next key of a domain; the present ones sign on.

    Publish the record, then 'postroom dk activate DOMAIN SELECTOR'; when mail signed with the old key has arrived
    everywhere, 'postroom dk retire DOMAIN OLD', and a week later take its record out of DNS.
    """
    store = _store(environment)
    taken = {known.name for known in _selectors(environment, store, domain)}
    if not taken:
        environment.fail(f"{domain} has no key yet: make one with 'postroom dk keygen {domain}'")
    name = selector or _next_selector(environment, taken, type_)
    made, key = _make(environment, domain, name, KeyType(type_), bits, KeyState.PENDING)
    _show_record(environment, made, key)
    click.echo(f"when it is published: postroom dk activate {made.domain} {made.name}", err=True)


@dk.command()
@click.argument("domain")
@click.argument("selector")
@click.option("--force", is_flag=True, help="Also when DNS does not publish the record.")
@click.pass_obj
def activate(environment: CommandEnvironment, domain: str, selector: str, force: bool) -> None:
    """Sign with a key from now on, beside the others; its record has to be in DNS."""
    store = _store(environment)
    found = _find(environment, store, domain, selector)
    if not force:
        difference = published_difference(found, _load(environment, store, found), environment.services("dk_sign"))
        if difference:
            environment.fail(f"{found.name}._domainkey.{found.domain}: {difference}; publish it first, or use --force")
    store.set_state(found.domain, found.name, KeyState.ACTIVE)


@dk.command()
@click.argument("domain")
@click.argument("selector")
@click.option("--force", is_flag=True, help="Also when it is the domain's last active key.")
@click.pass_obj
def retire(environment: CommandEnvironment, domain: str, selector: str, force: bool) -> None:
    """Sign with a key no more; leave its record in DNS for a week, for the mail on its way."""
    store = _store(environment)
    found = _find(environment, store, domain, selector)
    others = [one for one in _selectors(environment, store, domain) if one.name != found.name]
    if not force and not any(one.state is KeyState.ACTIVE for one in others):
        environment.fail(
            f"{found.name} is the last active key of {found.domain}: activate another first, or use --force"
        )
    store.set_state(found.domain, found.name, KeyState.RETIRED)


@dk.command(name="list")
@click.argument("domain", required=False)
@json_option
@click.pass_obj
def list_keys(environment: CommandEnvironment, domain: str | None) -> None:
    """List domains, selectors, states and keys."""
    store = _store(environment)
    rows = []
    for name in [domain] if domain else store.domains():
        for selector in _selectors(environment, store, name):
            try:
                key = store.load(selector)
                rows.append((selector.domain, selector.name, selector.state.value, key.type.value, key.bits, ""))
            except KeyUnusable as problem:
                rows.append((selector.domain, selector.name, selector.state.value, "", 0, str(problem)))
    environment.show(("domain", "selector", "state", "type", "bits", "problem"), rows)


@dk.command()
@click.argument("domain")
@click.argument("selector", required=False)
@json_option
@click.pass_obj
def record(environment: CommandEnvironment, domain: str, selector: str | None) -> None:
    """Print the DNS records of a domain's keys, retired ones left out."""
    store = _store(environment)
    if selector:
        chosen = [_find(environment, store, domain, selector)]
    else:
        chosen = [one for one in _selectors(environment, store, domain) if one.state is not KeyState.RETIRED]
    if not chosen:
        environment.fail(f"{domain} has no key: make one with 'postroom dk keygen {domain}'")
    _show_records(environment, [(one, _load(environment, store, one)) for one in chosen])


@dk.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@json_option
@click.pass_obj
def check(environment: CommandEnvironment, file: Path) -> None:
    """Verify the signatures and the ARC chain of a mail in a file ('-': standard input)."""
    settings: CheckSettings = environment.settings("dk_check")
    message = _read_mail(environment, file)
    finding = DkCheck().examine(message, settings, environment.services("dk_check"))
    rows = [
        ("dkim", found.status.value, found.domain, found.selector, found.algorithm, _words(found))
        for found in finding.signatures
    ] or [("dkim", Status.NONE.value, "", "", "", "")]
    if finding.arc.status is not Status.NONE:
        rows.append(("arc", finding.arc.status.value, ", ".join(finding.arc.sealers), "", "", finding.arc.reason))
    environment.show(("method", "result", "domain", "selector", "algorithm", "reason"), rows)
    if not finding.passed_domains:
        raise click.exceptions.Exit(1)


@dk.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.pass_obj
def sign(environment: CommandEnvironment, file: Path) -> None:
    """Sign a mail in a file ('-': standard input) by its From domain, and print it."""
    settings: SignSettings = environment.settings("dk_sign")
    services = environment.services("dk_sign")
    message = _read_mail(environment, file)
    try:
        verdict = DkSign().before_remote(
            Envelope(traffic=TrafficClass.AUTHENTICATED), message, _by_hand(settings), services
        )
    except KeyUnusable as problem:
        environment.fail(str(problem))
        raise AssertionError from problem
    if verdict.action is not Action.PASS:
        environment.fail(verdict.reason)
    for chunk in message.with_edits(verdict.edits).chunks():
        click.echo(chunk, nl=False)


def _words(found: SignatureResult) -> str:
    return "; ".join(word for word in (found.reason, *found.notes) if word)


def _by_hand(settings: SignSettings) -> SignSettings:
    """There is no envelope to agree with."""
    return dataclasses.replace(settings, sender_check=SenderCheck.OFF, traffic=(TrafficClass.AUTHENTICATED,))


def _store(environment: CommandEnvironment) -> KeyStore:
    settings: SignSettings = environment.settings("dk_sign")
    return KeyStore(keys_directory(environment.config, settings), strict_modes=settings.strict_modes)


def _selectors(environment: CommandEnvironment, store: KeyStore, domain: str) -> list[Selector]:
    try:
        return store.selectors(check_domain(domain))
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    except KeyUnusable as problem:
        environment.fail(str(problem))
        raise AssertionError from problem


def _find(environment: CommandEnvironment, store: KeyStore, domain: str, selector: str) -> Selector:
    found = [one for one in _selectors(environment, store, domain) if one.name == selector.lower()]
    if not found:
        environment.fail(f"{domain} has no key {selector}: see 'postroom dk list {domain}'")
    return found[0]


def _load(environment: CommandEnvironment, store: KeyStore, selector: Selector) -> PrivateKey:
    try:
        return store.load(selector)
    except KeyUnusable as problem:
        environment.fail(str(problem))
        raise AssertionError from problem


def _make(
    environment: CommandEnvironment, domain: str, selector: str, type_: KeyType, bits: int, state: KeyState
) -> tuple[Selector, PrivateKey]:
    store = _store(environment)
    try:
        name, checked = check_selector(selector), check_domain(domain)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    key = make_key(type_, bits)
    try:
        return store.add(checked, name, key, state), key
    except FileExistsError as problem:
        environment.fail(f"{problem}: there already; choose another --selector, or 'postroom dk rotate {domain}'")
    except KeyUnusable as problem:
        environment.fail(str(problem))
    except OSError as problem:
        environment.fail(f"{problem.filename}: {problem.strerror}; run it as root or as the server's user")
    raise AssertionError


def _next_selector(environment: CommandEnvironment, taken: set[str], type_: str) -> str:
    now = environment.services("dk_sign").clock.now()
    day = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y%m%d")
    base = day if type_ == KeyType.RSA else f"{day}e"
    return next(name for name in (base, *(f"{base}-{count}" for count in range(2, 1000))) if name not in taken)


def _show_record(environment: CommandEnvironment, selector: Selector, key: PrivateKey) -> None:
    _show_records(environment, [(selector, key)])


def _show_records(environment: CommandEnvironment, keys: list[tuple[Selector, PrivateKey]]) -> None:
    if environment.as_json:
        columns = ("domain", "selector", "state", "name", "text")
        environment.show(
            columns,
            [
                (one.domain, one.name, one.state.value, f"{one.name}._domainkey.{one.domain}", key.record())
                for one, key in keys
            ],
        )
        return
    for one, key in keys:
        click.echo(zone_line(one.name, one.domain, key.record()))


def _read_mail(environment: CommandEnvironment, file: Path) -> Message:
    try:
        if str(file) == "-":
            octets = sys.stdin.buffer.read(MAX_MAIL + 1)
        else:
            with file.open("rb") as stream:
                octets = stream.read(MAX_MAIL + 1)
    except OSError as problem:
        environment.fail(f"{file}: {problem.strerror}; give the name of a readable file")
    if len(octets) > MAX_MAIL:
        environment.fail(f"{file}: larger than {MAX_MAIL >> 20} MB")
    return parse_message(octets)
