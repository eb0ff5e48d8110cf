"""Pure: what the header of a mail says about whether it may be answered. Whatever is in it, reading it ends."""

from __future__ import annotations

import email.header
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from postroom.mail import Address, Message

from postroom_autoresponder.template import one_line

MAX_FIELD = 1 << 16  # octets of one field that are looked at
MAX_HEADER = 1 << 18  # octets of all address fields together
MAX_ADDRESSES = 2000  # addresses of one mail that are compared
MAX_WRITERS = 10  # fields that name the writer, and addresses in them
MAX_WRITER_FIELD = 1 << 13
MAX_BROKEN_WORDS = 64  # encoded words that are tried one by one
MAX_REFERENCES = 20  # message ids that a reply refers to, as most mail programs keep
MAX_MESSAGE_ID = 250
MAX_SUBJECT = 1 << 13  # characters of a subject before it is decoded: an encoded word may hold just one
MAX_NAME = 100

_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc", b"resent-to", b"resent-cc", b"resent-bcc")  # RFC 5230 4.5
_LEXEMES = re.compile(r'"(?:[^"\\]|\\.)*"|[(),:;<>\\]|[^"(),:;<>\\]+|"', re.DOTALL)
_ENCODED_WORD = re.compile(r"=\?[^?\s]*\?[bqBQ]\?[^?]*\?=")
_MESSAGE_ID = re.compile(rf"<[\x21-\x3b\x3d\x3f-\x7e]{{1,{MAX_MESSAGE_ID}}}>")
_LIST_FIELDS = frozenset((b"mailing-list", b"x-mailing-list", b"x-ml-name", b"x-beenthere", b"x-loop"))
_WRITER_FIELDS = (b"from", b"sender", b"reply-to")
_SPAM_FIELDS = (b"X-Spam-Flag", b"X-Spam-Status", b"X-Spam")  # SpamAssassin's, and rspamd's
_SAID_SO_BEFORE = (b"X-Autoreply", b"X-Autorespond", b"X-Auto-Reply-From", b"X-Autoreply-From", b"X-Mail-Autoreply")
_NOT_PERSONAL = frozenset(("bulk", "list", "junk", "auto_reply", "auto-reply"))
_UNSOLICITED = re.compile(r"(?:oof|autoreply|all)")


