"""The handler `dk_sign`: signs the mail of our own domains as it leaves, and seals forwarded mail when set."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from postroom.config import Config, Duration, setting
from postroom.hookspecs import Diagnosis, HandlerInfo, Need, Placement, Services, hookimpl
from postroom.mail import Edit, Envelope, InsertField, Message, ReplaceBody, TrafficClass, to_a_label
from postroom.registration import OnError, Stage, Type
from postroom.verdict import Verdict, passed, skipped

from postroom_dk.arc import SEAL, collect_sets
from postroom_dk.check import CheckSettings, DkCheck
from postroom_dk.diagnose import diagnose_keys
from postroom_dk.keystore import KeyState, KeyStore, KeyUnusable, Selector
from postroom_dk.mailview import BodyDigests, author_domains, header_fields
from postroom_dk.privatekey import KeyType, PrivateKey
from postroom_dk.results import DkimFinding, Problem, Status, aligned
from postroom_dk.signature import CLOCK_SKEW, domain_text, parse_tags
from postroom_dk.signing import (
    MAX_LINE,
    OpenSslDkim,
    OpenSslSealer,
    has_line_over,
    names_to_sign,
    results_text,
    with_crlf,
)

MAX_SELECTORS = 4
"""Signatures that one mail gets from us; a rollover needs two, an rsa and an ed25519 key of each four."""
MAX_SEALED_BODY = 32 << 20
"""Octets of a body that is sealed: dkimpy holds all of it in memory."""

SIGNED_FIELDS = (  # RFC 6376 5.4.1, and RFC 8058 4 for one-click unsubscription
    *("from", "sender", "reply-to", "subject", "date", "message-id", "to", "cc", "in-reply-to", "references"),
    *("mime-version", "content-type", "content-transfer-encoding", "content-id", "content-description"),
    *("resent-date", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-message-id"),
    *("list-id", "list-help", "list-unsubscribe", "list-unsubscribe-post", "list-subscribe", "list-post"),
    *("list-owner", "list-archive", "auto-submitted"),
)
UNSIGNABLE = frozenset(  # RFC 6376 5.4.1: changed or removed on the way
    ("return-path", "received", "comments", "keywords", "bcc", "resent-bcc", "dkim-signature", "authentication-results")
)


class SenderCheck(enum.StrEnum):
    """How the envelope sender's domain has to agree with the domain that signs."""

    RELAXED = "relaxed"  # the same, or one above the other
    STRICT = "strict"  # the same as the author's
    OFF = "off"


@dataclass(frozen=True)
class SignSettings:
    keys: Path | None = setting(None, help="Directory of the private keys; none: `dkim` in the state directory.")
    strict_modes: bool = setting(True, help="Refuse keys that others than the server's user can read.")
    traffic: tuple[TrafficClass, ...] = setting(
        (TrafficClass.AUTHENTICATED, TrafficClass.LOCAL), help="Whose mail is signed; never leave outsiders in."
    )
    sender_check: SenderCheck = setting(
        SenderCheck.RELAXED, help="How the envelope sender's domain has to agree with the one that signs."
    )
    subdomains: bool = setting(True, help="Sign for an author's subdomain with the key of the domain above it.")
    fields: tuple[str, ...] = setting(SIGNED_FIELDS, help="Header fields that are signed where the mail has them.")
    oversign: tuple[str, ...] = setting(("from",), help="Header fields to which nobody shall be able to add one.")
    expire: Duration = setting(Duration(0), help="How long a signature is good (x=); 0: always.", least=0)
    bare_newlines: bool = setting(True, help="Make bare CR and LF in the body to CRLF before signing.")
    arc_domain: str = setting("", help="Domain whose rsa key seals forwarded mail (ARC); empty: no seal.")

    def __post_init__(self) -> None:
        if not {"from"} & {name.lower() for name in (*self.fields, *self.oversign)}:
            raise ValueError("fields: From has to be signed (RFC 6376 5.4); add 'from'")
        if unwise := sorted(UNSIGNABLE & {name.lower() for name in (*self.fields, *self.oversign)}):
            raise ValueError(f"fields: {unwise[0]} changes on the way (RFC 6376 5.4.1); leave it out")
        if 0 < self.expire <= CLOCK_SKEW:
            raise ValueError("expire: mail may be days on its way; give at least 1d, or 0 for always")


