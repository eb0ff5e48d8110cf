"""Settings to the servers that they name."""

from __future__ import annotations

from collections.abc import Sequence

from postroom_antivirus.clamd import ClamdEngine
from postroom_antivirus.engine import Engine
from postroom_antivirus.icap_engine import IcapEngine, Violations
from postroom_antivirus.settings import AntivirusSettings, DrwebSettings, IcapSettings, Protocol

# Dr.Web ICAPD tells the versions of its engine and virus bases only to who asks (manual, Operating Principles).
_DRWEB_OPTIONS = {"DrWeb-Get-Scan-Status": "Yes"}


def protocol_of(settings: AntivirusSettings) -> Protocol:
    if isinstance(settings, DrwebSettings):
        return settings.protocol
    return Protocol.ICAP if isinstance(settings, IcapSettings) else Protocol.CLAMD


def engines_of(settings: AntivirusSettings) -> Sequence[Engine]:
    """In order of preference."""
    timeout = float(settings.connect_timeout)
    if not isinstance(settings, IcapSettings) or protocol_of(settings) is Protocol.CLAMD:
        return [ClamdEngine(address, timeout) for address in settings.servers]
    is_drweb = isinstance(settings, DrwebSettings)
    violations = Violations.SCAN_ERRORS if is_drweb else Violations.THREATS
    fields = _DRWEB_OPTIONS if is_drweb else {}
    return [
        IcapEngine(address, timeout, settings.service, settings.preview, violations, fields)
        for address in settings.servers
    ]


def source_of(settings: AntivirusSettings) -> tuple[object, ...]:
    """What makes two scans of the same octets the same."""
    if isinstance(settings, IcapSettings):
        return (protocol_of(settings), settings.servers, settings.service, settings.preview)
    return (protocol_of(settings), settings.servers)
