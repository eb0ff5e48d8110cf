"""Virus scanners for Postroom; `ScanFinding` is what other handlers may read of them."""

from postroom_antivirus.engine import ScanFinding, ScanResult, Status

__all__ = ["ScanFinding", "ScanResult", "Status"]