def keys_directory(config: Config, settings: SignSettings) -> Path:
    return settings.keys or config.paths.state / "dkim"


class DkSign:
    """Keeps parsed private keys between mails, and nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: dict[tuple[Path, bool], KeyStore] = {}
        self._check = DkCheck()

    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo(
            summary="Sign outgoing mail with DKIM; seal forwarded mail with ARC",
            placements=(Placement(Stage.BEFORE_REMOTE, Type.SENDER_DOMAIN, 100),),
            settings=SignSettings,
            needs=Need.BODY,
            on_error=OnError.DEFER,
            timeout=Duration(20),
            edits_message=True,
            uses_network=True,
        )

    @hookimpl
    def before_remote(
        self, envelope: Envelope, message: Message, settings: SignSettings, services: Services
    ) -> Verdict:
        edits: list[Edit] = []
        if settings.bare_newlines and (converted := with_crlf(message.body)) is not None:
            edits.append(ReplaceBody(converted))
            message = message.with_edits(edits)
        reasons = []
        for step in (self._signatures, self._seal):
            made, reason = step(envelope, message, settings, services)
            edits.extend(made)
            message = message.with_edits(made)
            reasons += [reason] if reason else []
        signed = any(isinstance(edit, InsertField) for edit in edits)
        return passed(*edits, reason="; ".join(reasons)) if signed else skipped("; ".join(reasons))

    @hookimpl
    def diagnose(self, settings: SignSettings, services: Services) -> Iterable[Diagnosis]:
        store = self.store(keys_directory(services.config, settings), strict_modes=settings.strict_modes)
        return diagnose_keys(store, services)

    def store(self, root: Path, *, strict_modes: bool) -> KeyStore:
        with self._lock:
            return self._stores.setdefault((root, strict_modes), KeyStore(root, strict_modes=strict_modes))

    def _signatures(
        self, envelope: Envelope, message: Message, settings: SignSettings, services: Services
    ) -> tuple[tuple[InsertField, ...], str]:
        """One field a selector, and what the log says."""
        if envelope.traffic not in settings.traffic:
            return (), f"not signed: {envelope.traffic} mail"
        authors = author_domains(message)
        if len(authors) != 1:
            return (), "not signed: no single author domain"
        store = self.store(keys_directory(services.config, settings), strict_modes=settings.strict_modes)
        selectors = signing_selectors(store, authors[0], settings)
        if not selectors:
            return (), f"not signed: no active key for {authors[0]}"
        domain = selectors[0].domain
        selectors = [one for one in selectors if (domain, one.name) not in _ours(message)]
        if not selectors:
            return (), f"signed for {domain} already"
        if not _sender_agrees(envelope.sender.domain, authors[0], domain, settings.sender_check):
            return (), f"not signed: the envelope sender's domain {envelope.sender.domain} is not aligned with {domain}"
        keys = usable_keys(store, selectors, services)
        if has_line_over(message.body, MAX_LINE):
            services.log.warning(f"a line is longer than {MAX_LINE} octets: a break in it will break the signature")
        names = names_to_sign(message.fields, settings.fields, settings.oversign)
        fields, bodies, now = header_fields(message.fields), BodyDigests(message.body), int(services.clock.now())
        expires = now + int(settings.expire) if settings.expire else 0
        made = tuple(
            InsertField(
                b"DKIM-Signature", OpenSslDkim(fields, bodies, key).signature_field(domain, name, names, now, expires)
            )
            for name, key in keys
        )
        return made, f"signed for {domain} with {', '.join(name for name, _ in keys)}"

    def _seal(
        self, envelope: Envelope, message: Message, settings: SignSettings, services: Services
    ) -> tuple[tuple[InsertField, ...], str]:
        """The three fields of an ARC set for mail that came from elsewhere (RFC 8617 5.1)."""
        if not settings.arc_domain or not _is_forwarded(envelope, message) or _ours(message, b"ARC-Seal"):
            return (), ""
        if message.body.size > MAX_SEALED_BODY:
            return (), "not sealed: the body is too large"
        finding = services.finding("dk_check", DkimFinding) or self._check.examine(message, CheckSettings(), services)
        if finding.arc.ended or finding.arc.status not in (Status.NONE, Status.PASS, Status.FAIL):
            return (), f"not sealed: arc={finding.arc.status}"
        try:
            sets = collect_sets(header_fields(message.fields))
        except Problem as problem:
            return (), f"not sealed: {problem.reason}"
        store = self.store(keys_directory(services.config, settings), strict_modes=settings.strict_modes)
        name, key = sealing_key(store, to_a_label(settings.arc_domain), services)
        sealer = OpenSslSealer(message.fields, message.body, sets, key)
        names = names_to_sign(message.fields, (*settings.fields, "dkim-signature"), ())
        made = sealer.seal(
            to_a_label(settings.arc_domain),
            name,
            names,
            int(services.clock.now()),
            services.config.authserv_id,
            results_text(finding.signatures, finding.arc),
        )
        return made, f"sealed by {settings.arc_domain} with arc={finding.arc.status}"


def signing_selectors(store: KeyStore, author_domain: str, settings: SignSettings) -> list[Selector]:
    """The active selectors of the author's domain, else of the nearest domain above it that has any."""
    labels = author_domain.split(".")
    last = len(labels) - 1 if settings.subdomains else 1
    for start in range(max(1, last)):
        try:
            active = [one for one in store.selectors(".".join(labels[start:])) if one.state is KeyState.ACTIVE]
        except ValueError:  # no domain that could be the name of a directory
            return []
        if active:
            return active[:MAX_SELECTORS]
    return []


