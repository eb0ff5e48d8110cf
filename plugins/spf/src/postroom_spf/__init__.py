"""SPF (RFC 7208) for Postroom; `SpfFinding` is what other handlers may read of it."""

from postroom_spf.result import Identity, SpfFinding, SpfResult

__all__ = ["Identity", "SpfFinding", "SpfResult"]
