"""What an installation replaced: kept beside main.cf until it is taken out.

It lies there, and not in the state directory, because whoever may write it decides what root writes into main.cf.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from postroom.mta.postfix_options import Options, options_from_json, options_to_json
from postroom.mta.postfix_tool import PostfixFailed, read_text, write_text

FILE = "postroom-install.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """A setting of main.cf as it was, and as we made it. `before` None: main.cf did not set it.

    `members`: what we added to a list; None: the whole value is ours.
    """

    name: str
    before: str | None
    raw: str | None
    """The text of the entry, to be put back as it was written; None where `before` is, or when it was set twice."""
    left: str
    """What postconf makes of that text when it restores the value."""
    ours: str
    members: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """An entry of master.cf; `before` None: there was none of that name."""

    service: str
    before: str | None
    ours: str
    raw: str | None = None
    """The text of the entry, to be put back as it was written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole file before, and the digest of what we left: while that holds, the file goes back as it was."""

    before: str
    after: str = ""


@dataclass(frozen=True, slots=True)
class State:
    options: Options
    settings: dict[str, Record] = field(default_factory=dict)
    services: dict[str, ServiceRecord] = field(default_factory=dict)
    files: dict[str, Snapshot] = field(default_factory=dict)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def read_state(directory: Path) -> State | None:
    """None: postroom is not installed there."""
    path = directory / FILE
    try:
        document = json.loads(read_text(path))
        if document["version"] != VERSION:
            raise PostfixFailed(f"{path}: written by another version of postroom: uninstall with that one")
        return State(
            options_from_json(document["options"]),
            {each["name"]: _record(each) for each in document["settings"]},
            {each["service"]: ServiceRecord(**each) for each in document["services"]},
            {name: Snapshot(**each) for name, each in document["files"].items()},
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise PostfixFailed(f"{path}: cannot be read ({error}): restore it from a backup") from None


def _record(raw: dict[str, Any]) -> Record:
    members = raw.pop("members")
    return Record(**raw, members=None if members is None else tuple(members))


def write_state(directory: Path, state: State) -> None:
    document = {
        "version": VERSION,
        "options": options_to_json(state.options),
        "settings": [asdict(each) for each in state.settings.values()],
        "services": [asdict(each) for each in state.services.values()],
        "files": {name: asdict(each) for name, each in state.files.items()},
    }
    write_text(directory / FILE, json.dumps(document, indent=1) + "\n")


def remove_state(directory: Path) -> None:
    (directory / FILE).unlink(missing_ok=True)
