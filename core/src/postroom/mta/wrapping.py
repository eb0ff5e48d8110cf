"""Puts a wrapper in a program's place, and the program back: one atomic rename each, whatever happens between them.

The program gets a second name (a hard link: owner, group, mode and set-id bits stay as they are), then the wrapper is
renamed over the first. At no moment is there nothing under the program's name. What was done is noted in a file beside
the programs, so that an upgrade which put a new program there is told from another product's wrapper.
"""

from __future__ import annotations

import enum
import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from postroom.mta.script import Wrapper, wrapper_name

SUFFIX = ".moved"  # the reference's
OTHER_SUFFIX = ".moved-postroom"  # where somebody else's wrapper has the first one in use
NOTES = ".postroom-wrapped.json"
MODE = 0o755  # a script has to be readable, and cannot be set-id


class WrappingFailed(Exception):
    """What is in the way, and the remedy, in one line."""


class State(enum.StrEnum):
    """What stands under a program's name."""

    WRAPPED = "wrapped"
    OUTDATED = "outdated"  # our wrapper, but not the one that would be written now
    HALF = "half done"  # the program has its second name; the wrapper is not there yet
    BEHIND = "behind another wrapper"  # that of another product, which was put before ours
    REPLACED = "replaced"  # something else was put over our wrapper, by an upgrade for example
    NOT_WRAPPED = "not wrapped"
    NO_ORIGINAL = "original lost"  # our wrapper, and nothing behind it
    MISSING = "missing"  # no program at all

    @property
    def is_well(self) -> bool:
        return self in (State.WRAPPED, State.BEHIND)


@dataclass(frozen=True)
class Step:
    """Something to do; `words` say it to people."""

    words: str
    run: Callable[[], None]


MakeWrapper = Callable[[Path], Wrapper]
"""From the path of the original to what goes in its place."""


