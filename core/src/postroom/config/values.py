"""What a setting can be beyond numbers and text: durations, sizes, sockets, networks; as they are written, and read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

Network = IPv4Network | IPv6Network


class Duration(float):
    """Seconds; written as "90s", "5m", "36d" or a plain number of seconds."""

    def __str__(self) -> str:
        for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
            if self and self % length == 0:
                return f"{int(self // length)}{unit}"
        return f"{self:g}s" if self >= 1 or not self else f"{self * 1000:g}ms"


class Size(int):
    """Octets; written as "50M", "64K" or a plain number."""

    def __str__(self) -> str:
        for length, unit in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
            if self and self % length == 0:
                return f"{int(self) // length}{unit}"
        return f"{int(self)}"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where to listen or connect: `inet:host:port`, `inet6:[host]:port`, `unix:/path`."""

    family: str  # "inet", "inet6", "unix"
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        match self.family:
            case "unix":
                return f"unix:{self.path}"
            case "inet6":
                return f"inet6:[{self.host}]:{self.port}"
            case _:
                return f"inet:{self.host}:{self.port}"


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, None: 1}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_INET = re.compile(r"inet:([^:\[\]\s]+):(\d{1,5})")
_INET6 = re.compile(r"inet6:\[([0-9a-fA-F:.]+)\]:(\d{1,5})")


def parse_duration(text: str) -> Duration:
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(f'{text!r} is no duration: write "90s", "5m", "12h" or "36d"')
    return Duration(float(found[1]) * _DURATION_UNITS[found[2]])


def parse_size(text: str) -> Size:
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f'{text!r} is no size: write "64K", "50M" or a number of octets')
    return Size(int(found[1]) * _SIZE_UNITS[found[2].upper()])


def parse_socket(text: str) -> SocketAddress:
    if text.startswith("unix:/"):
        return SocketAddress("unix", path=text[5:])
    for pattern, family in ((_INET, "inet"), (_INET6, "inet6")):
        if (found := pattern.fullmatch(text)) and int(found[2]) <= 65535:
            return SocketAddress(family, host=found[1], port=int(found[2]))
    raise ValueError(f'{text!r} is no socket: write "inet:127.0.0.1:12768", "inet6:[::1]:12768" or "unix:/path"')


def parse_network(raw: Any) -> Network:
    try:
        return ip_network(str(raw), strict=False)
    except ValueError:
        raise ValueError(f"{raw!r} is no network: write 192.0.2.0/24 or 2001:db8::/32") from None
