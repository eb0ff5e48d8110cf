"""Pure: when a responder begins and ends, in its time zone."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?")


def check_zone(name: str) -> str:
    """ValueError when there is no time zone of that name."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError; a directory's name an OSError
        raise ValueError(f"{name!r} is no time zone: write a name such as Europe/Berlin, or UTC") from None
    return name


def check_moment(text: str) -> str:
    """ValueError when it is neither a date nor a date with a time."""
    try:
        if _DATE.fullmatch(text):
            date.fromisoformat(text)
            return text
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).isoformat(timespec="minutes" if text.count(":") == 1 else "seconds")
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no date: write 2026-12-24 or 2026-12-24T17:00")


def begins_at(text: str, zone: str) -> float:
    """Seconds since the epoch; a date begins with its first moment there."""
    return _moment(text, zone, days=0)


def ends_at(text: str, zone: str) -> float:
    """Seconds since the epoch; a date ends with its last moment there: the responder answers all day."""
    return _moment(text, zone, days=1)


def _moment(text: str, zone: str, days: int) -> float:
    if _DATE.fullmatch(text):
        day = date.fromisoformat(text)
        if days and day == date.max:  # written by people who mean never
            return math.inf
        local = datetime.combine(day + timedelta(days=days), time.min)
    else:
        local = datetime.fromisoformat(text)
    # A local time that a clock change leaves out or repeats is taken as it was before the change (fold 0).
    return local.replace(tzinfo=ZoneInfo(zone)).timestamp()
