"""What a responder would say to a mail, for people: nothing is sent, nothing is remembered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from postroom.hookspecs import Services
from postroom.mail import Address, Envelope, Message, parse_message

from postroom_autoresponder.autoresponder import Known, prepare_preview
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.responder import Responder
from postroom_autoresponder.settings import AutoresponderSettings

SAMPLE = b"From: %b\r\nTo: %b\r\nSubject: A sample\r\nMessage-ID: <sample@example.org>\r\n\r\nHello!\r\n"


@dataclass(frozen=True, slots=True)
class Previewed:
    """`mail` is there when there would be a reply."""

    silence: Silence | None
    mail: bytes = b""
    problem: str = ""


def preview_mail(
    mailbox: str,
    responder: Responder,
    sender: str,
    octets: bytes | None,
    settings: AutoresponderSettings,
    services: Services,
) -> Previewed:
    """`octets` None: a sample is answered."""
    message = _sample(sender, mailbox) if octets is None else parse_message(octets)
    envelope = Envelope(sender=Address(sender), recipients=(Address(mailbox),))
    settings = dataclasses.replace(settings, authenticated_only=False, responder="")
    silence, mail, problem = prepare_preview(envelope, message, Known("preview", responder), settings, services)
    return Previewed(silence, mail, problem)


def _sample(sender: str, mailbox: str) -> Message:
    return parse_message(SAMPLE % (sender.encode("utf-8", "replace"), mailbox.encode("utf-8", "replace")))
