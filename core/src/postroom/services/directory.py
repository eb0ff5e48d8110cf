"""Who is ours, as far as the configuration and the Maildirs tell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import metadata

from postroom.config import Config, ConfigError
from postroom.hookspecs import DIRECTORY_GROUP, Directory, Mailbox
from postroom.mail import Address, to_a_label

MAX_NAME = 255  # octets of one component of a path

_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class ConfigDirectory:
    """Implements hookspecs.Directory from `[host] domains` and `[delivery] root`."""

    authoritative = False

    def __init__(self, config: Config) -> None:
        self._domains = frozenset(map(to_a_label, config.host.domains))
        self._root, self._delimiter = config.delivery.root, config.host.recipient_delimiter

    def is_local(self, address: Address) -> bool | None:
        if not self._domains:
            return None
        return address.domain in self._domains

    def mailbox(self, address: Address) -> Mailbox | None:
        """The mailbox whose Maildir is there; one that has the delimiter in its own name comes before the tag."""
        if self.is_local(address) is False or not _is_component(address.domain):
            return None
        for key in dict.fromkeys((address.key, address.without_tag(self._delimiter))):
            user = _user(key.rpartition("@")[0])
            if _is_component(user):
                place = self._root / address.domain / user / "Maildir"
                if place.is_dir():
                    return Mailbox(Address(key), str(place))
        return None

    def expand(self, address: Address) -> tuple[Address, ...]:
        return (address,)

    def mailboxes(self) -> Iterator[Mailbox]:
        for place in sorted(self._root.glob("*/*/Maildir")):
            domain, user = place.parts[-3:-1]
            if not self._domains or to_a_label(domain) in self._domains:
                yield Mailbox(Address(f"{_local_part(user)}@{domain}"), str(place))


def open_directory(config: Config) -> Directory:
    """The directory service that `[directory] provider` names, else what configuration and Maildirs tell.

    ConfigError when it is not installed or cannot be used: without it nobody knows whose mail this host takes.
    """
    name, place = config.directory.provider, f"{config.source}: [directory]"
    if not name:
        return ConfigDirectory(config)
    found = {each.name: each for each in metadata.entry_points(group=DIRECTORY_GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none; pip install postroom-accounts"
        raise ConfigError(f"{place}: provider: there is no directory service {name!r}; installed: {known}")
    try:
        factory = found[name].load()
    except Exception as error:  # noqa: BLE001  # whatever its import does
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{place}: provider: {name} cannot be imported: {text}; repair or uninstall it") from None
    directory: Directory = factory(config)
    return directory


def _local_part(user: str) -> str:
    """RFC 5321 4.1.2: quoted where it is no dot-string."""
    if re.fullmatch(r"[^\s\"(),:;<>@\[\\\]\x00-\x1f\x7f]+", user):
        return user
    return '"' + re.sub(r'(["\\])', r"\\\1", user) + '"'


def _user(local_part: str) -> str:
    """What a quoted local part means (RFC 5321 4.1.2)."""
    if len(local_part) >= 2 and local_part[0] == local_part[-1] == '"':
        return _QUOTED_PAIR.sub(r"\1", local_part[1:-1])
    return local_part


def _is_component(name: str) -> bool:
    """Whether a peer's name may be one component of a path: nothing that leaves the root or hides in it."""
    return (
        bool(name)
        and not name.startswith(".")
        and "/" not in name
        and all(ord(character) >= 32 and ord(character) != 127 for character in name)
        and len(os.fsencode(name)) <= MAX_NAME
    )
