"""The mail that tells a mailbox's owner that it is getting full (RFC 3834: generated, never answered)."""

from __future__ import annotations

import email.policy
import email.utils
import re
from dataclasses import dataclass
from email.message import EmailMessage
from importlib.resources import files
from pathlib import Path
from string import Template

from postroom.mail import Address

DEFAULT_LANGUAGE = "en"
MAX_TEXT = 65536

_NAME = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8})*")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a warning says."""

    address: Address
    used: int
    limit: int
    languages: tuple[str, ...] = ()

    @property
    def percent(self) -> int:
        return self.used * 100 // self.limit if self.limit else 0


class InvalidText(ValueError):
    """What is wrong with a text of one's own, in one line."""


def compose(facts: Facts, sender: str, host: str, now: float, texts: Path | None = None) -> bytes:
    """The whole mail, CRLF line ends. InvalidText when an own text is wrong."""
    language, subject, body = find_text(facts.languages, texts)
    words = {
        "address": facts.address.text,
        "used": readable(facts.used),
        "limit": readable(facts.limit),
        "percent": str(facts.percent),
    }
    mail = EmailMessage(policy=email.policy.SMTP)
    try:
        mail["Subject"] = " ".join(Template(subject).substitute(words).split())
        text = Template(body).substitute(words)
    except (KeyError, ValueError) as error:
        raise InvalidText(
            f"text {language}: {error} is no placeholder: $address, $used, $limit, $percent are"
        ) from None
    mail["From"] = sender or f"postmaster@{facts.address.domain}"
    mail["To"] = facts.address.text
    mail["Date"] = email.utils.formatdate(now)
    mail["Message-ID"] = email.utils.make_msgid(domain=host or None)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834 5
    mail["Precedence"] = "bulk"
    mail["Content-Language"] = language
    mail.set_content(text, cte="quoted-printable")
    return bytes(mail)


def find_text(languages: tuple[str, ...], texts: Path | None) -> tuple[str, str, str]:
    """(language, subject, body) in the first language that there is a text in: `pt-br`, then `pt`, then English."""
    wanted = [name for each in languages for name in _names(each)]
    for name in dict.fromkeys([*wanted, DEFAULT_LANGUAGE]):
        text = _own(name, texts) if texts is not None else None
        if text is None:
            ours = files("postroom_quota") / "texts" / f"{name}.txt"
            text = ours.read_text(encoding="utf-8") if ours.is_file() else None
        if text is not None:
            subject, _, body = text.partition("\n\n")
            if not body.strip():
                raise InvalidText(f"text {name}: it is a subject, an empty line, and the text")
            return name, subject, body
    raise AssertionError("there is an English text")


def readable(octets: int) -> str:
    amount, unit = float(octets), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit and amount < 100 else f"{amount:.0f} {_UNITS[unit]}"


def _names(language: str) -> list[str]:
    lowered = language.lower().replace("_", "-")
    if not _NAME.fullmatch(lowered):
        return []
    return [lowered, lowered.partition("-")[0]]


def _own(name: str, texts: Path) -> str | None:
    try:
        with (texts / f"{name}.txt").open("rb") as file:
            return file.read(MAX_TEXT).decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise InvalidText(f"{texts / name}.txt: not UTF-8; save it as UTF-8 text") from None
    except OSError as error:
        raise InvalidText(f"{texts / name}.txt: {error.strerror}") from None
