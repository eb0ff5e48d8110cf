"""What can be wrong with a host, looked at one thing at a time: the checks behind `postroom doctor`.

Each check gives `Diagnosis` lines and never raises for what it looks at.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from postroom.config import Config, ConfigError, SocketAddress
from postroom.executable import check_program
from postroom.hookspecs import Diagnosis, FindingLevel, LookupFailed, Resolver
from postroom.plugins import Handlers, common_settings
from postroom.registration import Registration, Stage
from postroom.services.lend import Lender

PATIENCE = 5.0
"""Seconds that a check waits for something to answer."""

LITTLE_ROOM, LITTLE_ROOM_OCTETS = 0.05, 16 << 30
"""A file system with less free than both is nearly full: 5 % of a large one are many mails."""
NO_ROOM, NO_ROOM_OCTETS = 0.01, 1 << 30
FEW_FILES, NO_FILES = 0.05, 0.01
"""Shares of the inodes."""
MANY_HELD, MUCH_HELD = 10000, 0.1
"""Mails in quarantine, and their share of the file system, that nobody looks through any more."""

OK, WARNING, ERROR = FindingLevel.OK, FindingLevel.WARNING, FindingLevel.ERROR


def check_config(config: Config) -> Iterator[Diagnosis]:
    """The file was read: what remains is what its parts say about each other."""
    yield Diagnosis(OK, "configuration", config.source)
    for name in config.handlers:
        try:
            common_settings(config, name)
        except ConfigError as error:
            yield Diagnosis(ERROR, f"handlers.{name}", str(error), "correct the file, then reload")


def check_directories(config: Config) -> Iterator[Diagnosis]:
    for what, path in (("state directory", config.paths.state), ("run directory", config.paths.run)):
        if not path.is_dir():
            yield Diagnosis(ERROR, what, f"{path} is not there", f"mkdir -p -m 0750 {path}, owned by the server's user")
        elif not os.access(path, os.W_OK):
            yield Diagnosis(
                ERROR, what, f"{path} cannot be written", "give it to the server's user, or run as that user"
            )
        elif path.stat().st_mode & stat.S_IWOTH:
            yield Diagnosis(ERROR, what, f"{path} can be written by everybody", f"chmod o-w {path}")
        else:
            yield Diagnosis(OK, what, str(path))


def check_room(config: Config, statvfs: Callable[[Path], os.statvfs_result] = os.statvfs) -> Iterator[Diagnosis]:
    """Whether what is to be written still fits: beside the databases and the quarantine, and where the log is."""
    seen = set()
    for path in (config.paths.state, Path(config.log.target).parent):
        if path.is_absolute() and path.is_dir() and (device := path.stat().st_dev) not in seen:
            seen.add(device)
            yield _room(path, statvfs(path))


def _room(path: Path, found: os.statvfs_result) -> Diagnosis:
    """`f_bavail`, `f_favail`: what is free for others than root."""
    free = found.f_bavail * found.f_frsize
    share = found.f_bavail / max(1, found.f_blocks)
    files = found.f_favail / found.f_files if found.f_files else 1.0  # 0: a file system that makes them as needed
    text = f"{path}: {100 * share:.0f} % and {_octets(free)} are free"
    if files < FEW_FILES:
        text += f", and {100 * files:.0f} % of the inodes"
    level = OK
    if (share < LITTLE_ROOM and free < LITTLE_ROOM_OCTETS) or files < FEW_FILES:
        level = WARNING
    if (share < NO_ROOM and free < NO_ROOM_OCTETS) or files < NO_FILES:
        level = ERROR
    remedy = "" if level is OK else "make room: `postroom quarantine expire`, old logs, or a larger file system"
    return Diagnosis(level, "file system", text, remedy)


def check_quarantine(config: Config, statvfs: Callable[[Path], os.statvfs_result] = os.statvfs) -> Iterator[Diagnosis]:
    directory = config.paths.state / "quarantine"
    mails = octets = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".eml"):
                    mails, octets = mails + 1, octets + entry.stat(follow_symlinks=False).st_size
        room = statvfs(directory)
    except FileNotFoundError:
        yield Diagnosis(OK, "quarantine", "nothing was ever held")
        return
    except OSError as error:
        yield Diagnosis(WARNING, "quarantine", f"{directory}: {error.strerror}", "run as the server's user or as root")
        return
    share = octets / max(1, room.f_blocks * room.f_frsize)
    text = f"{mails} mails, {_octets(octets)}, {100 * share:.0f} % of its file system"
    if mails <= MANY_HELD and share <= MUCH_HELD:
        yield Diagnosis(OK, "quarantine", text)
        return
    keep = config.quarantine.keep
    now = f"now {keep}" if keep else "now 0: for ever"
    yield Diagnosis(WARNING, "quarantine", text, f"postroom quarantine expire, and lower [quarantine] keep ({now})")


def _octets(number: int) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} octets"


def check_plugins(handlers: Handlers, config: Config) -> Iterator[Diagnosis]:
    for problem in handlers.problems:
        remedy = f"repair or uninstall {problem.distribution or problem.name}"
        yield Diagnosis(ERROR, f"plugin {problem.name}", problem.text, remedy)
    for name in handlers.without_plugin(config):
        text = f"[handlers.{name}] configures a plugin that is not installed"
        yield Diagnosis(WARNING, f"handlers.{name}", text, "install it, or take the table out (fine for a program)")
    if handlers.by_name:
        yield Diagnosis(OK, "plugins", ", ".join(handlers.names()))


def check_enabled(enabled: Iterable[tuple[str, Stage, str]], handlers: Handlers) -> Iterator[Diagnosis]:
    """What is enabled and could not be called. Handlers, stages and programs are looked at, not each registration."""
    count = 0
    for name, stage, executable in sorted(enabled):
        count += 1
        subject = f"{name} at {stage}"
        remedy = f"postroom handlers disable {name}, or install what is missing"
        if executable:
            if problem := check_program(executable):
                yield Diagnosis(ERROR, subject, problem, remedy)
            continue
        handler = handlers.get(name)
        if handler is None:
            yield Diagnosis(ERROR, subject, "no such plugin is loaded: its mail follows on_error", remedy)
        elif stage not in handler.stages:
            yield Diagnosis(ERROR, subject, f"{name} does not act at {stage}", remedy)
    if count:
        yield Diagnosis(OK, "registrations", f"{count} handlers and stages have enabled ones")
    else:
        yield Diagnosis(WARNING, "registrations", "nothing is enabled: no mail is handled", "postroom plugins enable …")


def check_contexts(registrations: Iterable[Registration], handlers: Handlers) -> Iterator[Diagnosis]:
    """Contexts that their handlers would refuse today."""
    for registration in registrations:
        handler = handlers.get(registration.handler)
        if handler is None or registration.executable:
            continue
        try:
            handler.check_context(registration.context)
        except ConfigError as error:
            remedy = f"postroom handlers set {registration.handler} --context …"
            yield Diagnosis(ERROR, f"registration {registration}", str(error), remedy)


def check_sockets(config: Config) -> Iterator[Diagnosis]:
    """Does the server answer? The milter is asked in its own protocol, not just connected to."""
    from postroom.fronts.milter.client import probe

    for address in config.milter.listen:
        result = probe(address, PATIENCE)
        if result.healthy:
            yield Diagnosis(OK, "milter", f"{address} answers in {result.seconds * 1000:.0f} ms")
        else:
            yield Diagnosis(ERROR, "milter", f"{address}: {result.problem}", "start it: postroom serve")
    for address in config.lmtp_listen:
        try:
            greeting = _greeting(address)
        except OSError as error:
            yield Diagnosis(ERROR, "lmtp", f"{address}: {error.strerror or error}", "start it: postroom serve")
            continue
        if greeting.startswith("220"):
            yield Diagnosis(OK, "lmtp", f"{address} answers")
        else:
            yield Diagnosis(ERROR, "lmtp", f"{address} says {greeting!r}", "find out what listens there")
        if address.family == "unix" and Path(address.path).stat().st_mode & stat.S_IWOTH:
            yield Diagnosis(WARNING, "lmtp", f"{address} is open to everybody", "give it mode 0660 and a group")
    for address in config.handover.listen:
        yield _check_handover(address)


def _check_handover(address: SocketAddress) -> Diagnosis:
    """In its own protocol, with a mail for nobody: it goes on, and no handler is asked."""
    from postroom.fronts.handover.wire import VERSION, Decoder, Kind, Role, WireError, encode

    decoder = Decoder()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(address.path)
            client.sendall(encode(Kind.HELLO, VERSION + b"\0" + Role.QUEUE.encode()) + encode(Kind.END))
            decoder.feed(client.recv(512))
        frame = decoder.next()
    except OSError as error:
        return Diagnosis(ERROR, "handover", f"{address}: {error.strerror or error}", "start it: postroom serve")
    except WireError:
        frame = None
    if frame is None or frame.kind is not Kind.VERDICT:
        return Diagnosis(ERROR, "handover", f"{address} gives no answer", "find out what listens there")
    if not Path(address.path).stat().st_mode & stat.S_IWOTH:
        return Diagnosis(WARNING, "handover", f"{address} is not open to every user", "chmod 0666 it, or restart")
    return Diagnosis(OK, "handover", f"{address} answers")


def _greeting(address: SocketAddress) -> str:
    family = {"unix": socket.AF_UNIX, "inet6": socket.AF_INET6}.get(address.family, socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect(address.path if address.family == "unix" else (address.host, address.port))
        line = client.recv(512).decode("utf-8", "replace").partition("\r\n")[0]
        client.sendall(b"QUIT\r\n")
        return line


def check_dns(resolver: Resolver, config: Config) -> Iterator[Diagnosis]:
    servers = ", ".join(config.dns.nameservers) or "those of /etc/resolv.conf"
    try:
        resolver.lookup("example.org", "NS", PATIENCE)
    except LookupFailed as error:
        yield Diagnosis(WARNING, "dns", f"{servers}: {error}", "set [dns] nameservers to ones that answer")
    else:
        yield Diagnosis(OK, "dns", f"{servers} answer")


def check_log(config: Config) -> Iterator[Diagnosis]:
    target = config.log.target
    if target == "syslog" and not Path("/dev/log").exists():
        yield Diagnosis(ERROR, "log", "target is syslog and there is no /dev/log", 'set [log] target = "stderr"')
    elif target.startswith("/") and not os.access(Path(target).parent, os.W_OK):
        yield Diagnosis(ERROR, "log", f"{Path(target).parent} cannot be written", "make it, owned by the server's user")
    else:
        yield Diagnosis(OK, "log", target)


def check_handlers(
    handlers: Handlers, lender: Lender, enabled: Iterable[tuple[str, Stage, str]]
) -> Iterator[Diagnosis]:
    """What the handlers that are in use, and services, say of what they need."""
    from postroom.log import get_logger

    in_use = {name for name, _, executable in enabled if not executable}
    for name in sorted(in_use | set(handlers.extensions)):
        handler = handlers.get(name)
        found = handler or handlers.extensions.get(name)
        hook = found.hooks.get("diagnose") if found else None
        if hook is None:
            continue
        services = lender.lend(get_logger(handler=name), float(handler.info.timeout) if handler else PATIENCE)
        try:
            yield from hook(settings=handler.base_settings if handler else None, services=services)
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything
            yield Diagnosis(ERROR, name, f"its diagnosis failed: {type(error).__name__}: {error}")
