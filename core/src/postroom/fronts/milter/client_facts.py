"""Who speaks to the mail server: from CONNECT, HELO and macros to the facts that handlers are given."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from postroom.mail import Session

_UNKNOWN = (b"", b"unknown")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def parse_address(octets: bytes) -> IPv4Address | IPv6Address | None:
    text = _text(octets).strip("[]")
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


class ClientFacts:
    """What is known of one connection. Macros are raw, by name as sent."""

    __slots__ = ("_cached", "_known", "_name", "_packet_address", "_port", "address", "helo", "macros")

    def __init__(self) -> None:
        self.macros: dict[bytes, bytes] = {}
        self._name = b""
        self._packet_address = b""
        self._port = 0
        self.address: IPv4Address | IPv6Address | None = None
        self.helo = ""
        self._cached: Session | None = None
        self._known: tuple[str, str, str] = ("", "", "")

    def connected(self, name: bytes, port: int, address: bytes) -> None:
        self._name, self._port, self._packet_address = name, port, address
        self.address = parse_address(self.macros.get(b"{client_addr}", b"")) or parse_address(address)
        self._cached = None

    def greeted(self, helo: bytes) -> None:
        self.helo = _text(helo)
        self._cached = None

    @property
    def submitted_locally(self) -> bool:
        """sendmail(1), a bounce, a forward. Postfix says port 0 then; a client faked by XCLIENT may have port 0 too, so
        the port of our own side decides when we know it.
        """
        daemon_port = self.macros.get(b"{daemon_port}")
        if daemon_port:
            return daemon_port == b"0"
        port = self.macros.get(b"{client_port}") or str(self._port).encode()
        return port == b"0" and self._name == b"localhost" and (self.address is None or self.address.is_loopback)

    def session(self, auth_user: str, auth_type: str) -> Session:
        """The facts for one mail; made anew only when something changed."""
        tls = _text(self.macros.get(b"{tls_version}", b""))
        known = (auth_user, auth_type, tls)
        if self._cached is None or self._known != known:
            self._cached, self._known = self._make(*known), known
        return self._cached

    def _make(self, auth_user: str, auth_type: str, tls: str) -> Session:
        macros = self.macros
        name, pointer = macros.get(b"{client_name}", self._name), macros.get(b"{client_ptr}", b"")
        port = macros.get(b"{client_port}", b"")
        return Session(
            client_address=self.address,
            client_port=int(port) if port.isdigit() and len(port) < 6 else self._port,
            client_name="" if name in _UNKNOWN or name.startswith(b"[") else _text(name),
            client_ptr="" if pointer in _UNKNOWN else _text(pointer),
            helo=self.helo,
            auth_user=auth_user,
            auth_type=auth_type,
            tls_version=tls,
            server_name=_text(macros.get(b"j", b"")),
            submitted_locally=self.submitted_locally,
        )
