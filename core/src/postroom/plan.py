"""What acts on a mail, in which order, and why: envelope, registrations and handlers to ordered calls. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from postroom.config import Config, ConfigError
from postroom.mail import Address, Envelope
from postroom.plugins import CommonSettings, Handlers, LoadedHandler, common_settings
from postroom.registration import OnError, Registration, Selection, Stage, Type, type_order

PROGRAM_TIMEOUT = 60.0
"""Seconds that a program may take for one call where `[handlers.NAME] timeout` does not say."""


@dataclass(frozen=True)
class Call:
    """One handler x one context x the recipients it answers for.

    `handler` is None for a program and for a plugin that is not there; then `problem` tells the two apart.
    """

    registration: Registration
    recipients: tuple[Address, ...]
    handler: LoadedHandler | None
    settings: Any
    on_error: OnError
    timeout: float
    problem: str = ""

    @property
    def name(self) -> str:
        return self.registration.handler

    @property
    def circuit(self) -> str:
        """What fails together: the program, or the plugin."""
        return self.registration.executable or self.registration.handler


@dataclass(frozen=True)
class LeftOut:
    """A registration that matched and does not act, and why."""

    registration: Registration
    reason: str


@dataclass(frozen=True)
class Plan:
    """The ordered calls of one stage for one envelope."""

    stage: Stage
    generation: int
    calls: tuple[Call, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=())


def lookup_keys(envelope: Envelope, delimiter: str) -> set[tuple[Type, str]]:
    """What to ask the registry for: every (type, address) that a registration for this mail can have."""
    keys = {(Type.GLOBAL, "")}
    if envelope.sender:
        keys.update((Type.SENDER, key) for key in _address_keys(envelope.sender, delimiter))
        keys.add((Type.SENDER_DOMAIN, envelope.sender.domain))
    for recipient in envelope.recipients:
        keys.update((Type.RECIPIENT, key) for key in _address_keys(recipient, delimiter))
        keys.add((Type.RECIPIENT_DOMAIN, recipient.domain))
    return {(type_, key) for type_, key in keys if key or type_ is Type.GLOBAL}


def make_plan(stage: Stage, envelope: Envelope, selection: Selection, handlers: Handlers, config: Config) -> Plan:
    """The calls for `envelope` at `stage`; `selection` may hold registrations that do not match, or are disabled."""
    matching = _Matching(envelope, config.host.recipient_delimiter)
    calls: list[Call] = []
    left_out: list[LeftOut] = []
    groups: dict[tuple[Any, ...], list[tuple[Registration, tuple[Address, ...]]]] = {}
    chosen = [each for each in selection.registrations if each.stage is stage]
    for registration in chosen:
        recipients = matching.recipients(registration)
        if not recipients:
            continue
        if not registration.enabled:
            left_out.append(LeftOut(registration, "disabled"))
        else:
            groups.setdefault(_group_key(registration), []).append((registration, recipients))
    for members in groups.values():
        registration, recipients = _merge(members, envelope)
        call, reason = _make_call(registration, recipients, envelope, handlers, config)
        if call is None:
            left_out.extend(LeftOut(member, reason) for member, _ in members)
        else:
            calls.append(call)
    order = {type_: position for position, type_ in enumerate(type_order(stage))}
    calls.sort(key=lambda call: (order[call.registration.type], *_rank(call.registration)))
    left_out.sort(key=lambda each: (order[each.registration.type], *_rank(each.registration)))
    return Plan(stage, selection.generation, tuple(calls), tuple(left_out))


def _rank(registration: Registration) -> tuple[int, str, str, str]:
    return (registration.priority, registration.handler, registration.address, registration.context)


def _group_key(registration: Registration) -> tuple[Any, ...]:
    """Registrations with the same key become one call."""
    return (
        registration.handler,
        registration.type,
        registration.priority,
        registration.context,
        registration.executable,
        registration.mode,
        registration.on_error,
    )


def _merge(
    members: list[tuple[Registration, tuple[Address, ...]]], envelope: Envelope
) -> tuple[Registration, tuple[Address, ...]]:
    """The first registration by address, and all the recipients in the envelope's order, each once."""
    members.sort(key=lambda member: member[0].address)
    if len(members) == 1:
        return members[0]
    wanted = {recipient for _, recipients in members for recipient in recipients}
    return members[0][0], tuple(dict.fromkeys(each for each in envelope.recipients if each in wanted))


