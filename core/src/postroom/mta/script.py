"""Makes a wrapper: one file of the thin client, the wrapper's own part, and what is right for this host."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CLIENT = "postroom.fronts.handover.client"
_MARK = "# Postroom wrapper: "
_PLACE = re.compile(rf"^{_MARK}(?P<name>\S+)$", re.MULTILINE)
_LINES_READ = 4096  # octets; the mark is on the second line


@dataclass(frozen=True)
class Wrapper:
    """What to write. `part`: the module of the wrapper's own half; `settings`: constants for its text."""

    name: str
    part: str
    settings: Mapping[str, str]
    interpreter: str

    def text(self) -> str:
        written = _without_client(_source(self.part))
        source = _with_settings(f"{_source(_CLIENT)}\n\n{written}", self.settings)
        return (
            f"#!{self.interpreter} -ISXutf8\n"  # kernels pass one argument; UTF-8 mode keeps every octet of argv
            f"{_MARK}{self.name}\n"
            "# Written by the installation, which also takes it away again; changes are lost.\n"
            f"{source}"
        )


def wrapper_name(path: Path) -> str:
    """Whose wrapper stands there; "" when it is no wrapper of ours, or nothing."""
    try:
        with path.open("rb") as file:
            found = _PLACE.search(file.read(_LINES_READ).decode("utf-8", "replace"))
    except OSError:
        return ""
    return found["name"] if found else ""


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text("utf-8")


def _without_client(source: str) -> str:
    """Less the import of what stands above it in the same file."""
    lines = source.splitlines(keepends=True)
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and node.module == _CLIENT:
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines)


def _with_settings(source: str, settings: Mapping[str, str]) -> str:
    """With those constants set anew, each where it stands."""
    lines = source.splitlines(keepends=True)
    missing = set(settings)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in settings:
            name = node.targets[0].id
            lines[node.lineno - 1] = f"{name} = {settings[name]!r}\n"
            missing.discard(name)
    if missing:
        raise ValueError(f"no such constants: {', '.join(sorted(missing))}")
    return "".join(lines)
