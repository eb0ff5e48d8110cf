"""pyspf, bent to RFC 7208 and to the core's resolver: one question in, one evaluation out.

Everything is done by overriding methods of `spf.query`; pyspf's module stays as it is, so any number of threads may
evaluate at once. Imported late: pyspf costs 135 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import spf
from postroom.hookspecs import Answer, Clock, LookupFailed, Resolver

from postroom_spf import macros
from postroom_spf.record import VERSION, RecordError, has_redirect, normalise, splice
from postroom_spf.result import Identity, SpfResult

MAX_POINTERS = 10  # RFC 7208 4.6.4: of a client's names only so many are looked at
UNKNOWN = "unknown"  # RFC 7208 7.3: %{p} of a client without a validated name
_PYSPF_ANSWERS = ("A", "AAAA", "MX", "PTR", "TXT")


@dataclass(frozen=True, slots=True)
class Question:
    """Whether `client` may use `domain`; `sender` and `local_part` are for macros only (RFC 7208 4.1)."""

    client: IPv4Address | IPv6Address
    identity: Identity
    domain: str  # A-labels
    local_part: str
    helo: str
    receiver: str

    @property
    def sender(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else self.local_part


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one record says; `explanation` is the domain's own text for a client that fails, as it was published."""

    result: SpfResult
    mechanism: str = ""
    problem: str = ""
    explanation: str = ""


@dataclass(frozen=True)
class Lookups:
    """DNS for one whole check: every look-up gets what is left until `ends_at` (of clock.monotonic())."""

    resolver: Resolver
    clock: Clock
    ends_at: float
    void_limit: int = 2
    note: Callable[[str], None] = field(default=lambda _step: None)

    def ask(self, name: str, kind: str) -> Answer:
        left = self.ends_at - self.clock.monotonic()
        if left <= 0:
            raise _OutOfTime("the time for this check is over")
        try:
            answer = self.resolver.lookup(name, kind, left)
        except LookupFailed as failure:
            self.note(f"dns {name} {kind}: failed")
            if self.ends_at - self.clock.monotonic() <= 0:
                raise _OutOfTime("the time for this check is over") from None
            raise spf.TempError(f"DNS: {failure}") from None
        self.note(f"dns {name} {kind}: {_shown(answer)}")
        return answer


def _shown(answer: Answer) -> str:
    if not answer.exists:
        return "no such name"
    return ", ".join(repr(record) if isinstance(record, bytes) else str(record) for record in answer.records) or "none"


def evaluate(question: Question, lookups: Lookups, *, rules: str = "", record: str = "") -> Evaluation:
    """check_host() of RFC 7208 4, with `rules` spliced into the record, or with `record` in place of the domain's."""
    query = _Query(question, lookups, rules)
    result, _, text = query.check(f"{VERSION} {record}" if record else None)
    outcome = SpfResult(result)
    problem = text if outcome in (SpfResult.TEMPERROR, SpfResult.PERMERROR) else ""
    explanation = query.explanation() if outcome is SpfResult.FAIL else ""
    return Evaluation(outcome, query.mechanism or "", problem, explanation)


def _is_name(text: str) -> bool:
    return text.isascii() and all(0 < len(label) < 64 for label in text.split("."))


class _OutOfTime(spf.TempError):  # type: ignore[misc]  # pyspf ships no types
    """RFC 7208 4.6.4: a check that takes too long is a temporary error, also where other DNS errors are forgiven."""


@dataclass(slots=True)
class _Frame:
    """One record under evaluation: how deep in includes, and whether its `redirect=` is yet to be counted."""

    recursion: int
    redirect_pending: bool


