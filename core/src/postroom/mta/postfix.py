"""Puts postroom into an instance of Postfix, tells what became of that, and takes it out again."""

from __future__ import annotations

import difflib
import enum
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from postroom.config import Config
from postroom.mta.postfix_lists import find_members, read_milter, same_socket, split_list
from postroom.mta.postfix_maincf import find_service, ignored_lines, split_lines
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
from postroom.mta.postfix_tool import Postfix, PostfixFailed, read_text, write_text
from postroom.mta.postfix_view import CurrentView, value_without_us
from postroom.mta.postfix_wishes import MILTER_LISTS, Wish, find_wishes

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
            raw = old_services[service].raw if service in old_services else find_service(view.master, service)
            services[service] = ServiceRecord(service, before, line, raw)
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
    """Do what was planned: postconf edits copies, each of which then takes its file's place in one step.

    It is written down before that, so that a half-done installation can be finished or taken out, too.
    """
    texts = {name: read_text(postfix.directory / name) for name in FILES}
    made = _made(postfix, texts, lambda copy: apply(copy, plan.changes))
    files = {}
    for name, text in texts.items():
        snapshot = plan.state.files.get(name)
        if snapshot is None or text == snapshot.before or digest(text) == snapshot.after:
            files[name] = Snapshot(snapshot.before if snapshot else text, digest(made[name]))
        else:
            files[name] = replace(snapshot, after="")  # somebody else has changed it
    write_state(postfix.directory, replace(plan.state, files=files))
    # what mail goes to is there before mail is sent to it, and until none is
    adds = any(change.file == "master.cf" and change.after is not None for change in plan.changes)
    _put(postfix, texts, made, ("master.cf", "main.cf") if adds else FILES)


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
    texts = {name: read_text(postfix.directory / name) for name in FILES}
    lines: list[str] = []
    for name, made in _made(postfix, texts, act).items():
        label = str(postfix.directory / name)
        lines += difflib.unified_diff(split_lines(texts[name]), split_lines(made), label, label, n=1)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _made(postfix: Postfix, texts: Mapping[str, str], act: Callable[[Postfix], None]) -> Mapping[str, str]:
    """What `act` makes of the files, on a copy of them."""
    with tempfile.TemporaryDirectory(prefix="postroom-") as name:
        copy = Path(name)
        for file, text in texts.items():
            write_text(copy / file, text)
            age = (postfix.directory / file).stat().st_mtime
            os.utime(copy / file, (age, age))  # Postfix reads new files slowly
        act(Postfix(copy))
        return {file: read_text(copy / file) for file in texts}


def _put(postfix: Postfix, texts: Mapping[str, str], made: Mapping[str, str], order: Sequence[str]) -> None:
    """Each file anew in one step, unless somebody has changed it since it was read."""
    for name in order:
        if made[name] != texts[name]:
            path = postfix.directory / name
            if read_text(path) != texts[name]:
                raise PostfixFailed(f"{path}: changed by somebody else meanwhile: do it again", 75)
            write_text(path, made[name])


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
    left = {**{name: each.value for name, each in view.entries.items()}, **{each.name: each.after for each in changes}}
    for service in state.services.values():
        line = view.services.get(service.service)
        if line == service.ours and service.before is None and _is_named(service.service, left.values()):
            kept.append(Change("master.cf", service.service, service.ours, line))  # without it, that mail would wait
        elif line in (service.ours, service.before):
            changes += _change("master.cf", service.service, line, service.before)
        else:
            kept.append(Change("master.cf", service.service, service.ours, line))
    return Removal(tuple(changes), tuple(kept))


def _is_named(service: str, values: Iterable[str | None]) -> bool:
    """Whether a setting that stays hands mail to the transport."""
    name = service.partition("/")[0]
    return any(member.partition(":")[0] == name for value in values for member in split_list(value or ""))


def find_leftovers(postfix: Postfix, state: State) -> Iterator[Change]:
    """Services whose own lists (`-o`), which we never touch, still name our milter."""
    for name in MILTER_LISTS:
        record = state.settings.get(name)
        ours = [read_milter(each).address for each in (record.members or () if record else ())]
        for service, value in postfix.overrides(name).items():
            if any(same_socket(read_milter(each).address, one) for each in split_list(value) for one in ours):
                yield Change("master.cf", f"{service}/{name}", None, value)


def uninstall(postfix: Postfix, state: State, removal: Removal) -> None:
    """Take us out of both files, then forget what was there: done again, it goes on where it ended."""
    texts = {name: read_text(postfix.directory / name) for name in FILES}
    made = _made(postfix, texts, lambda copy: take_out(copy, state, removal))
    _put(postfix, texts, made, FILES)  # first main.cf, which sends mail to what master.cf then loses
    remove_state(postfix.directory)


def take_out(postfix: Postfix, state: State, removal: Removal) -> None:
    """Files that only we have changed go back octet for octet; in others, each of our settings does."""
    exact = {}
    stays = {each.file for each in removal.kept}
    for name, each in state.files.items():
        text = read_text(postfix.directory / name)
        if name not in stays and (text == each.before or digest(text) == each.after):
            exact[name] = each.before
    apply(postfix, tuple(change for change in removal.changes if change.file not in exact))
    for name in FILES:
        path = postfix.directory / name
        write_text(path, exact[name] if name in exact else _with_old_texts(read_text(path), name, state, removal))


def _with_old_texts(text: str, file: str, state: State, removal: Removal) -> str:
    """Entries that were written over several lines, or otherwise than postconf writes, as they were."""
    for change in removal.changes:
        if change.file == file == "main.cf":
            record = state.settings.get(change.name)
            if record and record.raw and change.after == record.before:
                text = _replaced(text, record.left, record.raw)
        elif change.file == file:
            service = state.services.get(change.name)
            if service and service.raw and change.after == service.before:
                now = find_service(text, change.name)
                kept = "".join(ignored_lines(service.raw))  # postconf writes them after the entry
                text = _replaced(text, now + kept, service.raw) if now else text
    return text


def _replaced(text: str, left: str, raw: str) -> str:
    head, found, tail = f"\n{text}".partition(f"\n{left}")
    if not found:
        return text
    end = "\n" if tail and not raw.endswith("\n") else ""
    return f"{head}\n{raw}{end}{tail}"[1:]


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
