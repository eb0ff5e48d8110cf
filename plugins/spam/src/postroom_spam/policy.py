"""Pure: what a score means for one recipient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from postroom.lists.senders import Listing, ListName
from postroom.mail import Edit, FileInto, Message
from postroom.verdict import Category, Reply, Verdict, passed, quarantined, rejected, stopped

from postroom_spam.engine import Report
from postroom_spam.fields import insert_all, level, number, report, status, tag_subject, without_forged
from postroom_spam.settings import Consequence, SpamSettings

LISTED = 100.0
"""Points for a list, the reference's: more than any rule has, less than the test mail."""
WHITE_LIST, BLACK_LIST = "ON_WHITE_LIST", "ON_BLACK_LIST"


@dataclass(frozen=True, slots=True)
class SpamFinding:
    """What the filter found, for later handlers and the log. `symbols`: names of the rules that hit.

    `scanned` is false where no rule was tried, and `remark` says why: then `score` is that of the lists alone.
    """

    score: float
    required: float
    is_spam: bool
    engine: str
    symbols: tuple[str, ...] = ()
    scanned: bool = True
    remark: str = ""


def judge(scanned: Report | None, listing: Listing | None, settings: SpamSettings) -> SpamFinding:
    """`scanned` None: too large."""
    remark = scanned.skipped if scanned else f"larger than {settings.max_size}"
    if remark:
        scanned = None
    score = scanned.score if scanned else 0.0
    symbols = scanned.symbols if scanned else ()
    if listing is not None:
        match listing.name:
            case ListName.ALLOW:
                score, symbols = score - LISTED, (WHITE_LIST, *symbols)
            case ListName.DENY:
                score, symbols = score + LISTED, (BLACK_LIST, *symbols)
            case _:
                assert_never(listing.name)
    required = settings.required(scanned.required if scanned else None)
    if scanned is None:
        is_spam = listing is not None and score >= required
    elif settings.engine_threshold and listing is None:
        is_spam = scanned.is_spam
    else:
        is_spam = score >= required
    return SpamFinding(score, required, is_spam, str(settings.engine), symbols, scanned is not None, remark)


def decide(
    finding: SpamFinding, text: str, listing: Listing | None, message: Message, settings: SpamSettings
) -> Verdict:
    """`text`: the engine's report."""
    reason = describe(finding, listing)
    consequence = consequence_of(finding, settings)
    verdict: Verdict
    match consequence:
        case None | Consequence.MARK:
            verdict = passed(*_edits(finding, text, message, settings), reason=reason)
        case Consequence.JUNK:
            verdict = passed(*_edits(finding, text, message, settings), FileInto(settings.folder), reason=reason)
        case Consequence.QUARANTINE:
            verdict = quarantined(reason, category=Category.SPAM)
        case Consequence.DISCARD:
            verdict = stopped(f"discarded: {reason}")
        case Consequence.REJECT:
            verdict = rejected(reason, Reply(settings.reply), category=Category.SPAM)
        case _:
            assert_never(consequence)
    return replace(verdict, finding=finding)


def consequence_of(finding: SpamFinding, settings: SpamSettings) -> Consequence | None:
    if not finding.is_spam:
        return None
    if settings.high_threshold and finding.score >= settings.high_threshold:
        return settings.high_action
    return settings.action


def describe(finding: SpamFinding, listing: Listing | None) -> str:
    """For the log."""
    parts = ["spam" if finding.is_spam else "no spam"]
    if finding.scanned or listing:
        parts.append(f"score {number(finding.score)} of {number(finding.required)}")
    if not finding.scanned:
        parts.append(f"not scanned, {finding.remark}")
    if listing:
        parts.append(f"{'allowed' if listing.name is ListName.ALLOW else 'denied'} by {listing.by}")
    return ", ".join(parts)


def _edits(finding: SpamFinding, text: str, message: Message, settings: SpamSettings) -> Iterator[Edit]:
    yield from without_forged(message)
    if finding.is_spam and settings.tag and (tagged := tag_subject(message, settings.tag)):
        yield tagged
    if settings.headers:
        yield from insert_all(_fields(finding, text, settings))


def _fields(finding: SpamFinding, text: str, settings: SpamSettings) -> list[tuple[bytes, bytes]]:
    remark = "" if finding.scanned else f"not scanned ({finding.remark})"
    score = finding.score if finding.scanned or finding.symbols else None
    fields = [(b"X-Spam-Flag", b" YES")] if finding.is_spam else []
    fields.append((b"X-Spam-Status", status(finding.is_spam, score, finding.required, finding.symbols, remark)))
    if score is not None:
        fields.append((b"X-Spam-Score", b" " + number(score).encode()))
        if stars := level(score):
            fields.append((b"X-Spam-Level", stars))
    if settings.report and finding.is_spam and text:
        fields.append((b"X-Spam-Report", report(text)))
    return fields
