"""The two orders of registrations, and the form in which their addresses are compared."""

from __future__ import annotations

from postroom.mail import Address, to_a_label
from postroom.registration import Registration, Stage, type_order

_STAGES = {stage: position for position, stage in enumerate(Stage)}
_TYPES = {stage: {type_: position for position, type_ in enumerate(type_order(stage))} for stage in Stage}


def compared(address: str) -> str:
    """An address or a domain in the form in which the registry compares it."""
    return Address(address).key if "@" in address else to_a_label(address)


def acting_order(registration: Registration) -> tuple[int, int, int, str, str]:
    """The order in which registrations act on a mail."""
    stage, type_ = registration.stage, registration.type
    return (_STAGES[stage], _TYPES[stage][type_], registration.priority, registration.handler, registration.address)


def sort_key(registration: Registration) -> tuple[str, str, str, str]:
    """The order of lists and exports, which is an index's order."""
    return (registration.address, registration.type, registration.stage, registration.handler)
