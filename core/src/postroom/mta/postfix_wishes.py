"""What main.cf and master.cf have to say so that mail comes our way, given what they say without us."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from postroom.config import Config, SocketAddress, parse_duration
from postroom.fronts.milter.negotiation import MACROS
from postroom.fronts.milter.wire import MacroStage
from postroom.mta.postfix_lists import (
    End,
    MilterEntry,
    find_members,
    has_empty_members,
    join_list,
    read_milter,
    same_socket,
    split_list,
    with_member,
)
from postroom.mta.postfix_options import Local, Options
from postroom.mta.postfix_tool import PostfixFailed

MILTER_LISTS = ("smtpd_milters", "non_smtpd_milters")
SERVICE = "postroom/unix"
MAILMAN = "mailman/unix"
COMMAND_MARGIN, CONTENT_MARGIN = 5.0, 30.0
"""Seconds that Postfix waits longer than our handlers may take."""
LMTP_PATIENCE = 600.0
"""lmtp_data_done_timeout unless it is set (postconf(5))."""

_MACRO_SETTINGS = {
    MacroStage.CONNECT: "milter_connect_macros",
    MacroStage.HELO: "milter_helo_macros",
    MacroStage.MAIL: "milter_mail_macros",
    MacroStage.RCPT: "milter_rcpt_macros",
    MacroStage.DATA: "milter_data_macros",
    MacroStage.END_OF_MESSAGE: "milter_end_of_data_macros",
}

MAPS = {
    "virtual_domains": "virtual_mailbox_domains",
    "vmailbox": "virtual_mailbox_maps",
    "virtual": "virtual_alias_maps",
    "transport": "transport_maps",
    "sdd_transport_maps": "sender_dependent_default_transport_maps",
}
"""Files in the directory of maps, by the names of the reference, and the lists that they join."""
SENDER_ACCESS = "blacklists"


class View(Protocol):
    """Postfix' settings as they would be without us."""

    def value(self, name: str) -> str:
        """As it takes effect, `$name` as written."""

    def expanded(self, name: str) -> str:
        """With `$name` filled in."""

    def is_set(self, name: str) -> bool:
        """Whether main.cf sets it."""

    def follows(self, name: str, other: str) -> bool:
        """Whether what is put into the other setting is in this one, too."""

    def place(self, name: str, members: str) -> int | None:
        """Where in a list something of ours stands now, from 0."""

    @property
    def services(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """A setting's value; `members` is what of a list is ours, None: all of it."""

    name: str
    value: str
    members: tuple[str, ...] | None = None


@dataclass(slots=True)
class Wishes:
    settings: list[Wish] = field(default_factory=list)
    services: dict[str, str] = field(default_factory=dict)


def find_wishes(config: Config, options: Options, view: View) -> Wishes:
    """All that is wanted, what holds already included. PostfixFailed when it cannot work."""
    wishes = Wishes()
    wishes.settings += _milter(config, options, view)
    wishes.settings += _macros(view)
    match options.local:
        case Local.LMTP:
            _by_lmtp(config, options, wishes)
        case Local.PIPE:
            _by_pipe(config, options, wishes)
        case Local.NONE:
            pass
    if options.mailman:
        line = "mailman unix - n n - - pipe flags=R user={} argv={} ${{nexthop}} ${{user}} ${{recipient}}"
        wishes.services[MAILMAN] = line.format(options.mailman_user, options.mailman)
        wishes.settings.append(Wish("mailman_destination_recipient_limit", "1"))
    if options.maps:
        wishes.settings += _maps(Path(options.maps), view)
    if options.sasl:
        wishes.settings += _sasl(options.sasl)
    return wishes


# The milter


def milter_address(address: SocketAddress, view: View) -> str:
    """A milter's address as Postfix writes it. A path below the queue directory is relative: it holds in a chroot."""
    match address.family:
        case "unix":
            queue = Path(view.expanded("queue_directory"))
            if Path(address.path).is_relative_to(queue):
                return f"unix:{Path(address.path).relative_to(queue)}"
            for service, line in view.services.items():
                words = line.split()
                if words[4] == "y" and words[7] in ("smtpd", "cleanup"):
                    raise PostfixFailed(
                        f"{service} runs in a chroot and cannot reach {address}: set [milter] listen to inet:…, or to "
                        f"a unix socket below {queue}"
                    )
            return str(address)
        case "inet6":
            return f"inet:[{address.host}]:{address.port}"
        case _:
            return str(address)


def _milter(config: Config, options: Options, view: View) -> Iterator[Wish]:
    if not config.milter.listen:
        raise PostfixFailed(f"{config.source}: [milter] listen is empty: there is no milter to install")
    ours = MilterEntry(milter_address(config.milter.listen[0], view))
    others = [
        member
        for name in MILTER_LISTS
        for member in split_list(view.value(name))
        if not same_socket(read_milter(member).address, ours.address)
    ]
    for name, option, wanted in _terms(config, view):
        if others and view.is_set(name):  # somebody chose it for the other milters
            ours = replace(ours, options=(*ours.options, (option, wanted)))
        else:
            yield Wish(name, wanted)
    smtpd, non_smtpd = MILTER_LISTS
    for name, other in ((smtpd, non_smtpd), (non_smtpd, smtpd)):
        if view.follows(name, other):  # non_smtpd_milters = $smtpd_milters: we come with it, and would run twice
            yield Wish(name, view.value(name), ())
        else:
            yield _join_milters(name, ours, options, view)


def _join_milters(name: str, ours: MilterEntry, options: Options, view: View) -> Wish:
    value = view.value(name)
    for member in [*split_list(value), *split_list(view.expanded(name))]:
        if same_socket(read_milter(member).address, ours.address):
            cleaned = join_list(split_list(value), like=value) if has_empty_members(value) else value
            return Wish(name, cleaned, ())
    position = options.position
    if position is None:
        now = view.place(name, str(ours))
        position = End.FIRST if now is None else now + 1
    return Wish(name, with_member(value, str(ours), position), (str(ours),))


def _terms(config: Config, view: View) -> Iterator[tuple[str, str, str]]:
    """(setting, option of one milter, value) of what is not yet as we need it."""
    if view.expanded("milter_default_action") != "tempfail":
        yield "milter_default_action", "default_action", "tempfail"
    if view.expanded("milter_protocol") != "6":
        yield "milter_protocol", "protocol", "6"
    for name, option, needed in (
        ("milter_command_timeout", "command_timeout", config.milter.stage_timeout + COMMAND_MARGIN),
        ("milter_content_timeout", "content_timeout", config.milter.content_timeout + CONTENT_MARGIN),
    ):
        if seconds(view.expanded(name)) < needed:
            yield name, option, f"{math.ceil(needed)}s"


def seconds(text: str) -> float:
    """A time of Postfix; 0 when it is none."""
    try:
        return float(parse_duration(text))
    except ValueError:
        return 0.0


def _macros(view: View) -> Iterator[Wish]:
    for stage, name in _MACRO_SETTINGS.items():
        value = view.value(name)
        there = split_list(value.replace("{", " ").replace("}", " "))
        missing = [each for each in split_list(MACROS[stage].decode()) if each.strip("{}") not in there]
        if missing:
            yield Wish(name, f"{value} {' '.join(missing)}".strip(), (" ".join(missing),))


# Local delivery


def _by_lmtp(config: Config, options: Options, wishes: Wishes) -> None:
    address = config.lmtp_listen[0]
    match address.family:
        case "unix":
            next_hop = str(address)
        case "inet6":
            next_hop = f"inet:[ipv6:{address.host}]:{address.port}"
        case _:
            next_hop = f"inet:[{address.host}]:{address.port}"
    line = "postroom unix - - n - - lmtp -o lmtp_send_xforward_command=yes"
    needed = (config.lmtp.handler_timeout + config.delivery.timeout) * options.recipient_limit
    if needed + CONTENT_MARGIN > LMTP_PATIENCE:
        line += f" -o lmtp_data_done_timeout={math.ceil(needed + CONTENT_MARGIN)}s"
    wishes.services[SERVICE] = line
    wishes.settings += [
        Wish("postroom_destination_recipient_limit", str(options.recipient_limit)),
        Wish("virtual_transport", f"postroom:{next_hop}"),
    ]


def _by_pipe(config: Config, options: Options, wishes: Wishes) -> None:
    address = config.lmtp_listen[0]
    if address.family != "unix":
        raise PostfixFailed(f"{address}: postroom-deliver speaks to a unix socket: put one first in [lmtp] listen")
    macros = {
        "-f": "sender", "-d": "recipient", "--queue-id": "queue_id", "--client-address": "client_address",
        "--client-name": "client_hostname", "--client-helo": "client_helo", "--sasl-username": "sasl_username",
        "--original-recipient": "original_recipient",
    }  # fmt: skip
    arguments = " ".join(f"{option} ${{{macro}}}" for option, macro in macros.items())
    wishes.services[SERVICE] = (
        f"postroom unix - n n - - pipe flags=DORhu user={options.user} null_sender= "
        f"argv={options.program} {arguments} --socket {address.path}"
    )
    wishes.settings += [
        Wish("postroom_destination_recipient_limit", "1"),  # flag D delivers to nobody otherwise (pipe(8))
        Wish("virtual_transport", "postroom"),
    ]


# Maps and logins


def _maps(directory: Path, view: View) -> Iterator[Wish]:
    kind = view.expanded("default_database_type")
    for file, name in MAPS.items():
        member, value = _map(directory / file, kind), view.value(name)
        if find_members(value, member) is not None:
            yield Wish(name, value, ())
        else:
            yield Wish(name, with_member(value, member, End.LAST), (member,))
    name = "smtpd_sender_restrictions"
    member, value = f"check_sender_access {_map(directory / SENDER_ACCESS, kind)}", view.value(name)
    if find_members(value, member) is not None:
        yield Wish(name, value, ())
    else:
        yield Wish(name, f"{member}, {value}" if value else member, (member,))


def _map(path: Path, kind: str) -> str:
    if not path.exists():
        raise PostfixFailed(f"{path}: there is no such map, and Postfix would defer all mail: run `postroom restore`")
    return f"{kind}:{path}"


def _sasl(path: str) -> Iterator[Wish]:
    yield Wish("smtpd_sasl_auth_enable", "yes")
    yield Wish("smtpd_sasl_type", "dovecot")
    yield Wish("smtpd_sasl_path", path)
    yield Wish("smtpd_sasl_security_options", "noanonymous, noplaintext")
    yield Wish("smtpd_sasl_tls_security_options", "noanonymous")  # PLAIN is for TLS alone
