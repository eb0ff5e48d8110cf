"""Addresses of the envelope, as text and as what they are compared by."""

from __future__ import annotations

import re

_SOURCE_ROUTE = re.compile(r"@[^:\[\]]*:(?=[^@]*@)")  # RFC 5321 4.1.1.3: to be ignored
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_DOT_STRING = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\\\].]+(?:\.[^\x00-\x20\x7f\"(),:;<>@\[\\\].]+)*")


def to_a_label(domain: str) -> str:
    """The domain in lower-case A-label form (RFC 5890 2.3.2.1), for comparison only; odd input comes back as it is."""
    if domain.isascii():
        return domain.lower().rstrip(".")
    import idna  # 15 ms of tables that an all-ASCII host never needs

    try:
        return idna.encode(domain.rstrip("."), uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        return domain.lower()


class Address:
    """A mailbox of the envelope (RFC 5321 4.1.2) without angle brackets; the empty one is the null sender.

    `domain`: lower-case A-label form; empty for the null sender and for an address without `@`. `key`: the form in
    which addresses are compared: lower case, domain as A-labels. Two addresses are equal when their text is. A plain
    class, because every mail makes some and asks all of it.
    """

    __slots__ = ("domain", "key", "local_part", "text")

    def __init__(self, text: str = "") -> None:
        self.text = text
        local_part, at, domain = text.rpartition("@")
        if at:
            self.local_part, self.domain = local_part, to_a_label(domain)
            self.key = f"{local_part.lower()}@{self.domain}"
        else:
            self.local_part, self.domain, self.key = text, "", text.lower()

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Address) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Address({self.text!r})"

    def without_tag(self, delimiter: str) -> str:
        """The key of `user@d` for `user+tag@d`; the plain key when there is no tag."""
        local, separator, _ = self.local_part.partition(delimiter) if delimiter else (self.local_part, "", "")
        if separator and local.startswith('"') and self.local_part.endswith('"'):
            local = _without_needless_quotes(local + '"') if len(local) > 1 else ""
        return f"{local.lower()}@{self.domain}" if separator and local else self.key

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return bool(self.text)


NULL_SENDER = Address("")


def address_from_wire(raw: bytes) -> Address:
    """The address in `<…>`, or bare, as MAIL and RCPT carry it, less its source route and quotes that mean nothing."""
    raw = raw.strip()
    if raw.startswith(b"<"):
        raw = raw[1:].removesuffix(b">")
    text = raw.decode("utf-8", "surrogateescape")
    if text.startswith("@"):
        text = _SOURCE_ROUTE.sub("", text)
    if '"' in text or "\\" in text:
        local, at, domain = text.rpartition("@")
        text = f"{_without_needless_quotes(local)}{at}{domain}"
    return Address(text)


def _without_needless_quotes(local: str) -> str:
    """The same local part in the form that RFC 5321 4.1.2 asks for: quoted only where it has to be."""
    quoted = len(local) > 1 and local.startswith('"') and local.endswith('"')
    plain = _QUOTED_PAIR.sub(r"\1", local[1:-1] if quoted else local)
    return plain if _DOT_STRING.fullmatch(plain) else local