class _Query(spf.query):  # type: ignore[misc]  # pyspf ships no types
    """One check. pyspf reads attributes of one letter as macros: add none here."""

    def __init__(self, question: Question, lookups: Lookups, rules: str) -> None:
        super().__init__(
            i=str(question.client), s=question.sender, h=question.helo, receiver=question.receiver, strict=True
        )
        self.l, self.o, self.d = question.local_part, question.domain, question.domain
        self.t = str(int(lookups.clock.now()))
        self.mechanism: str | None = None
        self._dns_work = lookups
        self._rules = rules
        self._frames: list[_Frame] = []
        self._explained_at: tuple[str, str] | None = None  # where the text is, and %{d} there
        self._void_in_term = False
        self._client_names: list[str] | None = None

    # DNS

    def dns(
        self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False
    ) -> list[str] | list[tuple[int, str]] | list[tuple[bytes]]:
        """Every look-up of pyspf comes through here; the resolver has followed CNAMEs."""
        del cnames
        plain = name.removesuffix(".")
        if (
            not plain.isascii()
            or not all(0 < len(label) < 64 for label in plain.split("."))
            or qtype not in _PYSPF_ANSWERS
        ):
            return []  # RFC 7208 4.3, RFC 8616 4: such a name has no records, whatever DNS would say
        records = self._dns_work.ask(plain, qtype).records
        if not records and not ignore_void:
            self._count_void()
        return [(record,) for record in records] if qtype == "TXT" else list(records)

    def _count_void(self) -> None:
        """RFC 7208 4.6.4 counts terms: the hosts of one `mx` without an address of the client's family are one."""
        if self._void_in_term:
            return
        self._void_in_term = True
        self.void_lookups += 1
        if self.void_lookups > self._dns_work.void_limit:
            raise spf.PermError(f"more than {self._dns_work.void_limit} void look-ups")

    def validated_ptrs(self) -> list[str]:
        """RFC 7208 5.5: an error for the client's names is no match, one for a name's addresses skips that name."""
        if self._client_names is None:
            try:
                pointers = self.dns_ptr(self.i)[:MAX_POINTERS]
            except _OutOfTime:
                raise
            except spf.TempError:
                pointers = []
            self._client_names = [pointer.lower() for pointer in pointers if self._points_back(pointer)]
        return self._client_names

    def _points_back(self, name: str) -> bool:
        try:
            return bool(self.cidrmatch(self.dns(name, self.A, ignore_void=True), self.cidrmax))
        except _OutOfTime:
            raise
        except spf.TempError:
            return False

    # Records

    def check1(self, record: str | None, domain: str, recursion: int) -> tuple[str, int, str]:
        """One record: of the domain, of an `include` (deeper) or of a `redirect` (as deep as what it replaces)."""
        if self._frames and self._frames[-1].recursion == recursion:
            self.check_lookups()  # the redirect counts now that it is followed
        prepared = self._prepare(record, recursion)
        self._dns_work.note(f"record {domain}: {prepared or 'none'}")
        if recursion == 0:
            self._explained_at = None  # RFC 7208 6.2: that of the record before a redirect does not count
        self._frames.append(_Frame(recursion, bool(prepared) and has_redirect(prepared)))
        try:
            outcome: tuple[str, int, str] = super().check1(prepared, domain, recursion)
        finally:
            self._frames.pop()
        self._dns_work.note(f"result {domain}: {outcome[0]}")
        return outcome

    def _prepare(self, record: str | None, recursion: int) -> str:
        if not record:
            return ""
        try:
            plain = normalise(record)
        except RecordError as error:
            raise spf.PermError(str(error)) from None
        return splice(plain, self._rules) if self._rules and recursion == 0 else plain

    def check_lookups(self) -> None:
        """RFC 7208 4.6.4 counts a term when it is evaluated; pyspf counts `redirect` already when it is read."""
        self._void_in_term = False
        if self._frames and self._frames[-1].redirect_pending:
            self._frames[-1].redirect_pending = False
            return
        super().check_lookups()

    # Macros and explanation

    def expand(self, text: str, stripdot: bool = True) -> str:
        """`stripdot`: the text is a domain-spec, else an explanation."""
        try:
            expanded = macros.expand(text, self._macro_value, explanation=not stripdot)
        except macros.MacroError as error:
            raise spf.PermError(f"invalid macro: {error}", text) from None
        return macros.domain_name(expanded) if stripdot else expanded

    def _macro_value(self, letter: str) -> str:
        return self._client_name() if letter == "p" else str(getattr(self, letter))

    def _client_name(self) -> str:
        """RFC 7208 7.3: of the client's validated names the domain itself, else one below it, else any.

        A void look-up here is no term's.
        """
        self._void_in_term, before = True, self._void_in_term
        try:
            names = self.validated_ptrs()
        finally:
            self._void_in_term = before
        domain = self.d.lower().removesuffix(".")
        below = (name for name in names if name.endswith("." + domain))
        return domain if domain in names else next(below, names[0] if names else UNKNOWN)

    def get_explanation(self, spec: str) -> None:
        """Only note where the explanation is: pyspf would fetch it for every mail that passes (RFC 7208 6.2)."""
        if self._frames[-1].recursion == 0:  # those of included records don't count
            self._explained_at = (spec, self.d)

    def explanation(self) -> str:
        """The domain's own text; empty when there is none, several, or anything is wrong with it (RFC 7208 6.2)."""
        if self._explained_at is None:
            return ""
        where, domain = self._explained_at
        before, self.d = self.d, domain
        try:
            texts = self.dns_txt(where, ignore_void=True)
            return self.expand(spf.to_ascii(texts[0]), stripdot=False) if len(texts) == 1 else ""
        except (spf.TempError, spf.PermError):
            return ""
        finally:
            self.d = before
