"""Verifies an ARC chain (RFC 8617 5.2) by way of dkimpy, with OpenSSL's arithmetic and bounded work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dkim
from postroom.mail import Message

from postroom_dk.canonical import Canonicalization, HeaderField, header_octets, select
from postroom_dk.mailview import BodyDigests, header_fields
from postroom_dk.results import ArcResult, Problem, Status
from postroom_dk.signature import Signature, parse_arc_message_signature, parse_arc_seal, parse_tags, unfolded
from postroom_dk.verify import KeySource, check_body, check_header

MAX_INSTANCE = 50  # RFC 8617 4.2.1

RESULTS, MESSAGE_SIGNATURE, SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
ARC_FIELDS = (RESULTS, MESSAGE_SIGNATURE, SEAL)  # in the order in which a seal covers them, RFC 8617 5.1.1
_INSTANCE = re.compile(rb"\s*i\s{0,8}=\s{0,8}(\d{1,2})\s*")


@dataclass(frozen=True)
class ArcSet:
    """The three fields of one instance, and their positions in the header."""

    instance: int
    fields: Mapping[bytes, HeaderField]
    positions: Mapping[bytes, int]
    seal: Signature
    message_signature: Signature

    @property
    def chain_status(self) -> bytes:
        return self.seal.tags[b"cv"].lower()


def collect_sets(fields: Sequence[HeaderField]) -> tuple[ArcSet, ...]:
    """All ARC sets, oldest first; Problem when they do not form a chain (RFC 8617 5.2 step 3)."""
    found: dict[int, dict[bytes, int]] = {}
    for position, (name, value) in enumerate(fields):
        kind = name.strip().lower()
        if kind not in ARC_FIELDS:
            continue
        instance = _instance(kind, value)
        of_instance = found.setdefault(instance, {})
        if kind in of_instance:
            raise Problem(Status.FAIL, f"instance {instance} has two {kind.decode()} fields")
        of_instance[kind] = position
    if sorted(found) != list(range(1, len(found) + 1)):
        raise Problem(Status.FAIL, "instances are missing")
    return tuple(_arc_set(instance, found[instance], fields) for instance in sorted(found))


def _instance(kind: bytes, value: bytes) -> int:
    if kind == RESULTS:
        matched = _INSTANCE.fullmatch(unfolded(value.partition(b";")[0]))
        text = matched[1] if matched else b""
    else:
        text = parse_tags(value).get(b"i", b"")
    if not text.isdigit() or len(text) > 2 or not 1 <= int(text) <= MAX_INSTANCE:
        raise Problem(Status.FAIL, f"{kind.decode()} without a valid instance")
    return int(text)


def _arc_set(instance: int, positions: Mapping[bytes, int], fields: Sequence[HeaderField]) -> ArcSet:
    missing = [kind.decode() for kind in ARC_FIELDS if kind not in positions]
    if missing:
        raise Problem(Status.FAIL, f"instance {instance} has no {missing[0]}")
    of_set = {kind: fields[position] for kind, position in positions.items()}
    try:
        seal = parse_arc_seal(parse_tags(of_set[SEAL][1]))
        message_signature = parse_arc_message_signature(parse_tags(of_set[MESSAGE_SIGNATURE][1]))
    except Problem as problem:
        raise Problem(Status.FAIL, f"instance {instance}: {problem.reason}") from None
    if seal.tags[b"cv"].lower() not in (dkim.CV_None, dkim.CV_Pass, dkim.CV_Fail):
        raise Problem(Status.FAIL, f"instance {instance}: cv= is neither none, pass nor fail")
    return ArcSet(instance, of_set, positions, seal, message_signature)


class OpenSslChain(dkim.ARC):  # type: ignore[misc]  # dkimpy ships no types
    """dkimpy's chain verifier over sets that are already taken apart."""

    def __init__(
        self, fields: Sequence[HeaderField], bodies: BodyDigests, sets: Sequence[ArcSet], keys: KeySource
    ) -> None:
        super().__init__()
        self.headers = fields
        self._bodies, self._sets, self._keys = bodies, sets, keys
        self.oldest_pass: int | None = 0

    def sorted_arc_headers(self) -> tuple[int, list[tuple[int, HeaderField]]]:
        """dkimpy's place for finding the sets; it goes from the newest instance down."""
        return len(self._sets), []

    def verify_instance(
        self,
        arc_headers_w_instance: Sequence[tuple[int, HeaderField]],  # noqa: ARG002  # dkimpy's signature
        instance: int,
        dnsfunc: object = None,  # noqa: ARG002
    ) -> Mapping[str, Any]:
        """dkimpy's place for one set: message signatures until one fails, seals of all (RFC 8617 5.2 steps 4-6)."""
        arc_set = self._sets[instance - 1]
        message_valid = self.oldest_pass == 0 and self._verifies(self._check_message, arc_set)
        if self.oldest_pass == 0 and not message_valid:
            self.oldest_pass = instance + 1 if instance < len(self._sets) else None
        return {
            "instance": instance,
            "cv": arc_set.chain_status,
            "ams-valid": message_valid,
            "as-valid": self._verifies(self._check_seal, arc_set),
        }

    def _verifies(self, check: Any, arc_set: ArcSet) -> bool:
        try:
            check(arc_set)
        except Problem as problem:
            if problem.status is Status.TEMPERROR:
                raise
            return False
        return True

    def _check_message(self, arc_set: ArcSet) -> None:
        signature, position = arc_set.message_signature, arc_set.positions[MESSAGE_SIGNATURE]
        key = self._keys.fitting(signature)
        key.check_use(signature)
        if signature.length is not None:
            raise Problem(Status.FAIL, "l= leaves the end of the body open")
        check_body(signature, self._bodies)
        others = [found for at, found in enumerate(self.headers) if at != position]
        signed = [others[at] for at in select(others, signature.names)]
        check_header(signature, key, header_octets(signed, self.headers[position], signature.header_form))

    def _check_seal(self, arc_set: ArcSet) -> None:
        key = self._keys.fitting(arc_set.seal)
        key.check_use(arc_set.seal)
        covered = [older.fields[kind] for older in self._sets[: arc_set.instance] for kind in ARC_FIELDS][:-1]
        octets = header_octets(covered, arc_set.fields[SEAL], Canonicalization.RELAXED)
        check_header(arc_set.seal, key, octets)


