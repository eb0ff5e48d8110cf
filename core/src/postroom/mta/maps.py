"""Maps as Postfix and Dovecot read them, written from the directory: whole, at once, and only what changed."""

from __future__ import annotations

import enum
import grp
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from postroom.mta.postfix_tool import Postfix, read_text
from postroom.mta.postfix_wishes import MAPS, SENDER_ACCESS

LOGINS = "passwd"
DOVECOT = "dovecot"
HEAD = "# written by `postroom restore` from the directory: changes here are lost\n"
INDEX = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
NAMES = (*MAPS, SENDER_ACCESS)


class Standing(enum.StrEnum):
    """How a file compares with the directory."""

    CURRENT = "current"
    MISSING = "missing"
    DIFFERENT = "different"
    STALE = "stale"  # the text is right, the index is not made from it
    OWN = "not ours"  # the directory knows nothing of such a map, and somebody has written one


@dataclass(frozen=True, slots=True)
class MapFile:
    name: str
    text: str
    rows: int
    standing: Standing


def compare(directory: Path, maps: Mapping[str, Mapping[str, str]], logins: str | None, kind: str) -> Iterator[MapFile]:
    """Every file that shall be there. A map that the directory does not know is made empty where there is none."""
    for name in NAMES:
        rows = maps.get(name)
        text = HEAD + "".join(f"{_key(key)} {value}\n" for key, value in sorted((rows or {}).items()))
        standing = _standing(directory / name, text, INDEX.get(kind, ""))
        if rows is None and standing is Standing.DIFFERENT and not read_text(directory / name).startswith(HEAD):
            standing = Standing.OWN
        yield MapFile(name, text, len(rows or {}), standing)
    if logins is not None:
        yield MapFile(LOGINS, logins, logins.count("\n"), _standing(directory / LOGINS, logins, ""))


def _key(key: str) -> str:
    return f'"{key}"' if " " in key else key  # postmap(1): a key with blanks is quoted


def _standing(path: Path, text: str, suffix: str) -> Standing:
    index = path.with_name(path.name + suffix)
    if not path.exists():
        return Standing.MISSING
    if read_text(path) != text:
        return Standing.DIFFERENT
    if not index.exists() or index.stat().st_mtime < path.stat().st_mtime:
        return Standing.STALE
    return Standing.CURRENT


def write(directory: Path, files: list[MapFile], postfix: Postfix, kind: str) -> None:
    """Make what is wanted, indexes included, beside its place; then put each there in one step."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=directory) as name:
        new = Path(name)
        for file in files:
            _write_file(new / file.name, file.text, private=file.name == LOGINS)
            if file.name != LOGINS and kind in INDEX:
                postfix.run("postmap", f"{kind}:{new / file.name}")
        for file in files:
            index = f"{file.name}{INDEX.get(kind, '')}"
            if file.name != LOGINS and kind in INDEX:
                (new / index).replace(directory / index)  # first: Postfix reads this one
            (new / file.name).replace(directory / file.name)


def _write_file(path: Path, text: str, *, private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        if not private:
            os.fchmod(descriptor, 0o644)
        elif os.geteuid() == 0 and any(group.gr_name == DOVECOT for group in grp.getgrall()):
            os.fchmod(descriptor, 0o640)
            shutil.chown(path, group=DOVECOT)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
