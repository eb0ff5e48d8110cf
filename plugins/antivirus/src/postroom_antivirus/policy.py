"""What a scan's result means for the mail: result and settings in, verdict out. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import replace
from email.header import Header
from fnmatch import fnmatchcase
from typing import assert_never

from postroom.hookspecs import Unavailable
from postroom.mail import AddField, Edit, InsertField, Message, RemoveField, ReplaceField, header_value
from postroom.verdict import Category, Reply, Verdict, passed, quarantined, rejected, stopped

from postroom_antivirus.engine import ScanResult, Status
from postroom_antivirus.settings import AntivirusSettings, Consequence


class Danger(enum.StrEnum):
    """What a mail is taken for; the words of the header field."""

    CLEAN = "clean"
    TOO_LARGE = "not scanned"
    UNSCANNABLE = "unscannable"
    SUSPICIOUS = "suspicious"
    INFECTED = "infected"


_ORDER = tuple(Danger)
_UNSCANNABLE_REPLY = "Message refused: it contains content that cannot be checked for viruses"
_SUSPICIOUS_REPLY = "Message refused: its content is suspicious"
_TOO_LARGE_REPLY = Reply("Message refused: too large to be checked for viruses", "3.4")


class ScanFailed(Unavailable):
    """There is no result: the registration's on_error decides. Neither clean nor infected."""

    def __init__(self, problem: str, *, of_this_mail: bool = False) -> None:
        super().__init__(problem)
        self.of_this_mail = of_this_mail


class ScanTimedOut(ScanFailed):
    """There is no result in time."""


def danger_of(result: ScanResult, settings: AntivirusSettings) -> tuple[Danger, str]:
    """What to take it for, and the name of what was found; ScanFailed when nobody knows."""
    match result.status:
        case Status.CLEAN:
            return Danger.CLEAN, ""
        case Status.TOO_LARGE:
            return Danger.TOO_LARGE, ""
        case Status.TIMEOUT:
            raise ScanTimedOut(result.detail)
        case Status.ERROR:
            raise ScanFailed(result.detail, of_this_mail=result.declined)
        case Status.FOUND:
            ranked = [(_danger_of_name(name, result, settings), name) for name in result.signatures]
            return max(ranked, key=lambda each: _ORDER.index(each[0]))  # the first of the worst
        case never:
            assert_never(never)


def _danger_of_name(name: str, result: ScanResult, settings: AntivirusSettings) -> Danger:
    if _matches(name, settings.ignored_names):
        return Danger.CLEAN
    if result.unscannable or _matches(name, settings.unscannable_names):
        return Danger.UNSCANNABLE
    return Danger.SUSPICIOUS if _matches(name, settings.suspicious_names) else Danger.INFECTED


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


def consequence_of(danger: Danger, settings: AntivirusSettings) -> Consequence:
    match danger:
        case Danger.CLEAN:
            return Consequence.PASS
        case Danger.TOO_LARGE:
            return settings.too_large
        case Danger.UNSCANNABLE:
            return settings.unscannable
        case Danger.SUSPICIOUS:
            return settings.suspicious
        case Danger.INFECTED:
            return settings.infected
        case never:
            assert_never(never)


def decide(result: ScanResult, message: Message, settings: AntivirusSettings, handler: str) -> Verdict:
    """The verdict, without a finding; ScanFailed when there is no result."""
    danger, name = danger_of(result, settings)
    reason = _reason(danger, name, result)
    # No answer to the sender of a virus who is not there: it would go to whom the virus claims to be.
    category = Category.INFECTED if danger in (Danger.INFECTED, Danger.SUSPICIOUS) else None
    match consequence_of(danger, settings):
        case Consequence.PASS:
            told = settings.clean_header and danger is Danger.CLEAN
            return passed(*_field_edits(danger, name, message, settings, handler, write=told), reason=reason)
        case Consequence.MARK:
            edits = _field_edits(danger, name, message, settings, handler, write=True)
            tag = () if danger is Danger.TOO_LARGE else _tag_edits(message, settings.subject_tag)
            return passed(*edits, *tag, reason=reason)
        case Consequence.REJECT:
            return rejected(reason, _reply(danger, name, settings), category=category)
        case Consequence.QUARANTINE:
            return quarantined(reason, category=category)
        case Consequence.DISCARD:
            return replace(stopped(reason), category=category)
        case never:
            assert_never(never)


def _reason(danger: Danger, name: str, result: ScanResult) -> str:
    parts = [str(danger)]
    if name:
        ignored = "nothing but " if danger is Danger.CLEAN else ""
        parts.append(f": {ignored}{name}")
    if result.detail:
        parts.append(f": {result.detail}")
    if result.server:
        parts.append(f", says {result.server}")
    return "".join(parts)


def _reply(danger: Danger, name: str, settings: AntivirusSettings) -> Reply:
    match danger:
        case Danger.TOO_LARGE:
            return _TOO_LARGE_REPLY
        case Danger.UNSCANNABLE:
            text = _UNSCANNABLE_REPLY
        case Danger.SUSPICIOUS:
            text = _SUSPICIOUS_REPLY
        case Danger.INFECTED | Danger.CLEAN:
            text = settings.reply
        case never:
            assert_never(never)
    return Reply(f"{text} ({name})" if settings.name_in_reply and name else text)


def _field_edits(
    danger: Danger, name: str, message: Message, settings: AntivirusSettings, handler: str, *, write: bool
) -> list[Edit]:
    """Take out what the mail brought along under our name, so that filters may trust it; then write our own."""
    field = settings.header.encode("ascii")
    present = message.get_all(field)
    edits: list[Edit] = [
        RemoveField(field, instance)
        for instance, found in reversed(list(enumerate(present, 1)))
        if found.origin >= 0  # not by a scanner that had this mail before us
    ]
    quoted = name.replace("\\", "?").replace('"', "?")
    named = f'name="{quoted}"; ' if quoted else ""
    value = header_value(f"{danger}; {named}by={handler}")
    if write and not any(found.origin < 0 and found.value == value for found in present):
        edits.append(InsertField(field, value))
    return edits


def _tag_edits(message: Message, tag: str) -> tuple[Edit, ...]:
    if not tag:
        return ()
    encoded = tag.encode() if tag.isascii() else Header(tag, "utf-8").encode().encode("ascii")  # RFC 2047 2
    subject = next(iter(message.get_all(b"Subject")), None)
    if subject is None:
        return (AddField(b"Subject", b" " + encoded),)
    rest = subject.value.lstrip(b" \t")
    return () if rest.startswith(encoded) else (ReplaceField(b"Subject", b" " + encoded + b" " + rest),)
