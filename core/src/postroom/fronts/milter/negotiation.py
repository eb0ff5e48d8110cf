"""What to ask of the mail server for one connection: only what some handler may need, decided afresh each time."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.config import BeforeData
from postroom.fronts.milter.wire import (
    MAX_VERSION,
    MIN_VERSION,
    Actions,
    MacroStage,
    Negotiation,
    Protocol,
    VersionConflict,
)
from postroom.pipeline import Demand
from postroom.registration import Stage

_ALWAYS = (
    Protocol.NO_UNKNOWN
    | Protocol.NO_END_OF_HEADER
    | Protocol.QUIET_CONNECT
    | Protocol.QUIET_HELO
    | Protocol.QUIET_MAIL
    | Protocol.QUIET_HEADERS
    | Protocol.QUIET_BODY
    | Protocol.LEADING_SPACE
)
"""Client, HELO and MAIL are always told, never answered: a handler enabled in mid-session must know them."""

MACROS = {
    MacroStage.CONNECT: b"j {client_addr} {client_name} {client_port} {client_ptr} {daemon_port}",
    MacroStage.HELO: b"{tls_version}",
    MacroStage.MAIL: b"i {auth_authen} {auth_type} {mail_addr}",
    MacroStage.RCPT: b"{rcpt_addr} {rcpt_mailer}",
    MacroStage.DATA: b"i",
    MacroStage.END_OF_MESSAGE: b"i",
    MacroStage.END_OF_HEADER: b"",
}
_MACROS_AT_RCPT = b"i {rcpt_addr} {rcpt_mailer}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed for one connection; each `answers_…` says whether that event wants an answer."""

    answer: Negotiation
    headers: bool
    body: bool
    leading_space: bool
    answers_connect: bool
    answers_helo: bool
    answers_mail: bool
    answers_rcpt: bool
    answers_data: bool
    answers_headers: bool
    answers_end_of_header: bool
    answers_body: bool
    answers_unknown: bool

    @property
    def actions(self) -> Actions:
        return self.answer.actions


def agree(offer: Negotiation, demand: Demand, prospect: Demand, before_data: BeforeData) -> Terms:
    """What we answer to the mail server's offer. VersionConflict when it is older than we know.

    Answers are for `demand`, which is enabled; header and body for `prospect` too, which is registered and may be
    enabled while this connection lasts (docs/decisions/milter-live-changes.md).
    """
    if offer.version < MIN_VERSION:
        raise VersionConflict(f"version {offer.version}: {MIN_VERSION} is the least")
    early = demand.wants(Stage.BEFORE_DATA)
    at_rcpt = early and before_data is BeforeData.RCPT
    at_data = early and before_data is BeforeData.DATA
    wish = _ALWAYS
    if not at_rcpt:
        wish |= Protocol.QUIET_RCPT
    if not at_data:
        wish |= Protocol.NO_DATA
    headers, body = prospect.headers or prospect.body, prospect.body
    if not headers:
        wish |= Protocol.NO_HEADERS
    if not body:
        wish |= Protocol.NO_BODY
    protocol = wish & offer.protocol
    actions = offer.actions
    macros = MACROS if Actions.SET_MACROS in actions else {}
    if macros and at_rcpt:
        macros = {**MACROS, MacroStage.RCPT: _MACROS_AT_RCPT}
    answer = Negotiation(min(offer.version, MAX_VERSION), actions, protocol, macros)
    return _terms(answer, headers, body)


def _terms(answer: Negotiation, headers: bool, body: bool) -> Terms:
    protocol = answer.protocol
    return Terms(
        answer,
        # what could not be negotiated away is still not collected
        headers=headers,
        body=body,
        leading_space=Protocol.LEADING_SPACE in protocol,
        answers_connect=Protocol.QUIET_CONNECT not in protocol,
        answers_helo=Protocol.QUIET_HELO not in protocol,
        answers_mail=Protocol.QUIET_MAIL not in protocol,
        answers_rcpt=Protocol.QUIET_RCPT not in protocol,
        answers_data=Protocol.QUIET_DATA not in protocol,
        answers_headers=Protocol.QUIET_HEADERS not in protocol,
        answers_end_of_header=Protocol.QUIET_END_OF_HEADER not in protocol,
        answers_body=Protocol.QUIET_BODY not in protocol,
        answers_unknown=Protocol.QUIET_UNKNOWN not in protocol,
    )
