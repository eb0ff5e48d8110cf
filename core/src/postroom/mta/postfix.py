"""Puts postroom into an instance of Postfix, tells what became of that, and takes it out again."""

from __future__ import annotations

import difflib
import enum
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from postroom.config import Config
from postroom.mta.postfix_lists import find_members
from postroom.mta.postfix_options import Options
from postroom.mta.postfix_state import (
    Record,
    ServiceRecord,
    Snapshot,
    State,
    digest,
    read_state,
    remove_state,
    write_state,
)
from postroom.mta.postfix_tool import Postfix, read_text, write_text
from postroom.mta.postfix_view import CurrentView, value_without_us
from postroom.mta.postfix_wishes import Wish, find_wishes

FILES = ("main.cf", "master.cf")


@dataclass(frozen=True, slots=True)
class Change:
    """One setting of main.cf or entry of master.cf; None: not there."""

    file: str
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What installing does, and the state that it leaves behind."""

    changes: tuple[Change, ...]
    state: State


class Standing(enum.StrEnum):
    """What became of something that we put in."""

    IN_PLACE = "in place"
    CHANGED = "changed"  # somebody else did
    MISSING = "missing"
    OUTDATED = "outdated"  # in place, but the configuration wants something else by now


@dataclass(frozen=True, slots=True)
class Item:
    file: str
    name: str
    standing: Standing
    now: str | None
    wanted: str | None


def plan_install(postfix: Postfix, config: Config, options: Options) -> Plan:
    state = read_state(postfix.directory)
    view = CurrentView(postfix, state)
    wishes = find_wishes(config, options, view)
    old_settings = state.settings if state else {}
    old_services = state.services if state else {}
    settings: dict[str, Record] = {}
    services: dict[str, ServiceRecord] = {}
    changes: list[Change] = []
    for service, line in wishes.services.items():
        now = view.services.get(service)
        before = old_services[service].before if service in old_services else now
        if before != line:
            services[service] = ServiceRecord(service, before, line)
            changes += _change("master.cf", service, now, line)
    for wish in wishes.settings:
        record = _record(wish, view, old_settings.get(wish.name))
        if record is not None:
            settings[wish.name] = record
            changes += _change("main.cf", wish.name, view.now(wish.name), wish.value)
    for name, record in old_settings.items():
        if name not in settings:
            changes += _change("main.cf", name, view.now(name), value_without_us(record, view.now(name)))
    for service, old in old_services.items():
        if service not in services and view.services.get(service) == old.ours:
            changes += _change("master.cf", service, old.ours, old.before)
    return Plan(tuple(changes), State(options, settings, services, dict(state.files) if state else {}))


def _change(file: str, name: str, before: str | None, after: str | None) -> Iterator[Change]:
    if before != after:
        yield Change(file, name, before, after)


def _record(wish: Wish, view: CurrentView, old: Record | None) -> Record | None:
    """None: the setting is as wanted without us."""
    if old is not None:
        entry = view.entries.get(wish.name)
        untouched = value_without_us(old, view.now(wish.name)) == old.before
        if untouched or entry is None:
            return replace(old, ours=wish.value, members=wish.members)
        before = value_without_us(old, entry.value)  # what somebody made of it meanwhile is what comes back
        left = f"{wish.name} = {before}\n"
        return Record(wish.name, before, None, left, wish.value, wish.members)
    entry = view.entries.get(wish.name)
    if (entry.value if entry else view.value(wish.name)) == wish.value:
        return None
    raw = entry.raw if entry and entry.once else None
    left = entry.as_postconf_leaves_it if entry else ""
    return Record(wish.name, entry.value if entry else None, raw, left, wish.value, wish.members)


def install(postfix: Postfix, plan: Plan) -> None:
    """Do what was planned. It is written down first, so that a half-done installation can be taken out, too."""
    files = {}
    for name in FILES:
        path = postfix.directory / name
        snapshot = plan.state.files.get(name)
        if snapshot is None:
            files[name] = Snapshot(read_text(path))
        else:
            files[name] = snapshot if digest(path) == snapshot.after else replace(snapshot, after="")
    state = replace(plan.state, files={name: replace(each, after="") for name, each in files.items()})
    write_state(postfix.directory, state)
    apply(postfix, plan.changes)
    left = {name: replace(each, after=digest(postfix.directory / name)) for name, each in files.items()}
    fresh = {name: left[name] if _exact(files[name], plan) else files[name] for name in FILES}
    write_state(postfix.directory, replace(state, files=fresh))


def _exact(snapshot: Snapshot, plan: Plan) -> bool:
    """Whether nobody else has changed the file since the snapshot."""
    return bool(snapshot.after) or not plan.state.files


def apply(postfix: Postfix, changes: tuple[Change, ...]) -> None:
    """What mail goes to is there before mail is sent to it."""
    for change in changes:
        if change.file == "master.cf" and change.after is not None:
            postfix.put_service(change.name, change.after)
    main = [change for change in changes if change.file == "main.cf"]
    postfix.edit({change.name: change.after for change in main if change.after is not None})
    postfix.unset([change.name for change in main if change.after is None])
    for change in changes:
        if change.file == "master.cf" and change.after is None:
            postfix.remove_service(change.name)


def preview(postfix: Postfix, act: Callable[[Postfix], None]) -> str:
    """The difference that `act` would make, tried on a copy."""
    with tempfile.TemporaryDirectory(prefix="postroom-") as name:
        copy = Path(name)
        for file in FILES:
            shutil.copy2(postfix.directory / file, copy / file)  # with its age: Postfix reads new files slowly
        act(Postfix(copy))
        lines: list[str] = []
        for file in FILES:
            before, after = (read_text(place / file).splitlines(keepends=True) for place in (postfix.directory, copy))
            label = str(postfix.directory / file)
            lines += difflib.unified_diff(before, after, label, label, n=1)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


# Out again


@dataclass(frozen=True, slots=True)
class Removal:
    changes: tuple[Change, ...]
    kept: tuple[Change, ...]
    """What somebody else changed meanwhile and stays: `before` is ours, `after` what it is now."""


def plan_uninstall(postfix: Postfix, state: State) -> Removal:
    view = CurrentView(postfix, state)
    changes: list[Change] = []
    kept: list[Change] = []
    for record in state.settings.values():
        now = view.now(record.name)
        after = value_without_us(record, now)
        changes += _change("main.cf", record.name, now, after)
        if now not in (record.ours, record.before):
            kept.append(Change("main.cf", record.name, record.ours, after))
    for service in state.services.values():
        line = view.services.get(service.service)
        if line in (service.ours, service.before):
            changes += _change("master.cf", service.service, line, service.before)
        else:
            kept.append(Change("master.cf", service.service, service.ours, line))
    return Removal(tuple(changes), tuple(kept))


def uninstall(postfix: Postfix, state: State, removal: Removal) -> None:
    """Files that only we have changed go back octet for octet; in others, each of our settings does."""
    exact = [name for name, each in state.files.items() if digest(postfix.directory / name) == each.after]
    changes = tuple(change for change in removal.changes if change.file not in exact)
    # first main.cf, which sends mail to what master.cf then loses
    if "main.cf" in exact:
        write_text(postfix.main, state.files["main.cf"].before)
    apply(postfix, changes)
    if "main.cf" not in exact:
        _put_back_texts(postfix, state, removal)
    if "master.cf" in exact:
        write_text(postfix.master, state.files["master.cf"].before)
    remove_state(postfix.directory)


def _put_back_texts(postfix: Postfix, state: State, removal: Removal) -> None:
    """Entries that were written over several lines, or otherwise than postconf writes, as they were."""
    before = text = read_text(postfix.main)
    for change in removal.changes:
        record = state.settings.get(change.name)
        if record and record.raw and change.file == "main.cf" and change.after == record.before:
            head, found, tail = f"\n{text}".partition(f"\n{record.left}")
            if found:
                end = "\n" if tail and not record.raw.endswith("\n") else ""
                text = f"{head}\n{record.raw}{end}{tail}"[1:]
    if text != before:
        write_text(postfix.main, text)


def status(postfix: Postfix, config: Config, state: State) -> list[Item]:
    """What became of everything that was put in, and what the configuration would have otherwise by now."""
    view = CurrentView(postfix, state)
    items = [
        Item("main.cf", record.name, _standing(record, view.now(record.name)), view.now(record.name), record.ours)
        for record in state.settings.values()
    ]
    for service in state.services.values():
        line = view.services.get(service.service)
        standing = Standing.MISSING if line is None else Standing.CHANGED
        items.append(
            Item(
                "master.cf",
                service.service,
                Standing.IN_PLACE if line == service.ours else standing,
                line,
                service.ours,
            )
        )
    drifted = {each.name for each in items if each.standing is not Standing.IN_PLACE}
    changes = [each for each in plan_install(postfix, config, state.options).changes if each.name not in drifted]
    outdated = {each.name: each for each in changes}
    items = [each for each in items if each.name not in outdated]
    return [*items, *(Item(each.file, each.name, Standing.OUTDATED, each.before, each.after) for each in changes)]


def _standing(record: Record, now: str | None) -> Standing:
    if now is None:
        return Standing.MISSING
    if now == record.ours:
        return Standing.IN_PLACE
    if record.members and all(find_members(now, each) is not None for each in record.members):
        return Standing.IN_PLACE  # others may join the list
    return Standing.CHANGED
