"""The streams that a program is started with: usable whatever they are, and whatever the locale cannot write."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


def open_streams() -> None:
    """A closed one goes nowhere, and characters that the locale's encoding lacks are written as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the program was started with `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def settle_output() -> None:
    """At a program's end: what standard output cannot take is dropped, or Python says so once more, in its own words
    (some releases of 3.11 keep what they could not write).
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
