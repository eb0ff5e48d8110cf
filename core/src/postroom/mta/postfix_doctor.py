"""What can be wrong with a Postfix that postroom stands beside: main.cf, master.cf, maps, sockets, log."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path

from postroom.backends.barrier import find_barrier
from postroom.config import Config, SocketAddress
from postroom.hookspecs import Diagnosis, FindingLevel
from postroom.mta.maps import HEAD
from postroom.mta.postfix import Standing, status
from postroom.mta.postfix_hints import find_hints
from postroom.mta.postfix_lists import MilterEntry, has_empty_members, read_milter, same_socket, split_list
from postroom.mta.postfix_maincf import map_keys, split_lines
from postroom.mta.postfix_state import read_state
from postroom.mta.postfix_tool import Postfix, PostfixFailed, read_text
from postroom.mta.postfix_view import CurrentView
from postroom.mta.postfix_wishes import MILTER_LISTS, milter_address, seconds

OK, WARNING, ERROR = FindingLevel.OK, FindingLevel.WARNING, FindingLevel.ERROR

_MAP = re.compile(r"\b(hash|btree|lmdb|cdb|dbm|texthash|pcre|regexp|cidr):(/[^\s,{}()]+)")
_INDEX = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag"}
_OWN_CACHES = ("_cache_database", "_cache_map", "address_verify_map")  # Postfix makes these itself
_NAMED_ELSEWHERE = ("proxy_read_maps", "proxy_write_maps")


def diagnose_postfix(config: Config, directory: Path | None = None) -> Iterator[Diagnosis]:
    try:
        postfix = Postfix(directory)
    except PostfixFailed as error:
        yield Diagnosis(WARNING, "postfix", f"not looked at: {error}", "fine on a host without Postfix")
        return
    try:
        values = postfix.expanded()
    except PostfixFailed as error:
        yield Diagnosis(ERROR, "postfix", str(error), "correct that line; see postconf(5)")
        return
    view = CurrentView(postfix, None)
    maps = {**{name: values[name] for name in view.entries if name in values}, **values}
    for check in (
        lambda: _milters(config, values, view),
        lambda: _transport(values, view),
        lambda: _installation(config, postfix),
        lambda: _hints(postfix),
        lambda: _maps(postfix, maps),
        lambda: _sockets(config, values),
        lambda: _log(values),
        lambda: _running(postfix),
    ):
        yield from _contained(check)


def _contained(check: Callable[[], Iterator[Diagnosis]]) -> Iterator[Diagnosis]:
    """What keeps one check from going on hides nothing that others find."""
    try:
        yield from check()
    except PostfixFailed as error:
        yield Diagnosis(ERROR, "postfix", str(error), "put that right, then run postroom doctor again")


def _hints(postfix: Postfix) -> Iterator[Diagnosis]:
    for hint in find_hints(postfix):
        yield Diagnosis(WARNING, hint.subject, hint.text, hint.remedy)


def _milters(config: Config, values: Mapping[str, str], view: CurrentView) -> Iterator[Diagnosis]:
    wanted = [milter_address(address, view) for address in config.milter.listen]
    wanted += [str(address) for address in config.milter.listen]
    for name in MILTER_LISTS:
        value = values.get(name, "")
        entries = [read_milter(member) for member in split_list(value)]
        ours = next((each for each in entries if any(same_socket(each.address, one) for one in wanted)), None)
        if ours is None:
            text = f"{value or 'empty'}: our milter is not in it"
            yield Diagnosis(ERROR, name, text, "postroom postfix install --reload")
            continue
        yield Diagnosis(OK, name, value)
        if has_empty_members(value):
            yield Diagnosis(WARNING, name, f"{value}: has empty entries", "postroom postfix install --reload")
        yield from _terms(config, values, name, ours)
    if values.get("smtpd_forbid_bare_newline") == "no":
        text = "no: a bare LF may end a mail inside a mail (SMTP smuggling)"
        yield Diagnosis(WARNING, "smtpd_forbid_bare_newline", text, "postconf -e smtpd_forbid_bare_newline=normalize")


def _terms(config: Config, values: Mapping[str, str], name: str, ours: MilterEntry) -> Iterator[Diagnosis]:
    """What Postfix does while we don't answer, and how long it waits."""
    own = dict(ours.options)
    action = own.get("default_action") or values.get("milter_default_action", "")
    if action not in ("tempfail", "quarantine"):
        text = f"{action}: what happens to mail in {name} while no worker answers"
        yield Diagnosis(WARNING, "milter_default_action", text, "postroom postfix install --reload")
    for setting, option, limit, key in (
        ("milter_command_timeout", "command_timeout", config.milter.stage_timeout, "stage_timeout"),
        ("milter_content_timeout", "content_timeout", config.milter.content_timeout, "content_timeout"),
    ):
        waits = seconds(own.get(option) or values.get(setting, ""))
        if waits <= limit:
            text = f"Postfix waits {waits:g} s in {name}, we may take {limit}"
            yield Diagnosis(ERROR, setting, text, f"postroom postfix install --reload, or lower [milter] {key}")
        else:
            yield Diagnosis(OK, setting, f"{waits:g} s in {name}, we take {limit} at most")


