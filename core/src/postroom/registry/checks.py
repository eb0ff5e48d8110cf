"""What every registration has to be, whichever way it comes into the registry."""

from __future__ import annotations

from postroom.registration import (
    MAX_CONTEXT,
    InvalidRegistration,
    Registration,
    check_address,
    check_name,
    check_priority,
)
from postroom.registry.database import storable


def check(registration: Registration) -> None:
    """InvalidRegistration, in one line, when it could not be what somebody means."""
    for name in ("handler", "address", "context", "executable"):
        if not storable(getattr(registration, name)):
            raise InvalidRegistration(f"{registration.handler!r}: its {name} holds NUL or octets that are not UTF-8")
    check_name(registration.handler)
    check_priority(registration.priority)
    if check_address(registration.type, registration.address) != registration.address:
        raise InvalidRegistration(f"{registration}: the address is not in the form in which addresses are compared")
    if len(registration.context) > MAX_CONTEXT:
        raise InvalidRegistration(f"{registration}: the context is longer than {MAX_CONTEXT} characters: shorten it")
    if registration.executable and not registration.executable.startswith("/"):
        raise InvalidRegistration(f"{registration}: {registration.executable!r} is no absolute path: write it in full")
