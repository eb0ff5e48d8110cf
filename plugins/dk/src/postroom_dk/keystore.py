"""The directory of private keys: DOMAIN/SELECTOR.key, and beside them `selectors.json` with the state of each."""

from __future__ import annotations

import enum
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from postroom_dk.privatekey import NotAKey, PrivateKey, load_key
from postroom_dk.signature import domain_text

MAX_KEY_FILE = 65536
MAX_CACHED = 10000
STATES_FILE = "selectors.json"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")


T = TypeVar("T")


class KeyState(enum.StrEnum):
    PENDING = "pending"  # made, its record perhaps not yet published: does not sign
    ACTIVE = "active"  # signs
    RETIRED = "retired"  # signs no more; its record stays while mail signed with it is on its way


class KeyUnusable(Exception):
    """A key or its directory cannot be used: the path, what is wrong, and the remedy, in one line, for the log."""


@dataclass(frozen=True, slots=True)
class Selector:
    """One key of a domain, by name."""

    domain: str
    name: str
    state: KeyState
    path: Path


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells whether a file is still the one that was read."""

    inode: int
    size: int
    modified: int
    mode: int
    owner: int


def check_domain(text: str) -> str:
    """`text` as a domain in A-label form; ValueError when it is none. Nothing else becomes part of a path."""
    domain = domain_text(text.encode("utf-8", "surrogateescape"))
    if not domain:
        raise ValueError(f"{text!r} is no domain")
    return domain


def check_selector(text: str) -> str:
    if len(text) > 63 or not _LABEL.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is no selector: letters, digits, hyphens and dots")
    return text.lower()


class KeyStore:
    """Reads keys, and remembers parsed ones by path, time, size, mode and owner of the file. Thread-safe."""

    def __init__(self, root: Path, *, strict_modes: bool = True) -> None:
        self.root, self.strict_modes = root, strict_modes
        self._lock = threading.Lock()
        self._keys: dict[Path, tuple[_Stamp, PrivateKey]] = {}
        self._states: dict[Path, tuple[_Stamp, dict[str, KeyState]]] = {}

    def domains(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and domain_text(path.name.encode()))

    def has_domain(self, domain: str) -> bool:
        return (self.root / check_domain(domain)).is_dir()

    def selectors(self, domain: str) -> list[Selector]:
        """All keys of a domain by name; a key that `selectors.json` does not know is active."""
        directory = self.root / check_domain(domain)
        try:
            names = sorted(path.stem for path in directory.iterdir() if path.suffix == ".key")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise KeyUnusable(f"{directory}: {error.strerror}; let the server's user read it") from None
        states = self.states(domain)
        return [
            Selector(domain, name, states.get(name, KeyState.ACTIVE), directory / f"{name}.key")
            for name in names
            if _LABEL.fullmatch(name)
        ]

    def states(self, domain: str) -> dict[str, KeyState]:
        path = self.root / check_domain(domain) / STATES_FILE
        try:
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                known = self._states.get(path)
                if known and known[0] == stamp:
                    return dict(known[1])
                table = json.loads(file.read(MAX_KEY_FILE))["selectors"]
                states = {str(name): KeyState(entry["state"]) for name, entry in table.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise KeyUnusable(f"{path}: {error.strerror}; let the server's user read it") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeyUnusable(f"{path}: cannot be read; put it right or remove it (then every key signs)") from None
        with self._lock:
            _bound(self._states)
            self._states[path] = (stamp, states)
        return dict(states)

    def load(self, selector: Selector) -> PrivateKey:
        """The parsed key; KeyUnusable when modes or content forbid its use."""
        for problem in self.mode_problems(selector.path.parent):
            raise KeyUnusable(problem)
        try:
            descriptor = os.open(selector.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise KeyUnusable(f"{selector.path}: {error.strerror}; let the server's user read it") from None
        with open(descriptor, "rb", closefd=True) as file:  # noqa: PTH123  # of the descriptor that is checked next
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise KeyUnusable(f"{selector.path}: no regular file; remove it")
            if self.strict_modes:
                for problem in self.access_problems(selector.path, facts, 0o600):
                    raise KeyUnusable(problem)
            stamp = _stamp(facts)
            known = self._keys.get(selector.path)
            if known and known[0] == stamp:
                return known[1]
            try:
                key = load_key(file.read(MAX_KEY_FILE))
            except NotAKey as problem:
                raise KeyUnusable(f"{selector.path}: {problem}; make one with 'postroom dk keygen'") from None
        with self._lock:
            _bound(self._keys)
            self._keys[selector.path] = (stamp, key)
        return key

    def mode_problems(self, directory: Path) -> Iterator[str]:
        """What is wrong with mode and owner of a domain's directory and the one above it."""
        if not self.strict_modes:
            return
        for place in (self.root, directory):
            try:
                facts = place.stat()
            except OSError as error:
                yield f"{place}: {error.strerror}; let the server's user read it"
                return
            yield from self.access_problems(place, facts, 0o700)

    def access_problems(self, path: Path, facts: os.stat_result, mode: int) -> Iterator[str]:
        """One line for each way in which others than the server's user could come at it."""
        if facts.st_uid not in self._owners():
            yield f"{path}: belongs to user id {facts.st_uid}; chown it to the server's user"
        if stat.S_IMODE(facts.st_mode) & 0o077:
            yield f"{path}: mode {stat.S_IMODE(facts.st_mode):04o} lets others in; chmod {mode:04o} it"

    def _owners(self) -> tuple[int, ...]:
        """Root, ourselves, and when root looks, whose state directory it is: the server's user."""
        own = os.geteuid()
        return (0, own) if own else (0, self.root.parent.stat().st_uid)

    # Changes, made by the command line

    def add(self, domain: str, name: str, key: PrivateKey, state: KeyState) -> Selector:
        """Write a new key, its state first so that it never signs too early; FileExistsError when it is there."""
        directory = self.root / check_domain(domain)
        self._make_directory(self.root)
        self._make_directory(directory)
        path = directory / f"{check_selector(name)}.key"
        if path.exists():
            raise FileExistsError(path)
        self.set_state(domain, name, state)
        self._write(path, key.to_pem())
        return Selector(domain, name, state, path)

    def set_state(self, domain: str, name: str, state: KeyState) -> None:
        states = {**self.states(domain), name: state}
        table = {"version": 1, "selectors": {key: {"state": value} for key, value in sorted(states.items())}}
        self._write(self.root / check_domain(domain) / STATES_FILE, json.dumps(table, indent=2).encode() + b"\n")

    def _make_directory(self, path: Path) -> None:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True)
            path.chmod(0o700)
            self._give_away(path)

    def _write(self, path: Path, octets: bytes) -> None:
        """Atomically, with mode 0600, and for the server's user when root does it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", closefd=True) as file:  # noqa: PTH123
                os.fchmod(descriptor, 0o600)
                file.write(octets)
                file.flush()
                os.fsync(descriptor)
            self._give_away(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _give_away(self, path: Path) -> None:
        """What root makes belongs to the owner of the state directory: the server runs as that user."""
        if os.geteuid() == 0:
            place = self.root.parent.stat()
            os.chown(path, place.st_uid, place.st_gid)


def _stamp(facts: os.stat_result) -> _Stamp:
    return _Stamp(facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode, facts.st_uid)


def _bound(cache: dict[Path, T]) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