def verify_chain(message: Message, arrived: Callable[[], Message], bodies: BodyDigests, keys: KeySource) -> ArcResult:
    """The chain's result; on the mail as it arrived where that differs and the mail as it is does not verify."""
    result = _verify(header_fields(message.fields), bodies, keys)
    if result.status is Status.FAIL and not result.ended and result.sealers:
        fields = arrived().fields
        if len(fields) != len(message.fields):
            again = _verify(header_fields(fields), bodies, keys)
            return again if again.status is Status.PASS else result
    return result


def _verify(fields: Sequence[HeaderField], bodies: BodyDigests, keys: KeySource) -> ArcResult:
    try:
        sets = collect_sets(fields)
    except Problem as problem:
        return ArcResult(Status.FAIL, reason=problem.reason)
    if not sets:
        return ArcResult()
    sealers = tuple(arc_set.seal.domain for arc_set in reversed(sets))
    if sets[-1].chain_status == dkim.CV_Fail:  # RFC 8617 5.2 step 2
        return ArcResult(
            Status.FAIL, len(sets), None, sealers, "the newest seal says that the chain failed", ended=True
        )
    chain = OpenSslChain(fields, bodies, sets, keys)
    try:
        status, _, reason = chain.verify()
    except Problem as problem:
        return ArcResult(problem.status, len(sets), None, sealers, problem.reason)
    if status == dkim.CV_Pass:
        return ArcResult(Status.PASS, len(sets), chain.oldest_pass, sealers, _uncovered(sets[-1]))
    return ArcResult(Status.FAIL, len(sets), None, sealers, reason)


def _uncovered(newest: ArcSet) -> str:
    return "" if b"from" in newest.message_signature.names else "the newest message signature does not cover From"
