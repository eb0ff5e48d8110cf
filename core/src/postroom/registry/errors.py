"""What can go wrong with the registry, each in one line that names the thing and the remedy."""

from __future__ import annotations


class RegistryError(Exception):
    """The registry cannot do it; `exit_status` is what a command ends with."""

    exit_status = 2


class RegistryUnavailable(RegistryError):
    """It cannot be reached, or is locked, just now: the same thing may work in a moment."""

    exit_status = 75


class AlreadyRegistered(RegistryError):
    """There is such a registration."""

    exit_status = 1


class NotRegistered(RegistryError):
    """There is no such registration, or generation."""

    exit_status = 1
