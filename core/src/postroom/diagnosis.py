"""What can be wrong with a host, looked at one thing at a time: the checks behind `postroom doctor`.

Each check gives `Diagnosis` lines and never raises for what it looks at.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from postroom.config import Config, ConfigError, SocketAddress, parse_duration
from postroom.executable import check_program
from postroom.hookspecs import Diagnosis, FindingLevel, LookupFailed, Resolver
from postroom.plugins import Handlers, common_settings
from postroom.registration import Registration, Stage
from postroom.services.lend import Lender

PATIENCE = 5.0
"""Seconds that a check waits for something to answer."""

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


def check_plugins(handlers: Handlers, config: Config) -> Iterator[Diagnosis]:
    for problem in handlers.problems:
        remedy = f"repair or uninstall {problem.distribution or problem.name}"
        yield Diagnosis(ERROR, f"plugin {problem.name}", problem.text, remedy)
    known = set(handlers.names()) | {problem.name for problem in handlers.problems}
    for name in config.handlers:
        if name not in known:
            text = f"[handlers.{name}] configures a plugin that is not installed"
            yield Diagnosis(WARNING, f"handlers.{name}", text, "install it, or take the table out (fine for a program)")
    if handlers.by_name:
        yield Diagnosis(OK, "plugins", ", ".join(handlers.names()))


def check_registrations(registrations: Iterable[Registration], handlers: Handlers) -> Iterator[Diagnosis]:
    """Enabled registrations whose handler or program could not be called."""
    count = 0
    for registration in registrations:
        count += 1
        subject = f"registration {registration}"
        remedy = f"postroom handlers disable {registration.handler}, or install what is missing"
        if registration.executable:
            if problem := check_program(registration.executable):
                yield Diagnosis(ERROR, subject, problem, remedy)
            continue
        handler = handlers.get(registration.handler)
        if handler is None:
            yield Diagnosis(ERROR, subject, "no such plugin is loaded: its mail follows on_error", remedy)
        elif registration.stage not in handler.stages:
            yield Diagnosis(ERROR, subject, f"{handler.name} does not act at {registration.stage}", remedy)
        else:
            try:
                handler.check_context(registration.context)
            except ConfigError as error:
                yield Diagnosis(ERROR, subject, str(error), f"postroom handlers set {registration.handler} --context …")
    if count:
        yield Diagnosis(OK, "registrations", f"{count} enabled")
    else:
        yield Diagnosis(WARNING, "registrations", "nothing is enabled: no mail is handled", "postroom plugins enable …")


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


def _greeting(address: SocketAddress) -> str:
    family = {"unix": socket.AF_UNIX, "inet6": socket.AF_INET6}.get(address.family, socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect(address.path if address.family == "unix" else (address.host, address.port))
        line = client.recv(512).decode("utf-8", "replace").partition("\r\n")[0]
        client.sendall(b"QUIT\r\n")
        return line


POSTFIX_KEYS = (
    "smtpd_milters",
    "non_smtpd_milters",
    "milter_default_action",
    "milter_command_timeout",
    "milter_content_timeout",
    "milter_protocol",
    "virtual_transport",
    "smtpd_forbid_bare_newline",
)


def check_postfix(config: Config, directory: str | None = None) -> Iterator[Diagnosis]:
    """Does main.cf send mail our way, and wait long enough? `directory`: of main.cf, none: Postfix' own."""
    postconf = shutil.which("postconf", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if postconf is None:
        yield Diagnosis(
            WARNING, "postfix", "postconf is not installed: not looked at", "fine on a host without Postfix"
        )
        return
    command = [postconf, *(["-c", directory] if directory else []), *POSTFIX_KEYS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    if run.returncode:
        yield Diagnosis(ERROR, "postfix", run.stderr.strip().partition("\n")[0], "repair main.cf: postfix check")
        return
    settings = dict(line.split(" =", 1) for line in run.stdout.splitlines() if " =" in line)
    yield from _check_main_cf({name: value.strip() for name, value in settings.items()}, config)


def _check_main_cf(settings: Mapping[str, str], config: Config) -> Iterator[Diagnosis]:
    ours = {str(address) for address in config.milter.listen}
    ours |= {each.replace("127.0.0.1", "localhost") for each in ours}
    for name in ("smtpd_milters", "non_smtpd_milters"):
        value = settings.get(name, "")
        if any(each in value for each in ours):
            yield Diagnosis(OK, name, value)
        else:
            remedy = f"postconf -e '{name} = {config.milter.listen[0]}' beside what is there, then postfix reload"
            yield Diagnosis(ERROR, name, f"{value or 'empty'}: our milter is not in it", remedy)
        if any(not each.strip() for each in value.split(",")) and value:
            yield Diagnosis(WARNING, name, f"{value}: has empty entries", f"postconf -e '{name} = …' without them")
    action = settings.get("milter_default_action", "")
    if action not in ("tempfail", "quarantine"):
        text = f"{action}: what happens to mail while no worker answers"
        yield Diagnosis(WARNING, "milter_default_action", text, "postconf -e milter_default_action=tempfail")
    budgets = (
        ("milter_command_timeout", config.milter.stage_timeout, "stage_timeout"),
        ("milter_content_timeout", config.milter.content_timeout, "content_timeout"),
    )
    for name, ours_seconds, key in budgets:
        try:
            waits = parse_duration(settings.get(name, ""))
        except ValueError:
            continue
        if waits <= ours_seconds:
            text = f"Postfix waits {waits}, we may take {ours_seconds}"
            yield Diagnosis(ERROR, name, text, f"raise {name}, or lower [milter] {key}")
        else:
            yield Diagnosis(OK, name, f"{waits}, we take {ours_seconds} at most")
    if settings.get("smtpd_forbid_bare_newline") == "no":
        text = "no: a bare LF may end a mail inside a mail (SMTP smuggling)"
        yield Diagnosis(WARNING, "smtpd_forbid_bare_newline", text, "postconf -e smtpd_forbid_bare_newline=normalize")


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
