"""Pure: the reply as a mail (RFC 3834 3, RFC 5322, RFC 2045). Nothing from the mail that is answered ends a field."""

from __future__ import annotations

import email.header
import email.policy
import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from html.parser import HTMLParser

from postroom.mail import Address

from postroom_autoresponder.facts import HeaderFacts
from postroom_autoresponder.responder import Attachment, Responder
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.template import one_line, render, render_html, render_subject

MAX_LINE = 76
LONGEST_PLAIN_LINE = 900  # RFC 5322 2.1.1 allows 998 octets
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_BLOCKS = frozenset("address article blockquote br dd div dl dt h1 h2 h3 h4 h5 h6 hr li ol p pre table tr ul".split())  # noqa: SIM905
_UNSEEN = frozenset(("head", "script", "style", "title"))


@dataclass(frozen=True)
class Wording:
    """What a reply says, filled in; made before anything is remembered, because a template may be wrong."""

    subject: str
    text: str
    html: str


def values_of(sender: Address, header: HeaderFacts, mailbox: str, responder: Responder) -> Mapping[str, str]:
    """What the fields of template.FIELDS stand for."""
    address = one_line(sender.text, 320)
    return {
        "subject": header.subject,
        "sender": address,
        "name": header.sender_name or address,
        "mailbox": mailbox,
        "owner": responder.name or mailbox,
        "date": header.date,
        "start": responder.start,
        "end": responder.end,
    }


def word(responder: Responder, settings: AutoresponderSettings, values: Mapping[str, str]) -> Wording:
    """TemplateError when a text cannot be filled in."""
    return Wording(
        render_subject(responder.subject or settings.subject, values),
        _clean(render(responder.text, values)),
        _clean(render_html(responder.html, values)),
    )


@dataclass(frozen=True)
class Head:
    """Who writes to whom, about what, when."""

    mailbox: Address
    name: str
    to: Address
    reply_to: str
    message_id: str
    date: float
    answered: HeaderFacts


def build_reply(head: Head, wording: Wording, attachments: tuple[Attachment, ...]) -> bytes:
    """The mail with CRLF line ends."""
    content = _content(wording, attachments).as_bytes(policy=email.policy.SMTP)
    fields = [
        b"Date: " + email.utils.format_datetime(datetime.fromtimestamp(head.date, UTC)).encode(),
        b"From: " + mailbox_field(head.name, head.mailbox),
        b"To: " + mailbox_field(head.answered.names.get(head.to.key, ""), head.to),
        b"Subject: " + encoded(wording.subject, len("Subject: ")),
        b"Message-ID: " + head.message_id.encode("utf-8", "replace"),
    ]
    if head.reply_to:
        fields.append(b"Reply-To: " + mailbox_field("", Address(head.reply_to)))
    if head.answered.message_id:  # RFC 3834 3.1.6, 3.1.7
        fields.append(b"In-Reply-To: " + head.answered.message_id.encode("ascii"))
    if head.answered.references:
        fields.append(b"References: " + b"\r\n ".join(each.encode("ascii") for each in head.answered.references))
    fields.append(b"Auto-Submitted: auto-replied")  # RFC 3834 3.1.8 and 5
    fields.append(b"X-Auto-Response-Suppress: All")  # for servers that read nothing else
    return b"".join(field + b"\r\n" for field in fields) + content


def encoded(text: str, taken: int = 0) -> bytes:
    """Unstructured text as it stands in a field, in encoded words where it has to be (RFC 2047)."""
    # A word that does not fit on a line cannot be folded as it is (RFC 5322 2.1.1).
    plain = text.isascii() and "=?" not in text and all(len(each) < MAX_LINE for each in text.split())
    header = email.header.Header(text, "us-ascii" if plain else "utf-8", maxlinelen=MAX_LINE, header_name="x" * taken)
    return header.encode(linesep="\r\n").encode("ascii")


def mailbox_field(name: str, address: Address) -> bytes:
    """`name <address>`; a local part that is not ASCII stays UTF-8 (RFC 6532)."""
    spec = _octets(with_plain_domain(address).text)
    if not name:
        return b"<%b>" % spec if b" " in spec or b"," in spec else spec
    if _ATOMS.fullmatch(name) and "=?" not in name:
        phrase = name.encode("ascii")
    elif name.isascii() and name.isprintable() and "=?" not in name:
        phrase = b'"%b"' % re.sub(r'(["\\])', r"\\\1", name).encode("ascii")
    else:
        phrase = encoded(name, len("From: "))
    return b"%b <%b>" % (phrase, spec)


def with_plain_domain(address: Address) -> Address:
    """With the domain in A-labels, where that is all a mail server needs that knows nothing of RFC 6531."""
    if address.text.isascii() or not address.local_part.isascii() or not address.domain.isascii():
        return address
    return Address(f"{address.local_part}@{address.domain}")


def _octets(text: str) -> bytes:
    clean = "".join(character for character in text if ord(character) >= 32 and ord(character) != 127)
    return clean.encode("utf-8", "surrogateescape")


def _content(wording: Wording, attachments: tuple[Attachment, ...]) -> EmailMessage:
    """MIME-Version and Content-* alone, and the body."""
    message = EmailMessage()
    text = wording.text or text_of_html(wording.html)
    message.set_content(text, charset="utf-8", cte=_encoding(text))
    if wording.html:
        message.add_alternative(wording.html, subtype="html", charset="utf-8", cte=_encoding(wording.html))
    for attachment in attachments:
        kind, _, subtype = attachment.content_type.partition("/")
        message.add_attachment(attachment.octets, kind, subtype or "octet-stream", filename=attachment.name)
    return message


def _encoding(text: str) -> str:
    plain = text.isascii() and all(len(line) <= LONGEST_PLAIN_LINE for line in text.splitlines())
    return "7bit" if plain else "quoted-printable"


def _clean(text: str) -> str:
    """Text that can be written as UTF-8, with LF line ends and without control characters."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(character for character in text if character in "\n\t" or ord(character) >= 32)
    return text if not text or text.endswith("\n") else text + "\n"


def text_of_html(html: str) -> str:
    """What is to be read in it, for those who read no HTML."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = [" ".join(line.split()) for line in "".join(reader.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002  # HTMLParser's way
        self._unseen += tag in _UNSEEN
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        if tag in _BLOCKS and tag != "br":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(" ".join(data.split("\n")))
