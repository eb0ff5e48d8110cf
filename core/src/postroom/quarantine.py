"""Holds what was held: one mail a pair of files, durable, closed to everybody else; list, show, release, delete.

`ID.eml` is the mail as the stage saw it, `ID.json` the facts about it; a mail is there when its facts are. Every
file is written beside its place, made durable, then moved, so that a crash leaves a whole mail or none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postroom.config import Config
from postroom.hookspecs import Clock, Reinjector
from postroom.mail import Address, Envelope, Field, Message
from postroom.registration import Stage
from postroom.verdict import Disposition

RELEASED = b"X-Postroom-Released"
"""Carries the permit of a released mail back to us; only one that we wrote down is believed."""

FILE_MODE, DIRECTORY_MODE = 0o600, 0o700
PERMIT_LIFETIME = 5 * 86400.0
"""Seconds that a released mail has to arrive: as long as mail servers keep trying (RFC 5321 4.5.4.1)."""

LEFTOVER_AGE = 86400.0
"""Seconds after which a mail without facts, or a file that never got its name, is what a crash left."""

_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{16}")
_PERMIT = re.compile(r"(\d{8}T\d{6}-[0-9a-f]{16})\.([0-9a-f]{64})")


class NotHeld(LookupError):
    """There is no such mail, or it has gone meanwhile."""


@dataclass(frozen=True)
class Held:
    """One mail in quarantine. `permit` is secret; `released` 0: not yet; `arrived`: for whom it came through."""

    id: str
    time: float
    stage: Stage
    handler: str
    reason: str
    sender: str
    recipients: tuple[str, ...]
    queue_id: str
    subject: str
    size: int
    traffic: str = ""
    client: str = ""
    released: float = 0.0
    permit: str = ""
    arrived: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """What a valid permit allows: to pass `handlers` of that mail's stage once."""

    id: str
    handlers: frozenset[str]


@dataclass(frozen=True)
class Expired:
    """How many mails went because of their age, and how many octets those had."""

    mails: int = 0
    octets: int = 0


