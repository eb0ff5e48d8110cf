"""The files that systemd and logrotate read, for this interpreter and this configuration, and their way out again."""

from __future__ import annotations

import enum
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from postroom.config import Config, SocketAddress

HEAD = "# written by `postroom service install`: changes here are lost, `systemctl edit postroom` keeps them\n"
_CHECK = re.compile(r"# sha256 of what follows: ([0-9a-f]{64})\n")
"""The second line: by it a file that was edited is told from one that another release or configuration gave."""
ACCOUNT = "postroom"
UNIT, SOCKET = "postroom.service", "postroom.socket"
_PLACES = {
    UNIT: "etc/systemd/system/postroom.service",
    SOCKET: "etc/systemd/system/postroom.socket",
    "postroom.sysusers": "etc/sysusers.d/postroom.conf",
    "postroom.tmpfiles": "etc/tmpfiles.d/postroom.conf",
    "postroom.logrotate": "etc/logrotate.d/postroom",
}
_ENABLED = (
    (UNIT, "etc/systemd/system/multi-user.target.wants/postroom.service"),
    (SOCKET, "etc/systemd/system/sockets.target.wants/postroom.socket"),
)
_DROP_INS = ("etc/systemd/system/postroom.service.d", "etc/systemd/system/postroom.socket.d")
_HIDDEN = ("/home", "/root", "/run/user")  # by ProtectHome=yes, systemd.exec(5)


class Standing(enum.StrEnum):
    """How a file compares with what it should be."""

    CURRENT = "current"
    MISSING = "missing"
    DIFFERENT = "different"  # as we wrote it, for another release or configuration
    CHANGED = "changed"  # we wrote it, and somebody edited it since
    OTHER = "not ours"  # somebody else wrote it: left alone


@dataclass(frozen=True)
class ServiceFile:
    """One file, and what stands in its place. `text` empty: whatever we wrote."""

    path: Path
    text: str = ""

    @property
    def standing(self) -> Standing:
        if self.path.is_symlink():
            return Standing.OTHER  # as `systemctl mask` makes it
        try:
            found = self.path.read_text(errors="surrogateescape")
        except FileNotFoundError:
            return Standing.MISSING
        if self.text and found == self.text:
            return Standing.CURRENT
        if not found.startswith(HEAD):
            return Standing.OTHER
        return Standing.DIFFERENT if _is_unedited(found.removeprefix(HEAD)) else Standing.CHANGED

    def write(self) -> None:
        """In one step: systemd never reads half of it."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".postroom-", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, 0o644)
                file.write(self.text)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def service_files(root: Path, config: Config, config_path: str | None, *, activation: bool) -> Iterator[ServiceFile]:
    """All that belong below `root`; the milter's socket unit only for socket `activation`."""
    for name, place in _PLACES.items():
        if name == SOCKET and not activation:
            continue
        text = (files("postroom") / "data" / name).read_text()
        yield ServiceFile(root / place, _signed(_fitted(name, text, config, config_path)))


def written_files(root: Path) -> Iterator[ServiceFile]:
    """Every place below `root` that may hold a file of ours."""
    return (ServiceFile(root / place) for place in _PLACES.values())


def enabled_units(root: Path) -> list[str]:
    """The units that systemd starts by itself: they must not go before that ends."""
    return [unit for unit, link in _ENABLED if (root / link).is_symlink()]


def drop_ins(root: Path) -> list[Path]:
    """What the administrator added with `systemctl edit`: his own."""
    return sorted(path for place in _DROP_INS for path in (root / place).glob("*.conf"))


def _signed(text: str) -> str:
    return f"{HEAD}# sha256 of what follows: {_digest(text)}\n{text}"


def _is_unedited(text: str) -> bool:
    found = _CHECK.match(text)
    return found is not None and _digest(text[found.end() :]) == found[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def unreachable(program: str = sys.executable) -> str:
    """Why the unit could not start this interpreter; empty when it can."""
    for path in (Path(program), Path(program).resolve()):
        if hidden := next((each for each in _HIDDEN if path.is_relative_to(each)), ""):
            return f"{path} is below {hidden}, which ProtectHome=yes hides from the server: install postroom elsewhere"
    return ""


def _fitted(name: str, text: str, config: Config, config_path: str | None) -> str:
    account = config.server.user or ACCOUNT
    match name:
        case "postroom.service":
            command = [sys.executable, "-m", "postroom.cli.main"]
            if config_path:
                command += ["--config", str(Path(config_path).absolute())]
            return text.replace("/usr/bin/postroom serve", " ".join(map(_quoted, [*command, "serve"])))
        case "postroom.socket":
            lines = "\n".join(f"ListenStream={_stream(each)}" for each in config.milter.listen)
            return text.replace("ListenStream=127.0.0.1:12768", lines)
        case "postroom.sysusers":
            return text.replace("u postroom ", f"u {account} ").replace('user = "postroom"', f'user = "{account}"')
        case "postroom.tmpfiles":
            owner = f"{account} {config.server.group or account}"
            mode = "0755" if _shared(config) else "0750"
            return text.replace("/run/postroom 0750", f"/run/postroom {mode}").replace(
                "postroom postroom -", f"{owner} -"
            )
        case _:
            return text


def _shared(config: Config) -> bool:
    """Whether every user has to reach a socket in the run directory."""
    return any(Path(each.path).is_relative_to(config.paths.run) for each in config.handover.listen)


def _stream(address: SocketAddress) -> str:
    """systemd.socket(5)"""
    match address.family:
        case "unix":
            return address.path
        case "inet6":
            return f"[{address.host}]:{address.port}"
        case _:
            return f"{address.host}:{address.port}"


def _quoted(word: str) -> str:
    """systemd.service(5), COMMAND LINES: specifiers, variables and blanks lose their meaning."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return '"' + word.replace('"', '\\"') + '"' if set(word) & set(" '\"") else word