@dataclass(frozen=True)
class HeaderFacts:
    """`automatic`, `list_mail` and `suppressed` name the field that says so; empty: none does. `references` are the
    message ids that a reply refers to, `message_id` last; `parent` is what the mail itself answers. `authors` are in
    From, `writers` there, in Sender and in Reply-To; `names` are their display names by the form of the address that is
    compared.
    """

    automatic: str = ""
    list_mail: str = ""
    suppressed: str = ""
    spam: bool = False
    recipients: tuple[Address, ...] = ()
    authors: tuple[Address, ...] = ()
    writers: tuple[Address, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    sender_name: str = ""
    message_id: str = ""
    parent: str = ""
    references: tuple[str, ...] = ()
    date: str = ""


def header_facts(message: Message) -> HeaderFacts:
    message_id = _first_id(_text(message, b"Message-ID"))
    authors = _writers(message, (b"from",))
    writers = _writers(message, _WRITER_FIELDS)
    return HeaderFacts(
        automatic=_automatic(message),
        list_mail=_list_mail(message),
        suppressed=_suppressed(message),
        spam=any(found.text.lower().startswith("yes") for name in _SPAM_FIELDS for found in message.get_all(name)),
        recipients=tuple(_recipients(message)),
        authors=tuple(Address(address) for _, address in authors),
        writers=tuple(Address(address) for _, address in writers),
        names={Address(address).key: _shown(name) for name, address in reversed(writers) if name},
        subject=one_line(decoded(_text(message, b"Subject")[:MAX_SUBJECT]), MAX_SUBJECT),
        sender_name=_shown(authors[0][0]) if authors else "",
        message_id=message_id,
        parent=_parent(message),
        references=_references(message, message_id),
        date=one_line(_text(message, b"Date"), 60),
    )


def _text(message: Message, name: bytes) -> str:
    return (message.get(name) or "")[:MAX_FIELD]


def _automatic(message: Message) -> str:
    """RFC 3834 2 and 5: made by a program."""
    for found in message.get_all(b"Auto-Submitted"):
        # keyword, then parameters; comments may stand anywhere
        if _plain(found.text).partition(";")[0].strip().lower() != "no":
            return "Auto-Submitted"
    for name in _SAID_SO_BEFORE:
        if message.get(name) is not None:
            return name.decode()
    if _plain(_text(message, b"Content-Type")).strip().lower().startswith("multipart/report"):  # RFC 6522
        return "Content-Type"
    return ""


def _list_mail(message: Message) -> str:
    for found in message.fields:
        name = found.name.strip().lower()
        if name.startswith(b"list-") or name in _LIST_FIELDS:  # RFC 2919, RFC 2369, and what was before them
            return found.name.strip().decode("ascii", "replace")
        if name == b"precedence" and _plain(found.text).strip(' "').lower() in _NOT_PERSONAL:
            return "Precedence"
    return ""


def _suppressed(message: Message) -> str:
    """[MS-OXCMAIL] 2.1.3.2.20: the sender asks for no automatic reply."""
    for found in message.get_all(b"X-Auto-Response-Suppress"):
        if any(_UNSOLICITED.fullmatch(word.strip().lower()) for word in found.text[:MAX_FIELD].split(",")):
            return "X-Auto-Response-Suppress"
    return ""


def _recipients(message: Message) -> Iterator[Address]:
    left, count = MAX_HEADER, 0
    for found in message.fields:
        if found.name.strip().lower() in _RECIPIENT_FIELDS and left > 0:
            text = found.text[: min(left, MAX_FIELD)]
            left -= len(text)
            for address in addresses_in(text):
                yield address
                count += 1
                if count >= MAX_ADDRESSES:
                    return


def addresses_in(text: str) -> Iterator[Address]:
    """The addresses of an address list (RFC 5322 3.4), groups too; names and comments are none, however odd."""
    for _, address in _mailboxes(text):
        yield Address(address)


def _mailboxes(text: str) -> Iterator[tuple[str, str]]:
    """(display name, address) of each mailbox of an address list. Never recursive: a peer may nest without end."""
    name: list[str] = []
    inside: list[str] | None = None  # between < and >
    angle = ""
    depth = 0  # of comments
    for found in _LEXEMES.finditer(text):
        word = found[0]
        if word == "(":
            depth += 1
        elif word == ")":
            depth = max(0, depth - 1)
        elif depth:
            continue
        elif word == "<":
            inside = []
        elif word == ">":
            angle, inside = "".join(inside or ()), None
        elif word in (",", ";", ":") and inside is None:
            if word == ":":  # what came before it is the name of a group
                name, angle = [], ""
            if mailbox := _mailbox(name, angle):
                yield mailbox
            name, angle = [], ""
        elif inside is not None:
            if word == ":":  # an obsolete route (RFC 5322 4.4)
                inside = []
            else:
                inside.append(word)
        else:
            name.append(word)
    if mailbox := _mailbox(name, angle or "".join(inside or ())):
        yield mailbox


def _mailbox(name: list[str], angle: str) -> tuple[str, str] | None:
    display = "".join(name).strip()
    address = "".join((angle or display).split()) if '"' not in (angle or display) else (angle or display).strip()
    if "@" not in address or (not angle and _is_quoted(display)):
        return None
    return (display if angle else "", address)


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


def _writers(message: Message, fields: tuple[bytes, ...]) -> list[tuple[str, str]]:
    """(display name, address) of those who wrote the mail, or say so; the first few, as there is one of them."""
    texts = (found.text[:MAX_WRITER_FIELD] for found in message.fields if found.name.strip().lower() in fields)
    mailboxes = (mailbox for text in islice(texts, MAX_WRITERS) for mailbox in _mailboxes(text))
    return list(islice(mailboxes, MAX_WRITERS))


def _shown(display: str) -> str:
    """A display name as it is read."""
    if _is_quoted(display):
        display = re.sub(r"\\(.)", r"\1", display[1:-1], flags=re.DOTALL)
    return one_line(decoded(display), MAX_NAME)


def decoded(text: str) -> str:
    """Encoded words (RFC 2047) decoded, as far as they are any; raw octets taken for UTF-8, else for Latin-1."""
    octets = text.encode("utf-8", "surrogateescape")
    try:
        plain = octets.decode("utf-8")
    except UnicodeDecodeError:
        plain = octets.decode("latin-1")
    if "=?" not in plain:
        return plain
    if whole := _decoded_words(plain):
        return whole
    return _ENCODED_WORD.sub(lambda found: _decoded_words(found[0]) or found[0], plain, count=MAX_BROKEN_WORDS)


def _decoded_words(text: str) -> str:
    """Empty where one of them cannot be decoded."""
    try:
        parts = email.header.decode_header(text)
        return "".join(
            part if isinstance(part, str) else part.decode(_charset(charset), "replace") for part, charset in parts
        )
    except Exception:  # noqa: BLE001  # the library raises many things for what a peer may write
        return ""


def _charset(name: str | None) -> str:
    try:
        "".encode(name or "latin-1")
    except (LookupError, ValueError):
        return "utf-8"
    return name or "latin-1"


def _plain(text: str) -> str:
    """Without comments."""
    kept, depth = [], 0
    for character in text[:MAX_FIELD]:
        depth += character == "("
        if not depth:
            kept.append(character)
        depth -= character == ")" and depth > 0
    return "".join(kept)


def _first_id(text: str) -> str:
    found = _MESSAGE_ID.search(text)
    return found[0] if found else ""


def _parent(message: Message) -> str:
    """RFC 5322 3.6.4: In-Reply-To names it, or else it is the last of References."""
    return _first_id(_text(message, b"In-Reply-To")) or (_MESSAGE_ID.findall(_last(message, b"References")) or [""])[-1]


def _references(message: Message, message_id: str) -> tuple[str, ...]:
    """RFC 5322 3.6.4, bounded: the first says which conversation it is, the last ones where in it."""
    known = _MESSAGE_ID.findall(_last(message, b"References"))
    if not known:
        answered = _MESSAGE_ID.findall(_text(message, b"In-Reply-To"))
        known = answered if len(answered) == 1 else []
    ids = list(dict.fromkeys([*known, message_id] if message_id else known))
    if message_id and ids[-1] != message_id:
        ids.remove(message_id)
        ids.append(message_id)
    return tuple(ids if len(ids) <= MAX_REFERENCES else [ids[0], *ids[1 - MAX_REFERENCES :]])


def _last(message: Message, name: bytes) -> str:
    """Of a huge field both ends: the first and the last references count."""
    text = message.get(name) or ""
    return text if len(text) <= MAX_FIELD else f"{text[: MAX_FIELD // 2]} {text[-MAX_FIELD // 2 :]}"
