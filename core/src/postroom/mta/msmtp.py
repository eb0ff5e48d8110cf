"""Puts the wrapper where local programs look for sendmail(1), before msmtp, and takes it away again."""

from __future__ import annotations

from pathlib import Path

from postroom.mta.host import Surroundings
from postroom.mta.script import Wrapper
from postroom.mta.wrapping import Wrapping

SENDMAIL = Path("/usr/sbin/sendmail")
MSMTP = Path("/usr/bin/msmtp")

_PART = "postroom.fronts.sendmail"


def wrapping(sendmail: Path, msmtp: Path, here: Surroundings) -> Wrapping:
    """`sendmail`: the wrapper's place; `msmtp`: the program that it hands mail to."""

    def wrapper(original: Path) -> Wrapper:
        return Wrapper(sendmail.name, _PART, here.settings(original), here.interpreter)

    return Wrapping(sendmail, wrapper, None if sendmail == msmtp else msmtp)
