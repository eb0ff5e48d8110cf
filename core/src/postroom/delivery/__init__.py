"""Hands a mail on after before-local: into a Maildir, to an LMTP server, or to a command.

Whatever the kind, nothing is reported as delivered before somebody else holds the mail durably.
"""

from __future__ import annotations

from postroom.config import Config, DeliveryKind
from postroom.delivery.lists import ListDelivery
from postroom.delivery.parcel import Delivery, Parcel
from postroom.delivery.report import Report
from postroom.hookspecs import Clock, Directory, Logger

__all__ = ["Delivery", "Parcel", "Report", "open_delivery"]


def open_delivery(config: Config, directory: Directory, clock: Clock, log: Logger) -> Delivery:
    """The delivery that `[delivery]` asks for, and lists that the directory knows beside it."""
    return ListDelivery(_for_mailboxes(config, directory, clock, log), config, directory, log)


def _for_mailboxes(config: Config, directory: Directory, clock: Clock, log: Logger) -> Delivery:
    settings = config.delivery
    match settings.kind:
        case DeliveryKind.MAILDIR:
            from postroom.delivery.maildir import MaildirDelivery

            return MaildirDelivery(settings, config.host, config.host_name, directory, clock, log)
        case DeliveryKind.LMTP:
            from postroom.delivery.next_hop import NextHopDelivery

            assert settings.next_hop is not None  # checked by DeliverySettings
            return NextHopDelivery(
                settings.next_hop,
                settings.timeout,
                config.host_name,
                log,
                delimiter=config.host.recipient_delimiter,
                folder_delimiter=settings.folder_delimiter,
            )
        case DeliveryKind.COMMAND:
            from postroom.delivery.command import CommandDelivery

            delimiter = config.host.recipient_delimiter
            return CommandDelivery(settings.command, settings.timeout, log, delimiter=delimiter)
