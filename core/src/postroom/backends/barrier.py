"""Who may use a unix socket: root, who asks, is let in everywhere; the user who runs the server may not be."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path

from postroom.config import SocketAddress


def barrier_for(address: SocketAddress, user: str, group: str) -> Path | None:
    """What keeps out a server that runs as `user`, and in `group` beside his own; None: nothing that can be seen."""
    if not user or address.family != "unix":
        return None
    try:
        account = pwd.getpwnam(user)
        groups = os.getgrouplist(user, grp.getgrnam(group).gr_gid if group else account.pw_gid)
        return find_barrier(Path(address.path), account.pw_uid, groups)
    except (KeyError, OSError):
        return None  # no such user or group, or we may not look: said elsewhere


def find_barrier(path: Path, uid: int, groups: Collection[int]) -> Path | None:
    """The directory that the user may not search, or the socket that it may not write; None: nothing is in its way."""
    for place in (*reversed(path.parents), path):
        facts = place.stat()
        needed = stat.S_IWOTH if place == path else stat.S_IXOTH
        if facts.st_uid == uid:
            needed <<= 6
        elif facts.st_gid in groups:
            needed <<= 3
        if uid and not facts.st_mode & needed:
            return place
    return None
