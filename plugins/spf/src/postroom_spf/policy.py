"""What a result means for the mail, level by level, and what the peer is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from postroom.verdict import Action, Reply

from postroom_spf.result import Identity, SpfResult
from postroom_spf.settings import Level
from postroom_spf.text import safe

if TYPE_CHECKING:
    from postroom_spf.check import Checked  # brings pyspf

_TEMPERROR = "4.3"  # RFC 7208 8.6
_VALIDATION_FAILED = "7.23"  # RFC 7372 3.2
_VALIDATION_ERROR = "7.24"  # RFC 7372 3.2
_IDENTITY = {Identity.MAIL_FROM: "MAIL FROM", Identity.HELO: "HELO"}


def decide(level: Level, result: SpfResult) -> Action:
    """PASS, DEFER or REJECT."""
    match result:
        case SpfResult.PASS:
            return Action.PASS
        case SpfResult.TEMPERROR:
            return Action.DEFER if level >= Level.DEFER_TROUBLE else Action.PASS
        case SpfResult.FAIL:
            least = Level.REJECT_FAIL
        case SpfResult.SOFTFAIL:
            least = Level.REJECT_SOFTFAIL
        case SpfResult.NEUTRAL:
            least = Level.REJECT_NEUTRAL
        case SpfResult.NONE | SpfResult.PERMERROR:  # RFC 7208 8.7: a broken record may be treated as none
            least = Level.REQUIRE_PASS
        case never:
            assert_never(never)
    return Action.REJECT if level >= least else Action.PASS


def reply(checked: Checked) -> Reply:
    """For a mail that is refused; the words that are the sender domain's own are marked so (RFC 7208 8.4)."""
    identity, domain = _IDENTITY[checked.question.identity], safe(checked.question.domain or "the sender")
    client = str(checked.question.client)
    match checked.result:
        case SpfResult.FAIL if checked.domain_explains:
            text = f"SPF check of {identity} failed\nThe domain {domain} explains:\n{checked.explanation}"
        case SpfResult.FAIL:
            text = f"SPF check of {identity} failed\n{checked.explanation}"
        case SpfResult.SOFTFAIL:
            text = f"SPF check of {identity}: softfail, {domain} does not expect mail from {client}"
        case SpfResult.NEUTRAL:
            text = f"SPF check of {identity}: neutral, {domain} does not vouch for {client}"
        case SpfResult.NONE:
            text = f"SPF check of {identity}: none, {domain} publishes no SPF record"
        case SpfResult.PASS:
            text = f"SPF check of {identity}: pass"
        case SpfResult.TEMPERROR:
            return Reply(f"SPF check of {identity}: DNS trouble with {domain} - try again later", _TEMPERROR)
        case SpfResult.PERMERROR:
            return Reply(f"SPF check of {identity}: the SPF record of {domain} has an error", _VALIDATION_ERROR)
        case never:
            assert_never(never)
    return Reply(text, _VALIDATION_FAILED)