def _transport(values: Mapping[str, str], view: CurrentView) -> Iterator[Diagnosis]:
    transport = values.get("virtual_transport", "")
    service = f"{transport.partition(':')[0]}/unix"
    line = view.services.get(service)
    if line is None:
        text = f"{transport}: master.cf has no service {service}: own mail waits in the queue"
        yield Diagnosis(ERROR, "virtual_transport", text, "postroom postfix install --reload")
        return
    yield Diagnosis(OK, "virtual_transport", transport)
    if transport.partition(":")[0] != "postroom":
        text = f"{transport}: mail for own mailboxes passes before-local by"
        remedy = "postroom postfix install, unless that transport leads to our LMTP socket"
        yield Diagnosis(WARNING, "before-local", text, remedy)
    found = re.search(r"argv=(\S+)", line)
    if found and not os.access(found[1], os.X_OK):
        yield Diagnosis(ERROR, service, f"{found[1]} is not there, or not executable", "install it, or correct argv=")


def _installation(config: Config, postfix: Postfix) -> Iterator[Diagnosis]:
    state = read_state(postfix.directory)
    if state is None:
        return
    drifted = [each for each in status(postfix, config, state) if each.standing is not Standing.IN_PLACE]
    for each in drifted:
        text = f"{each.standing}: is {each.now!r}, installed as {each.wanted!r}"
        yield Diagnosis(WARNING, f"{each.file}: {each.name}", text, "postroom postfix install --reload")
    if not drifted:
        yield Diagnosis(OK, "postfix install", "everything is in place")


def _maps(postfix: Postfix, values: Mapping[str, str]) -> Iterator[Diagnosis]:
    """The reference's `postmap -s`: is every map there, and made from what its source says now?

    A map is called by the first setting that has it: those that main.cf sets come first.
    """
    state = read_state(postfix.directory)
    restored = Path(state.options.maps) if state and state.options.maps else None
    seen: dict[tuple[str, str], str] = {}
    for name, value in values.items():
        if name not in _NAMED_ELSEWHERE and not name.endswith(_OWN_CACHES):
            for kind, path in _MAP.findall(value):
                seen.setdefault((kind, path), name)
    well = 0
    for (kind, path), name in seen.items():
        aliases = name.startswith("alias_")
        problem = _map_problem(kind, Path(path)) or _map_damage(postfix, kind, path, aliases=aliases)
        if problem is None:
            well += 1
            continue
        level, text = problem
        remake = "newaliases" if aliases else f"postmap {kind}:{path}"
        remedy = remake if Path(path).exists() else f"postroom restore, or bring {path} back and {remake}"
        if Path(path).parent == restored:  # a source that was emptied must not be made into an index
            remedy = "postroom restore" if _is_restored(Path(path)) else remedy
        yield Diagnosis(level, f"{name}: {kind}:{path}", text, remedy)
    if well:
        yield Diagnosis(OK, "maps", f"{well} are there and not older than their sources")


