"""Who is ours, as far as the configuration and the Maildirs tell."""

from __future__ import annotations

import os
import re

from postroom.config import Config
from postroom.hookspecs import Mailbox
from postroom.mail import Address, to_a_label

MAX_NAME = 255  # octets of one component of a path

_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class ConfigDirectory:
    """Implements hookspecs.Directory from `[host] domains` and `[delivery] root`."""

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
