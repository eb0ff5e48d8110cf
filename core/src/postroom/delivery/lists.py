"""Delivery to a list manager: addresses for which the directory names a next hop of their own."""

from __future__ import annotations

import threading
from pathlib import Path

from postroom.config import Config, SocketAddress, parse_socket
from postroom.delivery.command import CommandDelivery
from postroom.delivery.next_hop import NextHopDelivery
from postroom.delivery.parcel import Delivery, Parcel
from postroom.delivery.report import UNAVAILABLE, Report, disabled
from postroom.hookspecs import Directory, Logger
from postroom.mail import Address

LMTP = "lmtp:"
COMMAND = "command"


class ListDelivery:
    """Who is no list gets mail the way that `[delivery] kind` says."""

    def __init__(self, mailboxes: Delivery, config: Config, directory: Directory, log: Logger) -> None:
        self._mailboxes, self._config, self._directory, self._log = mailboxes, config, directory, log
        self._servers: dict[SocketAddress, NextHopDelivery] = {}
        self._lock = threading.Lock()

    def final(self, recipient: Address) -> bool:
        chosen = self._chosen(recipient)
        return not isinstance(chosen, Report) and chosen.final(recipient)

    def check(self, recipient: Address, root: Path | None = None) -> Report | None:
        chosen = self._chosen(recipient)
        return chosen if isinstance(chosen, Report) else chosen.check(recipient, root)

    def deliver(self, parcel: Parcel) -> Report:
        chosen = self._chosen(parcel.recipient)
        return chosen if isinstance(chosen, Report) else chosen.deliver(parcel)

    def close(self) -> None:
        with self._lock:
            servers, self._servers = list(self._servers.values()), {}
        for server in (self._mailboxes, *servers):
            server.close()

    def _chosen(self, recipient: Address) -> Delivery | Report:
        """Who hands on the recipient's mail, or why nobody can."""
        mailbox = self._directory.mailbox(recipient)
        if mailbox is None or not mailbox.next_hop:
            return self._mailboxes
        if not mailbox.enabled:
            return disabled()
        if mailbox.next_hop == COMMAND and self._config.delivery.list_command:
            return self._program()
        if mailbox.next_hop.startswith(LMTP):
            try:
                return self._server(parse_socket(mailbox.next_hop.removeprefix(LMTP)))
            except ValueError:
                pass
        self._log.error(
            "next hop of a list cannot be used; set [delivery] list_command, or name lmtp:SOCKET",
            recipient=recipient.text,
            next_hop=mailbox.next_hop,
        )
        return UNAVAILABLE

    def _program(self) -> CommandDelivery:
        settings = self._config.delivery
        delimiter = self._config.host.recipient_delimiter
        return CommandDelivery(settings.list_command, settings.timeout, self._log, delimiter=delimiter)

    def _server(self, target: SocketAddress) -> NextHopDelivery:
        with self._lock:
            if target not in self._servers:
                timeout, name = self._config.delivery.timeout, self._config.host_name
                self._servers[target] = NextHopDelivery(target, timeout, name, self._log)
            return self._servers[target]
