"""Gives up root, once, after the sockets are open."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from postroom.config import Config, ConfigError


@dataclass(frozen=True)
class Identity:
    """Whom to become; -1: stay."""

    uid: int = -1
    gid: int = -1
    name: str = ""

    def own(self, path: Path) -> None:
        """Give them a file that root may just have made."""
        if os.geteuid() == 0 and (self.uid, self.gid) != (-1, -1):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def assume(self) -> None:
        """From here on without root. Nothing is given up when nobody asked for it."""
        if self.gid != -1 and os.geteuid() == 0:
            if self.name:
                os.initgroups(self.name, self.gid)
            else:
                os.setgroups([self.gid])
            os.setgid(self.gid)
        if self.uid != -1 and os.geteuid() == 0:
            os.setuid(self.uid)


def identity(config: Config) -> Identity:
    """Whom `[server]` wants; ConfigError when there is no such user or group, or when we cannot become it."""
    user, group = config.server.user, config.server.group
    place = f"{config.source}: [server]"
    uid = gid = -1
    if user:
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            raise ConfigError(f"{place}: user: there is no user {user!r}: create it, or leave `user` out") from None
        uid, gid = found.pw_uid, found.pw_gid
    if group:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigError(f"{place}: group: there is no group {group!r}: create it, or leave it out") from None
    if uid != -1 and os.geteuid() not in (0, uid):
        raise ConfigError(f"{place}: user: only root can become {user!r}: start it as root, or leave `user` out")
    return Identity(uid, gid, user)
