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