class Quarantine:
    """The held mails of this host. Safe to use from several threads and processes."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory, self._clock = directory, clock

    def keep(self, envelope: Envelope, stage: Stage, message: Message, reason: str, handler: str) -> str:
        """Hold the mail for the envelope's recipients; when this returns its id, it is on disk. OSError when not."""
        self._make_directory()
        now = self._clock.now()
        id_ = f"{_stamp(now)}-{secrets.token_hex(8)}"
        size = self._write(f"{id_}.eml", message.chunks())
        held = Held(
            id=id_,
            time=now,
            stage=stage,
            handler=handler,
            reason=reason,
            sender=envelope.sender.text,
            recipients=tuple(recipient.text for recipient in envelope.recipients),
            queue_id=envelope.queue_id,
            subject=message.get(b"Subject") or "",
            size=size,
            traffic=str(envelope.traffic),
            client=str(envelope.session.client_address or ""),
        )
        self._write_facts(held)
        return id_

    def hold(self, envelope: Envelope, message: Message, held: Mapping[Address, Disposition]) -> None:
        """For a front that holds a mail for several recipients at once: one entry for each handler and reason."""
        groups: dict[tuple[str, str], list[Address]] = {}
        for recipient, what in held.items():
            groups.setdefault((what.handler, what.reason), []).append(recipient)
        for (handler, reason), recipients in groups.items():
            self.keep(envelope.with_recipients(recipients), Stage.BEFORE_QUEUE, message, reason, handler)

    def list(self) -> Iterator[Held]:
        """All that is held, oldest first."""
        for id_ in self._ids():
            with contextlib.suppress(NotHeld):  # gone since
                yield self.get(id_)

    def get(self, id_: str) -> Held:
        try:
            return _from_json((self._directory / f"{_checked(id_)}.json").read_bytes())
        except FileNotFoundError:
            raise NotHeld(f"no mail {id_!r} is held; see 'postroom quarantine list'") from None
        except (ValueError, KeyError, TypeError):
            raise NotHeld(f"{self._directory / id_}.json: damaged; the mail itself is beside it, as .eml") from None

    def chunks(self, id_: str) -> Iterator[bytes]:
        """The mail as it was held."""
        try:
            file = (self._directory / f"{_checked(id_)}.eml").open("rb")
        except FileNotFoundError:
            raise NotHeld(f"no mail {id_!r} is held; see 'postroom quarantine list'") from None
        with file:
            while chunk := file.read(1 << 16):
                yield chunk

    def release(self, id_: str, reinject: Reinjector) -> Held:
        """Hand the mail back to the mail server, with a permit for the handler that held it. OSError: still held.

        The facts stay until they are deleted or expire: they are what makes the permit valid.
        """
        with self._lock():
            held = self.get(id_)
            permit = secrets.token_hex(32)
            released = dataclasses.replace(held, released=self._clock.now(), permit=permit, arrived=())
            self._write_facts(released)  # before the mail is on its way: it may be back before this function is
        recipients = [Address(recipient) for recipient in held.recipients]
        try:
            reinject.submit(Address(held.sender), recipients, self._marked(held.id, permit))
        except BaseException:
            with self._lock(), contextlib.suppress(NotHeld):
                if self.get(id_).permit == permit:
                    self._write_facts(held)
            raise
        return released

    def _marked(self, id_: str, permit: str) -> Iterator[bytes]:
        yield Field(RELEASED, f" {id_}.{permit}".encode()).raw()
        yield from self.chunks(id_)

    def delete(self, id_: str) -> None:
        """Forget the mail; a permit of it is void from then on."""
        with self._lock():
            self._unlink(_checked(id_))
            self._sync()

    def _unlink(self, id_: str) -> None:
        try:
            (self._directory / f"{id_}.json").unlink()
        except FileNotFoundError:
            raise NotHeld(f"no mail {id_!r} is held; see 'postroom quarantine list'") from None
        (self._directory / f"{id_}.eml").unlink(missing_ok=True)

    def expirable(self, age: float) -> Iterator[Held]:
        """What `expire` would delete now, oldest first."""
        before = self._clock.now() - age
        for id_ in self._ids():
            if id_ >= _stamp(before + 1):
                return  # ids begin with the time: all others are younger
            with contextlib.suppress(NotHeld):
                held = self.get(id_)
                if self._is_over(held, before):
                    yield held

    def expire(self, age: float) -> Expired:
        """Delete what was held, and released, more than `age` seconds ago; what crashes left, too.

        A mail whose release is under way stays, whatever its age. Several may do this at once: each mail counts once.
        """
        before = self._clock.now() - age
        mails = octets = 0
        for found in self.expirable(age):
            with contextlib.suppress(NotHeld), self._lock():  # for one mail at a time: nobody waits long
                held = self.get(found.id)  # it may have been released meanwhile
                if self._is_over(held, before):
                    self._unlink(held.id)
                    mails, octets = mails + 1, octets + held.size
        if mails:
            self._sync()
        self._sweep()
        return Expired(mails, octets)

    def _is_over(self, held: Held, before: float) -> bool:
        return max(held.time, held.released) < before and not self._is_on_its_way(held)

    def _is_on_its_way(self, held: Held) -> bool:
        """Whether the mail server may still bring it back with its permit."""
        waited_for = {Address(each).key for each in held.recipients} - set(held.arrived)
        return bool(held.permit and waited_for) and self._clock.now() - held.released < PERMIT_LIFETIME

    def released(self, message: Message, stage: Stage, recipient: Address) -> Release | None:
        """What a permit on this mail allows here; None without one, or with one that we did not write or is used up."""
        handlers: set[str] = set()
        found = ""
        for mark in message.get_all(RELEASED):
            match = _PERMIT.fullmatch(mark.text)
            if match is None:
                continue
            try:
                held = self.get(match[1])
            except (NotHeld, OSError):
                continue
            if self._allows(held, match[2], stage, recipient):
                handlers.add(held.handler)
                found = held.id
        return Release(found, frozenset(handlers)) if found else None

    def arrived(self, release: Release, recipient: Address) -> None:
        """The released mail came through for this recipient: its permit is used up."""
        with contextlib.suppress(NotHeld, OSError), self._lock():
            held = self.get(release.id)
            self._write_facts(dataclasses.replace(held, arrived=(*held.arrived, recipient.key)))

    def _allows(self, held: Held, permit: str, stage: Stage, recipient: Address) -> bool:
        return (
            bool(held.permit)
            and hmac.compare_digest(held.permit, permit)
            and held.stage is stage
            and recipient.key in {Address(each).key for each in held.recipients}
            and recipient.key not in held.arrived
            and self._clock.now() - held.released < PERMIT_LIFETIME
        )

    # Files

    def _ids(self) -> Sequence[str]:
        """Of all that have facts, oldest first."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208  # names alone
        except FileNotFoundError:
            return []
        ids = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return sorted(id_ for id_ in ids if _ID.fullmatch(id_))

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            self._directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            _sync_directory(self._directory.parent)

    def _write_facts(self, held: Held) -> None:
        facts = json.dumps(dataclasses.asdict(held), ensure_ascii=True)  # surrogates survive as escapes
        self._write(f"{held.id}.json", [facts.encode("ascii")])

    def _write(self, name: str, chunks: Iterable[bytes]) -> int:
        beside = self._directory / f".{name}.{secrets.token_hex(4)}"
        size = 0
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    size += file.write(chunk)
                file.flush()
                os.fsync(descriptor)
            beside.rename(self._directory / name)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        self._sync()
        return size

    def _sync(self) -> None:
        _sync_directory(self._directory)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Changes of facts, one at a time over all processes."""
        self._make_directory()
        descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Mails without facts and files that were never moved; young ones may be in the making."""
        if not self._directory.is_dir():
            return
        before = self._clock.now() - LEFTOVER_AGE
        for path in self._directory.iterdir():
            orphan = path.suffix == ".eml" and not path.with_suffix(".json").exists()
            unfinished = path.name.startswith(".") and path.name != ".lock"
            with contextlib.suppress(FileNotFoundError):
                if (orphan or unfinished) and path.stat().st_mtime < before:
                    path.unlink()


def open_quarantine(config: Config, clock: Clock) -> Quarantine:
    """This host's: below the state directory."""
    return Quarantine(config.paths.state / "quarantine", clock)


def without_release_mark(message: Message) -> Message:
    """The mail less every permit, real or forged."""
    lowered = RELEASED.lower()
    fields = tuple(found for found in message.fields if found.name.strip().lower() != lowered)
    return message if len(fields) == len(message.fields) else dataclasses.replace(message, fields=fields)


def _stamp(moment: float) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(max(0.0, moment)))


def _checked(id_: str) -> str:
    if not _ID.fullmatch(id_):
        raise NotHeld(f"{id_!r} is no quarantine id; see 'postroom quarantine list'")
    return id_


def _from_json(octets: bytes) -> Held:
    facts: dict[str, Any] = json.loads(octets)
    facts["stage"] = Stage(facts["stage"])
    facts["recipients"], facts["arrived"] = tuple(facts["recipients"]), tuple(facts["arrived"])
    return Held(**facts)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
