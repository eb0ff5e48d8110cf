"""A header field with a line of text on outgoing mail, and an observer that counts mails by stage."""

from collections import Counter
from dataclasses import dataclass

from postroom.config import setting
from postroom.hookspecs import HandlerInfo, MailRecord, Need, Placement, hookimpl
from postroom.mail import AddField, Message, header_value
from postroom.registration import OnError, Stage, Type
from postroom.verdict import Verdict, passed, skipped


@dataclass(frozen=True)
class Settings:
    text: str = setting("Sent with Postroom", help="What the field says.")
    field: str = setting("X-Tagline", help="Name of the field.")


class Tagline:
    @hookimpl
    def describe(self) -> HandlerInfo:
        return HandlerInfo(
            summary="adds a header field with a line of text",
            placements=(Placement(Stage.BEFORE_REMOTE, Type.SENDER_DOMAIN, 50),),
            settings=Settings,
            needs=Need.HEADERS,
            on_error=OnError.SKIP,
            edits_message=True,
        )

    @hookimpl
    def before_remote(self, message: Message, settings: Settings) -> Verdict:
        name = settings.field.encode("ascii")
        if message.get(name) is not None:
            return skipped("it has one already")
        return passed(AddField(name, header_value(settings.text)))


class MailCounter:
    def __init__(self) -> None:
        self.mails: Counter[str] = Counter()

    @hookimpl
    def after_mail(self, record: MailRecord) -> None:
        self.mails[record.stage] += 1


handler = Tagline()
counter = MailCounter()
