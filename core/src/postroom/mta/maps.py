"""Maps as Postfix and Dovecot read them, written from the directory: whole, at once, and only what changed."""

from __future__ import annotations

import enum
import grp
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from postroom.mta.postfix_maincf import split_lines
from postroom.mta.postfix_tool import Postfix, PostfixFailed, read_text
from postroom.mta.postfix_wishes import MAPS, SENDER_ACCESS
from postroom.stores.files import replace_noticeably

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
    STALE = "stale"  # the text is right, the index is not made from it, or damaged
    OPEN = "wrong owner or mode"  # others may write it, or those who should cannot read it
    OWN = "not ours"  # the directory knows nothing of such a map, and somebody has written one


@dataclass(frozen=True, slots=True)
class MapFile:
    name: str
    text: str
    rows: int
    standing: Standing


def compare(
    directory: Path, maps: Mapping[str, Mapping[str, str]], logins: str | None, postfix: Postfix, kind: str
) -> Iterator[MapFile]:
    """Every file that shall be there. A map that the directory does not know is made empty where there is none."""
    for name in NAMES:
        rows = maps.get(name)
        path = directory / name
        text = HEAD + "".join(f"{_key(key)} {value}\n" for key, value in sorted((rows or {}).items()))
        standing = _standing(path, text)
        if rows is None and standing is Standing.DIFFERENT and _is_anybodys(path):
            standing = Standing.OWN
        if standing is Standing.CURRENT and kind in INDEX:
            standing = _standing_of_index(path, rows or {}, postfix, kind)
        yield MapFile(name, text, len(rows or {}), standing)
    if logins is not None:
        yield MapFile(LOGINS, logins, logins.count("\n"), _standing(directory / LOGINS, logins))


def _key(key: str) -> str:
    """As postmap(1) wants it: a key with blanks is quoted, which a local part with blanks is already."""
    return f'"{key}"' if " " in key and '"' not in key else key


def _is_anybodys(path: Path) -> bool:
    """Whether somebody wrote it; one that was emptied is nobody's."""
    text = read_text(path)
    return bool(text.strip()) and not text.startswith(HEAD)


def _standing(path: Path, text: str) -> Standing:
    if not path.exists():
        return Standing.MISSING
    if read_text(path) != text:
        return Standing.DIFFERENT
    return Standing.CURRENT if _is_guarded(path) else Standing.OPEN


def _standing_of_index(path: Path, rows: Mapping[str, str], postfix: Postfix, kind: str) -> Standing:
    """Read as Postfix reads it: a time stamp says nothing of what a full disk or a backup left in it."""
    index = path.with_name(path.name + INDEX[kind])
    if not index.exists() or index.stat().st_mtime < path.stat().st_mtime:
        return Standing.STALE
    try:
        lines = split_lines(postfix.run("postmap", "-s", f"{kind}:{path}"))
    except PostfixFailed:
        return Standing.STALE
    found = (line.rstrip("\n").partition("\t") for line in lines)
    if {key.casefold(): _plain(value) for key, _, value in found} != {
        _key(key).casefold(): _plain(value) for key, value in rows.items()
    }:
        return Standing.STALE
    return Standing.CURRENT if _is_guarded(index) else Standing.OPEN


def _plain(value: str) -> str:
    return " ".join(value.split())


def _is_guarded(path: Path) -> bool:
    """Whether its owner, group and mode are those that we give it."""
    facts = path.stat()
    if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
        return False
    if path.name != LOGINS:
        return bool(facts.st_mode & 0o004)
    group = _readers()
    return not facts.st_mode & 0o007 and (group is None or (facts.st_gid == group and bool(facts.st_mode & 0o040)))


def _readers() -> int | None:
    """The group that may read the logins; None: their owner alone."""
    return next((each.gr_gid for each in grp.getgrall() if each.gr_name == DOVECOT), None) if not os.geteuid() else None


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
            if file.name == LOGINS:
                replace_noticeably(new / file.name, directory / file.name)
            else:
                (new / file.name).replace(directory / file.name)


def _write_file(path: Path, text: str, *, private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        if not private:
            os.fchmod(descriptor, 0o644)
        elif (group := _readers()) is not None:
            os.fchmod(descriptor, 0o640)
            os.fchown(descriptor, -1, group)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
