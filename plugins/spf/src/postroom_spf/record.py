"""The text of SPF records, and the administrator's own rules that are put into them."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network

from postroom_spf.macros import MacroError, expand

MAX_RECORD = 16384  # characters; published records stay below 4096 (RFC 7208 3.4 asks for 512 octets)
MAX_TERM = 512  # characters of one mechanism or modifier; a domain name has 253

VERSION = "v=spf1"

_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE | re.DOTALL)  # RFC 7208 4.6.1
_ALL = re.compile(r"[+?~-]?all", re.IGNORECASE)
_MECHANISM = re.compile(r"[+?~-]?(?P<name>[a-z0-9]+)(?P<argument>[:/].*)?", re.IGNORECASE)
_DUAL_PREFIX = re.compile(r"(?:/(?P<four>0|[1-9]\d?))?(?://(?P<six>0|[1-9]\d{0,2}))?$")  # RFC 7208 5.6


class RecordError(ValueError):
    """Why a record can't be evaluated: a permanent error."""


def normalise(record: str) -> str:
    """The same record in the form that pyspf reads as RFC 7208 means it.

    pyspf takes modifiers' names literally and refuses an unknown modifier that stands twice; the standard has names
    without case (4.6.1) and ignores unknown modifiers however often they appear (6).
    """
    if len(record) > MAX_RECORD:
        raise RecordError(f"longer than {MAX_RECORD} characters")
    kept = []
    for term in _terms(record):
        if len(term) > MAX_TERM:
            raise RecordError(f"a term longer than {MAX_TERM} characters")
        found = _MODIFIER.fullmatch(term)
        if found is None:
            kept.append(term)
        elif found[1].lower() in ("redirect", "exp"):
            kept.append(f"{found[1].lower()}={found[2]}")
        else:
            try:
                expand(found[2], _nothing, explanation=False)
            except MacroError as error:
                raise RecordError(f"{found[1]}=: {error}") from None
    return " ".join([VERSION, *kept])


def has_redirect(record: str) -> bool:
    return any(term.lower().startswith("redirect=") for term in _terms(record))


def splice(record: str, rules: str) -> str:
    """The record with `rules` before its `all`, or at its end; unchanged when `redirect=` hands on to another record.

    The rules then belong into that other record: there stands the `all` that would decide before them.
    """
    terms = _terms(record)
    position = next((at for at, term in enumerate(terms) if _ALL.fullmatch(term)), None)
    if position is None:
        if has_redirect(record):
            return record
        position = len(terms)
    return " ".join([VERSION, *terms[:position], rules, *terms[position:]])


def _terms(record: str) -> list[str]:
    return [term for term in record.split(" ")[1:] if term]  # blanks only: a tab is part of a term (RFC 7208 4.6.1)


def _nothing(_letter: str) -> str:
    return ""


def check_rules(text: str, *, alone: bool) -> str:
    """The administrator's rules, blanks made single and a leading `v=spf1` taken off; ValueError says what is wrong.

    `alone`: they are a record of their own, so that `all` may end them.
    """
    terms = text.split()
    if terms and terms[0].lower() == VERSION:
        terms = terms[1:]
    for term in terms:
        _check_term(term, alone=alone)
    return " ".join(terms)


def _check_term(term: str, *, alone: bool) -> None:
    if _MODIFIER.fullmatch(term):
        raise ValueError(f"{term!r} is a modifier: only mechanisms, such as ip4:192.0.2.0/24 or include:example.org")
    found = _MECHANISM.fullmatch(term)
    name, argument = (found["name"].lower(), found["argument"] or "") if found else ("", "")
    match name:
        case "all":
            if not alone:
                raise ValueError(f"{term!r} would decide for every sender: leave it out")
            fits = not argument
        case "ip4" | "ip6":
            fits = argument.startswith(":") and _is_network(argument[1:], name)
        case "include" | "exists":
            fits = _is_domain_spec(argument)
        case "a" | "mx":
            fits = _is_dual_prefix(argument)
        case "ptr":
            fits = not argument or _is_domain_spec(argument)
        case _:
            raise ValueError(f"{term!r} is no mechanism: all, include, a, mx, ptr, ip4, ip6 or exists (RFC 7208 5)")
    if not fits:
        raise ValueError(f"{term!r} is not how RFC 7208 5 writes {name}")


def _is_network(text: str, name: str) -> bool:
    try:
        if name == "ip4":
            IPv4Network(text, strict=False)
        else:
            IPv6Network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_domain_spec(argument: str) -> bool:
    """RFC 7208 7.1: a macro-string that ends in a top label or a macro."""
    domain = argument[1:].removesuffix(".")
    try:
        expand(domain, _nothing)
    except MacroError:
        return False
    top = domain.rpartition(".")[2]
    named = re.fullmatch(r"[a-z0-9-]*[a-z][a-z0-9-]*", top, re.IGNORECASE) and "." in domain
    return argument.startswith(":") and bool(domain.endswith("}") or named)


def _is_dual_prefix(argument: str) -> bool:
    found = _DUAL_PREFIX.search(argument)
    if found is None:
        return False
    domain = argument[: found.start()]
    return int(found["four"] or 0) <= 32 and int(found["six"] or 0) <= 128 and (not domain or _is_domain_spec(domain))
