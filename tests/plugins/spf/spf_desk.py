"""What tests of SPF do: receive a mail as a worker would, from a zone in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postroom.config import Config
from postroom.mail import AuthenticationResult, Envelope, InsertField
from postroom.testing import FakeServices, StaticResolver, envelope, message
from postroom.verdict import Verdict
from postroom_spf.handler import SpfHandler
from postroom_spf.result import SpfFinding
from postroom_spf.settings import SpfSettings

CLIENT = "203.0.113.5"

Zone = Mapping[tuple[str, str], Sequence[Any] | Exception]


class Desk:
    """One handler with its services; `zone` may be changed at any time."""

    def __init__(self, directory: Path, config: Config | None = None) -> None:
        self.services = FakeServices(directory, config=config or Config())
        self.handler = SpfHandler()

    @property
    def resolver(self) -> StaticResolver:
        assert isinstance(self.services.dns, StaticResolver)
        return self.services.dns

    def zone(self, records: Zone) -> None:
        self.services.dns = StaticResolver(records)

    def policy(self, record: str, domain: str = "sender.example") -> None:
        """One domain with one record, and nothing else."""
        self.zone({(domain, "TXT"): (record.encode(),)})

    def receive(self, mail: Envelope | None = None, header: str = "", **settings: Any) -> Verdict:
        octets = (header.replace("\n", "\r\n") + "From: alice@sender.example\r\n\r\nhello\r\n").encode()
        return self.handler.before_queue(
            mail or envelope(client=CLIENT), message(octets), SpfSettings(**settings), self.services
        )

    def check(self, mail: Envelope | None = None, **settings: Any) -> SpfFinding:
        finding = self.receive(mail, **settings).finding
        assert isinstance(finding, SpfFinding)
        return finding


def received_spf(verdict: Verdict) -> str:
    """The first Received-SPF field, unfolded."""
    field = next(edit for edit in verdict.edits if isinstance(edit, InsertField))
    assert (field.name, field.position) == (b"Received-SPF", 0)
    return field.value.decode("ascii").replace("\r\n", "").strip()


def authentication(verdict: Verdict) -> list[AuthenticationResult]:
    return [edit for edit in verdict.edits if isinstance(edit, AuthenticationResult)]
