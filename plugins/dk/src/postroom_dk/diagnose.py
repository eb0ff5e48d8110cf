"""What `postroom doctor` says of the keys: modes, contents, and whether DNS publishes what signs."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.hookspecs import Diagnosis, FindingLevel, LookupFailed, Services

from postroom_dk.keystore import KeyState, KeyStore, KeyUnusable, Selector
from postroom_dk.privatekey import PrivateKey
from postroom_dk.results import Problem
from postroom_dk.verify import KeySource

DNS_TIME = 5.0


def diagnose_keys(store: KeyStore, services: Services) -> Iterator[Diagnosis]:
    if not store.root.is_dir():
        yield Diagnosis(
            FindingLevel.WARNING,
            str(store.root),
            "no keys: nothing is signed",
            "make one with 'postroom dk keygen DOMAIN'",
        )
        return
    for domain in store.domains():
        yield from _diagnose_domain(store, domain, services)


def _diagnose_domain(store: KeyStore, domain: str, services: Services) -> Iterator[Diagnosis]:
    try:
        selectors = store.selectors(domain)
    except KeyUnusable as problem:
        yield Diagnosis(FindingLevel.ERROR, domain, str(problem), "see the text")
        return
    if not any(selector.state is KeyState.ACTIVE for selector in selectors):
        yield Diagnosis(FindingLevel.WARNING, domain, "no active key", f"'postroom dk keygen {domain}'")
    for selector in selectors:
        if selector.state is not KeyState.RETIRED:
            yield diagnose_selector(store, selector, services)


def diagnose_selector(store: KeyStore, selector: Selector, services: Services) -> Diagnosis:
    subject = f"{selector.name}._domainkey.{selector.domain}"
    try:
        key = store.load(selector)
    except KeyUnusable as problem:
        text, _, remedy = str(problem).partition("; ")
        return Diagnosis(FindingLevel.ERROR, subject, text, remedy)
    difference = published_difference(selector, key, services)
    if not difference:
        return Diagnosis(FindingLevel.OK, subject, f"{key.type} {key.bits} bits, {selector.state}, published")
    level = FindingLevel.ERROR if selector.state is KeyState.ACTIVE else FindingLevel.WARNING
    remedy = f"publish the text of 'postroom dk record {selector.domain} {selector.name}'"
    return Diagnosis(level, subject, difference, remedy)


def published_difference(selector: Selector, key: PrivateKey, services: Services) -> str:
    """How the record in DNS differs from what it should be; empty when it does not."""
    source = KeySource(services.dns, lambda: min(DNS_TIME, services.deadline()))
    try:
        keys = source.get(selector.name, selector.domain)
    except (Problem, LookupFailed) as problem:
        return f"DNS: {problem}"
    if len(keys) > 1:
        return f"DNS has {len(keys)} keys at this name: which of them counts is undefined"  # RFC 6376 3.6.2.2
    published = keys[0]
    if published.key != key.key.public_key():
        return "DNS publishes another key: every signature with this one fails"
    if published.hashes is not None and b"sha256" not in published.hashes:
        return "the published key is not for sha256 (h=)"
    return "DNS says that this key is being tested (t=y): verifiers disregard its failures" if published.testing else ""
