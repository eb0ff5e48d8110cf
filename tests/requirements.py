"""What a test needs of the machine: a skip with its reason on a contributor's, a failure in CI (`CI=true`)."""

from __future__ import annotations

import os

import pytest
from postroom.testing.processes import find_program

PACKAGES = {
    "master": "postfix",
    "clamd": "clamav-daemon",
    "c-icap": "c-icap libc-icap-mod-virus-scan",
    "dovecot": "dovecot-core dovecot-lmtpd dovecot-imapd",
    "initdb": "postgresql",
    "tcpserver": "ucspi-tcp",
}


def missing(reason: str) -> None:
    """Say that this test cannot run here, and why."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (and CI skips nothing)", pytrace=False)
    pytest.skip(reason)


def require(*programs: str) -> None:
    """Each program has to be there."""
    for program in programs:
        if find_program(program) is None:
            missing(f"{program} is not installed: apt-get install {PACKAGES.get(program, program)}")


def require_root() -> None:
    """For servers that give up root themselves, as Postfix does."""
    if os.geteuid() != 0:
        missing("needs root: run scripts/test as root")