def _make_call(
    registration: Registration,
    recipients: tuple[Address, ...],
    envelope: Envelope,
    handlers: Handlers,
    config: Config,
) -> tuple[Call | None, str]:
    handler = None if registration.executable else handlers.get(registration.handler)
    problem, settings = "", None
    common = CommonSettings()
    try:
        common = handler.common if handler else common_settings(config, registration.handler)
        if handler:
            settings = handler.settings_for(registration.context)
    except ConfigError as error:
        problem = str(error)
    exempt = common.exempt if common.exempt is not None else handler.info.exempt if handler else ()
    if envelope.traffic in exempt:
        return None, f"exempt: mail of class {envelope.traffic}"
    if handler is None and not registration.executable:
        problem = _absence(registration.handler, handlers)
    elif handler and registration.stage not in handler.stages:
        problem = f"{handler.name} does not act at {registration.stage}"
    on_error = (
        registration.on_error
        or common.on_error_for.get(envelope.traffic)
        or common.on_error
        or (handler.info.on_error if handler else OnError.DEFER)
    )
    timeout = common.timeout or (handler.info.timeout if handler else PROGRAM_TIMEOUT)
    return Call(registration, recipients, handler, settings, on_error, float(timeout), problem), ""


def _absence(name: str, handlers: Handlers) -> str:
    for known in handlers.problems:
        if known.name == name:
            return f"plugin {name} is left out: {known.text}"
    return f"no plugin named {name} is installed"


def _address_keys(address: Address, delimiter: str) -> tuple[str, ...]:
    """The address itself, and without its tag."""
    key, bare = address.key, address.without_tag(delimiter)
    return (key,) if key == bare else (key, bare)


class _Matching:
    """Which recipients of one envelope a registration answers for."""

    def __init__(self, envelope: Envelope, delimiter: str) -> None:
        self._everybody = tuple(dict.fromkeys(envelope.recipients))
        self._sender = set(_address_keys(envelope.sender, delimiter)) if envelope.sender else set()
        self._sender_domain = envelope.sender.domain
        self._by_address: dict[str, list[Address]] = {}
        self._by_domain: dict[str, list[Address]] = {}
        for recipient in self._everybody:
            for key in _address_keys(recipient, delimiter):
                self._by_address.setdefault(key, []).append(recipient)
            if recipient.domain:
                self._by_domain.setdefault(recipient.domain, []).append(recipient)

    def recipients(self, registration: Registration) -> tuple[Address, ...]:
        address = registration.address
        match registration.type:
            case Type.GLOBAL:
                return self._everybody
            case Type.SENDER:
                return self._everybody if address in self._sender else ()
            case Type.SENDER_DOMAIN:
                return self._everybody if address and address == self._sender_domain else ()
            case Type.RECIPIENT:
                return tuple(self._by_address.get(address, ()))
            case Type.RECIPIENT_DOMAIN:
                return tuple(self._by_domain.get(address, ()))


def describe_call(call: Call, stage: Stage) -> Mapping[str, Any]:
    """One row of `postroom explain`."""
    registration = call.registration
    return {
        "stage": str(stage),
        "handler": call.name,
        "type": str(registration.type),
        "address": registration.address or "all",
        "priority": registration.priority,
        "context": registration.context,
        "mode": str(registration.mode),
        "on error": str(call.on_error),
        "time limit": call.timeout,
        "recipients": _some(call.recipients),
        "why": call.problem or _why(registration),
    }


def _why(registration: Registration) -> str:
    match registration.type:
        case Type.GLOBAL:
            return "registered for all mail"
        case Type.SENDER | Type.SENDER_DOMAIN:
            return f"registered for mail from {registration.address}"
        case Type.RECIPIENT | Type.RECIPIENT_DOMAIN:
            return f"registered for mail to {registration.address}"


def _some(recipients: Collection[Address], most: int = 3) -> str:
    shown = _first(recipients, most)
    more = len(recipients) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _first(recipients: Iterable[Address], most: int) -> list[str]:
    return [str(recipient) for recipient, _ in zip(recipients, range(most), strict=False)]
