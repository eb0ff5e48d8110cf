"""One identity checked: the sender's record, the administrator's local rules and guesses, joined to one result."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from postroom_spf.evaluation import Evaluation, Lookups, Question, evaluate
from postroom_spf.macros import MacroError, expand
from postroom_spf.result import SpfResult, permissiveness
from postroom_spf.settings import SpfSettings
from postroom_spf.text import safe

_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.IGNORECASE)
_MAX_NAME = 253


class Source(enum.StrEnum):
    """Where the result comes from."""

    NOTHING = "nothing"  # no record, no rule matched
    RECORD = "record"  # the sender's, with local rules in it
    LOCAL_RULES = "local rules"
    GUESS = "guess rules"


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for one identity, with what replies, logs and header fields say about it."""

    question: Question
    evaluation: Evaluation
    source: Source
    explanation: str = ""  # safe ASCII; only for `fail`
    domain_explains: bool = False  # the explanation is the domain's own

    @property
    def result(self) -> SpfResult:
        return self.evaluation.result


def is_checkable(domain: str) -> bool:
    """Whether DNS could know the domain at all (RFC 7208 4.3): at least two labels, none odd, no address."""
    labels = domain.removesuffix(".").split(".")
    if len(labels) < 2 or len(domain) > _MAX_NAME or labels[-1].isdigit():
        return False
    return all(_LABEL.fullmatch(label) for label in labels)


def check_in_order(questions: Iterable[Question], settings: SpfSettings, lookups: Lookups) -> list[Checked]:
    """Check one identity after the other, up to the first `fail`; the last one's result counts (RFC 7208 2.3)."""
    done: list[Checked] = []
    for question in questions:
        done.append(check(question, settings, lookups))
        if done[-1].result is SpfResult.FAIL:
            break
    return done


def check(question: Question, settings: SpfSettings, lookups: Lookups) -> Checked:
    if not is_checkable(question.domain):
        return Checked(question, Evaluation(SpfResult.NONE), Source.NOTHING)
    evaluation, source = _evaluate(question, settings, lookups)
    lookups.note(f"{question.identity} {question.domain}: {evaluation.result} by {source}")
    checked = Checked(question, evaluation, source)
    if evaluation.result is not SpfResult.FAIL:
        return checked
    if settings.domain_explanation and evaluation.explanation.strip():
        return replace(checked, explanation=safe(evaluation.explanation.strip()), domain_explains=True)
    return replace(checked, explanation=default_explanation(settings.explanation, question))


def _evaluate(question: Question, settings: SpfSettings, lookups: Lookups) -> tuple[Evaluation, Source]:
    evaluation = evaluate(question, lookups, rules=settings.local_rules)
    if evaluation.result is SpfResult.PERMERROR and settings.local_rules:
        # Perhaps our rules took the record over a limit; then the record counts as it is.
        lookups.note("permerror with the local rules: once more without them")
        evaluation = evaluate(question, lookups)
    if evaluation.result is not SpfResult.NONE:
        return evaluation, Source.RECORD
    alone = []
    if settings.local_rules:
        local = evaluate(question, lookups, record=settings.local_rules)
        if local.mechanism or local.result is SpfResult.TEMPERROR:  # else no rule matched: they say nothing
            alone.append((local, Source.LOCAL_RULES))
    if settings.guess_rules:
        guess = evaluate(question, lookups, record=settings.guess_rules)
        alone.append((replace(guess, explanation=""), Source.GUESS))
    useful = [found for found in alone if found[0].result is not SpfResult.PERMERROR]
    return min(useful, key=lambda found: permissiveness(found[0].result), default=(evaluation, Source.NOTHING))


def default_explanation(text: str, question: Question) -> str:
    """The administrator's explanation with its macros filled in; no DNS: %{p} is `unknown`."""
    client = question.client
    nibbles = ".".join(client.exploded.replace(":", "").upper())  # RFC 7208 7.3
    values = {
        "s": question.sender,
        "l": question.local_part,
        "o": question.domain,
        "d": question.domain,
        "i": str(client) if client.version == 4 else nibbles,
        "c": str(client),
        "p": "unknown",
        "v": "in-addr" if client.version == 4 else "ip6",
        "h": question.helo,
        "r": question.receiver,
        "t": "",
    }
    try:
        return safe(expand(text, values.__getitem__, explanation=True))
    except MacroError:  # the settings were checked; a text from elsewhere is told as it is
        return safe(text)