def usable_keys(store: KeyStore, selectors: Iterable[Selector], services: Services) -> list[tuple[str, PrivateKey]]:
    """Keys by selector. An unusable one is logged; KeyUnusable when no other is left."""
    keys, problem = [], None
    for selector in selectors:
        try:
            keys.append((selector.name, store.load(selector)))
        except KeyUnusable as error:
            problem = error
            services.log.error("key cannot be used", problem=str(error))
    if not keys and problem is not None:
        raise problem
    return keys


def sealing_key(store: KeyStore, domain: str, services: Services) -> tuple[str, PrivateKey]:
    """The first active rsa key: ARC knows no other algorithm (RFC 8617 4.1.2)."""
    active = [one for one in store.selectors(domain) if one.state is KeyState.ACTIVE]
    for name, key in usable_keys(store, active, services):
        if key.type is KeyType.RSA:
            return name, key
    raise KeyUnusable(f"{store.root / domain}: no active rsa key; make one with 'postroom dk keygen {domain}'")


def _sender_agrees(sender_domain: str, author_domain: str, signing_domain: str, check: SenderCheck) -> bool:
    """The null sender has no domain to disagree with: bounces and notices of our own."""
    if not sender_domain:
        return True
    match check:
        case SenderCheck.RELAXED:
            return aligned(sender_domain, signing_domain)
        case SenderCheck.STRICT:
            return sender_domain == author_domain
        case SenderCheck.OFF:
            return True


def _ours(message: Message, name: bytes = b"DKIM-Signature") -> set[tuple[str, str]]:
    """Domain and selector of what an earlier call made: two registrations may apply to one mail.

    Such fields have no origin; what a sender writes into his mail has one.
    """
    found = [parse_tags(each.value) for each in message.get_all(name) if each.origin < 0]
    return {(domain_text(tags.get(b"d", b"")), domain_text(tags.get(b"s", b""))) for tags in found}


def _is_forwarded(envelope: Envelope, message: Message) -> bool:
    """Whether it came from elsewhere: from outside, or handed in here with a chain of other hosts on it."""
    if envelope.traffic is TrafficClass.AUTHENTICATED:
        return False
    return envelope.traffic is TrafficClass.INBOUND or bool(message.get_all(SEAL))