class Wrapping:
    """One program. `fixed`: the wrapper stands before that program instead, and what was in its place rests."""

    def __init__(self, program: Path, make_wrapper: MakeWrapper, fixed: Path | None = None) -> None:
        self.program, self._make_wrapper, self._fixed = program, make_wrapper, fixed
        self._notes = Notes(program.parent)

    @property
    def moved(self) -> Path:
        """Where the original is, or would be moved."""
        if noted := self._notes.moved(self.program.name):
            return self.program.with_name(noted)
        first = self.program.with_name(self.program.name + SUFFIX)
        if os.path.lexists(first) and not _same_file(first, self.program) and os.path.lexists(self.program):
            return self.program.with_name(self.program.name + OTHER_SUFFIX)
        return first

    def state(self) -> State:
        there, behind = os.path.lexists(self.program), os.path.lexists(self.moved)
        if wrapper_name(self.program) == self.program.name:
            if not behind and self._notes.moved(self.program.name) != "":
                return State.NO_ORIGINAL
            return State.WRAPPED if self._is_current() else State.OUTDATED
        if not there:
            return State.HALF if behind else State.MISSING
        if behind and _same_file(self.program, self.moved):
            return State.HALF
        if self._notes.moved(self.program.name) is None:
            return State.NOT_WRAPPED
        return State.BEHIND if self._displaced() else State.REPLACED

    def _displaced(self) -> Path | None:
        """Our wrapper under another name: it is still run, by whatever stands in its place."""
        for path in sorted(self.program.parent.iterdir()):
            if path.name != self.program.name and path.is_file() and wrapper_name(path) == self.program.name:
                return path
        return None

    def _is_current(self) -> bool:
        try:
            return self.program.read_text("utf-8", "replace") == self._wrapper().text()
        except OSError:
            return False

    def _wrapper(self) -> Wrapper:
        return self._make_wrapper(self._fixed or self.moved)

    def install(self) -> Sequence[Step]:
        """What is to be done; nothing when it is done already."""
        state, moved = self.state(), self.moved
        write = Step(f"put the wrapper in the place of {self.program}", self._write)
        match state:
            case State.WRAPPED | State.BEHIND:
                return ()
            case State.OUTDATED | State.HALF:
                return (Step(f"note what stands behind {self.program}", lambda: self._note(moved.name)), write)
            case State.NOT_WRAPPED | State.REPLACED:
                return (
                    Step(f"note what stands behind {self.program}", lambda: self._note(moved.name)),
                    Step(f"give {self.program} the name {moved.name}", lambda: _link(self.program, moved)),
                    write,
                )
            case State.MISSING if self._fixed is not None:
                return (Step(f"note that nothing was at {self.program}", lambda: self._note("")), write)
            case State.MISSING:
                raise WrappingFailed(f"{self.program} is not there: is this where the mail server is installed?")
            case State.NO_ORIGINAL:
                raise WrappingFailed(f"{moved} is lost: put the mail server's own {self.program.name} there again")

    def uninstall(self) -> Sequence[Step]:
        """What is to be done to have everything as it was."""
        state, moved = self.state(), self.moved
        forget = Step(f"forget {self.program}", lambda: self._notes.forget(self.program.name))
        match state:
            case State.WRAPPED | State.OUTDATED if self._notes.moved(self.program.name) == "":
                return (Step(f"remove {self.program}", self.program.unlink), forget)
            case State.WRAPPED | State.OUTDATED:
                return (Step(f"put {moved} back as {self.program}", lambda: _back(moved, self.program)), forget)
            case State.HALF if os.path.lexists(self.program):
                return (Step(f"remove {moved}, the second name of {self.program}", moved.unlink), forget)
            case State.HALF:
                return (Step(f"put {moved} back as {self.program}", lambda: _back(moved, self.program)), forget)
            case State.REPLACED:
                drop = Step(f"remove {moved}; {self.program} is newer", lambda: moved.unlink(missing_ok=True))
                return (drop, forget)
            case State.BEHIND:
                raise WrappingFailed(
                    f"{self.program} stands before our wrapper {self._displaced()}: take it away first"
                )
            case State.NOT_WRAPPED | State.MISSING:
                return (forget,) if self._notes.moved(self.program.name) is not None else ()
            case State.NO_ORIGINAL:
                raise WrappingFailed(f"{moved} is lost: put the mail server's own {self.program.name} there again")

    def _note(self, moved: str) -> None:
        self._notes.note(self.program.name, moved)

    def _write(self) -> None:
        text = self._wrapper().text().encode()
        beside = self.program.with_name(f".{self.program.name}.{secrets.token_hex(6)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                _own(descriptor, self.moved)
                os.fchmod(descriptor, MODE)
                os.fsync(descriptor)
            beside.rename(self.program)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync(self.program.parent)


class Notes:
    """Which program was moved to which name ("": nothing was there), durable, in a file beside them."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NOTES

    def moved(self, name: str) -> str | None:
        found = self._read().get(name)
        return found if isinstance(found, str) and "/" not in found else None

    def note(self, name: str, moved: str) -> None:
        self._write({**self._read(), name: moved})

    def forget(self, name: str) -> None:
        left = {key: value for key, value in self._read().items() if key != name}
        if left:
            self._write(left)
        else:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise WrappingFailed(f"{self._path} is damaged: remove it") from None
        return found if isinstance(found, dict) else {}

    def _write(self, notes: dict[str, object]) -> None:
        beside = self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}")
        with beside.open("x") as file:
            json.dump(notes, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._path)
        _sync(self._path.parent)


def run_steps(steps: Iterable[Step], told: Callable[[str], None], *, dry_run: bool) -> int:
    """Do them, telling each; how many there were. WrappingFailed names the file that is in the way."""
    count = 0
    for step in steps:
        told(step.words)
        count += 1
        if not dry_run:
            try:
                step.run()
            except OSError as error:
                raise WrappingFailed(
                    f"{step.words}: {error.strerror}; nothing is half replaced: do it again as root"
                ) from None
    return count


def _same_file(left: Path, right: Path) -> bool:
    try:
        return os.path.samestat(left.lstat(), right.lstat())
    except OSError:
        return False


def _link(program: Path, moved: Path) -> None:
    """A second name; one that is there is an older version of the same program."""
    beside = moved.with_name(f".{moved.name}.{secrets.token_hex(6)}")
    os.link(program, beside, follow_symlinks=False)
    beside.rename(moved)
    _sync(program.parent)


def _back(moved: Path, program: Path) -> None:
    moved.rename(program)
    _sync(program.parent)


def _own(descriptor: int, original: Path) -> None:
    """Root's, and of the original's group, where we may."""
    if os.geteuid() == 0 and os.path.lexists(original):
        os.fchown(descriptor, 0, original.lstat().st_gid)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