def _is_restored(path: Path) -> bool:
    """Whether `postroom restore` makes it: a text of somebody's own stays."""
    return not path.exists() or not (text := read_text(path)).strip() or text.startswith(HEAD)


def _map_problem(kind: str, path: Path) -> tuple[FindingLevel, str] | None:
    index = path.with_name(path.name + _INDEX.get(kind, ""))
    if not index.exists():
        return ERROR, f"{index} is not there: mail that needs it is deferred"
    if index != path and path.exists() and path.stat().st_mtime > index.stat().st_mtime:
        return WARNING, f"{path} is newer than {index.name}: its changes are not in effect"
    return None


def _map_damage(postfix: Postfix, kind: str, path: str, *, aliases: bool) -> tuple[FindingLevel, str] | None:
    """Whether Postfix itself can read it, and finds in it what its source says.

    A full disk or a bad backup leaves indexes that are there and new. Postfix takes one that was cut at the end of a
    page for whole, and refuses for good the recipients that it no longer finds.
    """
    question = ("-s",) if kind in _INDEX else ("-q", "postroom-doctor.invalid")
    try:
        lines = split_lines(postfix.run("postmap", *question, f"{kind}:{path}"))
    except PostfixFailed as error:
        return (ERROR, f"{error}: mail that needs it is deferred") if "fatal:" in str(error) else None
    if kind not in _INDEX or aliases or not Path(path).exists():
        return None
    found = {line.partition("\t")[0].casefold() for line in lines}
    lost = {key.casefold() for key in map_keys(read_text(Path(path)))} - found
    return (ERROR, f"the index lacks {len(lost)} of the keys of {path}") if lost else None


def _sockets(config: Config, values: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Can Postfix' own user get to our unix sockets?"""
    owner = values.get("mail_owner", "postfix")
    try:
        user = pwd.getpwnam(owner)
    except KeyError:
        yield Diagnosis(ERROR, "mail_owner", f"there is no user {owner}", "repair main.cf")
        return
    groups = os.getgrouplist(owner, user.pw_gid)
    for what, address in chain(_named("milter", config.milter.listen), _named("lmtp", config.lmtp_listen)):
        if address.family != "unix" or not Path(address.path).exists():
            continue  # what does not listen is said elsewhere
        barred = find_barrier(Path(address.path), user.pw_uid, groups)
        if barred is None:
            yield Diagnosis(OK, what, f"{owner} may use {address}")
        else:
            text = f"{owner} may not use {address}: {barred} keeps it out"
            yield Diagnosis(ERROR, what, text, 'set [server] group = "postfix", then restart postroom')


def _named(what: str, addresses: Collection[SocketAddress]) -> Iterator[tuple[str, SocketAddress]]:
    return ((what, address) for address in addresses)


def _log(values: Mapping[str, str]) -> Iterator[Diagnosis]:
    log = values.get("maillog_file", "")
    if log.startswith("/") and not log.startswith("/dev/"):
        if Path(log).exists():
            yield Diagnosis(OK, "maillog_file", log)
        else:
            text = f"{log} is not there: Postfix has logged nothing yet, or cannot"
            yield Diagnosis(
                WARNING, "maillog_file", text, "see maillog_file_prefixes and the postlog line of master.cf"
            )
    elif not log and not Path("/dev/log").exists():
        text = "Postfix logs to syslog and there is no /dev/log: nothing is logged"
        yield Diagnosis(WARNING, "maillog_file", text, "start syslog, or postconf -e maillog_file=/var/log/mail.log")


def _running(postfix: Postfix) -> Iterator[Diagnosis]:
    try:
        postfix.run("postfix", "status")
    except PostfixFailed:
        yield Diagnosis(
            WARNING, "postfix", f"{postfix.directory}: not running", f"postfix -c {postfix.directory} start"
        )
    else:
        yield Diagnosis(OK, "postfix", f"{postfix.directory}: running")
