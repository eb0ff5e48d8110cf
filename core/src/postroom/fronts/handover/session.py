"""What happens to a mail that a wrapper hands over: its stages, then one answer, and the mail as it is to go on."""

from __future__ import annotations

import dataclasses
import os
import pwd
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import assert_never

from postroom.authentication_results import without_forged
from postroom.config import Config
from postroom.fronts.conclusion import OutOfTime, StageRun
from postroom.fronts.conversation import Peer, SendNow
from postroom.fronts.handover.protocol import Refusal, Request
from postroom.fronts.handover.submission import Submitted, UnreadableRecipients, read_submission
from postroom.fronts.handover.trace import read_queue, read_smtp
from postroom.fronts.handover.wire import Kind, Role, Word, encode
from postroom.fronts.lmtp.authentication import Authentication
from postroom.fronts.traffic import traffic_class
from postroom.hookspecs import Clock, Logger
from postroom.mail import (
    NULL_SENDER,
    Address,
    AuthenticationResult,
    Envelope,
    Field,
    Message,
    Session,
    TrafficClass,
    address_from_wire,
)
from postroom.pipeline import Pipeline
from postroom.quarantine import Quarantine, without_release_mark
from postroom.registration import Stage
from postroom.services.mark import seen_stages, without_marks
from postroom.verdict import DEFER_REPLY, REJECT_REPLY, Action, Disposition, Outcome, Reply

PIECE = 1 << 16

_TEMPORARY: Refusal = (Action.DEFER, Reply("Service unavailable - try again later", "3.0"))
_UNREADABLE: Refusal = (Action.REJECT, Reply("The recipients in the mail cannot be read", "1.3"))
_BUSY: Refusal = (Action.DEFER, Reply("Service busy - try again later", "3.2"))
_DOUBLE_BOUNCE = b"#@[]"  # qmail's sender of a bounce of a bounce
_VERP = b"-@[]"  # at the end of a sender that qmail-send completes for each recipient


@dataclass(frozen=True)
class HandoverParts:
    """What one worker lends to all its sessions. `believed`: uids whose word about the SMTP client counts."""

    pipeline: Pipeline
    quarantine: Quarantine
    config: Config
    clock: Clock
    log: Logger
    believed: frozenset[int]


def believed_uids(users: Iterable[str]) -> frozenset[int]:
    """Root, our own user, and those of `users` that are there."""
    found = {0, os.geteuid()}
    for user in users:
        try:
            found.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            pass  # no qmail here
    return frozenset(found)


def session_factory(parts: HandoverParts) -> Callable[[Peer], HandoverSession]:
    """What the engine calls for each connection."""
    return lambda peer: HandoverSession(parts, peer)


@dataclass(frozen=True)
class _Answer:
    """What goes back. None: as it came."""

    word: Word
    reply: Reply | None = None
    sender: Address | None = None
    recipients: tuple[Address, ...] | None = None
    message: Message | None = None
    out: tuple[tuple[Address, Disposition], ...] = ()


def busy() -> bytes:
    """The answer for a client for whom there is no time at all."""
    return b"".join(_frames(_refused(_BUSY)))


class HandoverSession:
    """One connection's mail."""

    def __init__(self, parts: HandoverParts, peer: Peer) -> None:
        self._parts, self._peer = parts, peer

    def answer(self, request: Request, send: SendNow) -> None:
        """Send the answer. Never raises; `send` says when the client is gone, and then nobody waits for the mail."""
        try:
            answer = _refused(request.refusal) if request.refusal else self._handle(request)
        except Exception as error:  # noqa: BLE001  # whatever went wrong, the mail must come again
            known = isinstance(error, OutOfTime)
            if not known:
                self._parts.log.error("hand-over failed", role=request.role, error=f"{type(error).__name__}: {error}")
            answer = _refused(_BUSY if known else _TEMPORARY)
        for frame in _frames(answer):
            if not send(frame):
                self._parts.log.warning("client went away before it was answered", role=request.role)
                return

    def _handle(self, request: Request) -> _Answer:
        match request.role:
            case Role.QUEUE:
                envelope = self._queue_envelope(request)
                return self._whole(request.message, envelope, (Stage.BEFORE_DATA, Stage.BEFORE_QUEUE))
            case Role.SUBMIT:
                try:
                    submitted = read_submission(request)
                except UnreadableRecipients:
                    return _refused(_UNREADABLE)
                envelope = self._submit_envelope(request, submitted)
                answer = self._whole(submitted.message, envelope, (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE))
                return _explicit(answer, submitted)
            case Role.LOCAL:
                return self._later(request, Stage.BEFORE_LOCAL)
            case Role.REMOTE:
                return self._later(request, Stage.BEFORE_REMOTE)
            case _:
                assert_never(request.role)

    # Envelopes

    def _queue_envelope(self, request: Request) -> Envelope:
        facts, session, traffic = request.facts, Session(submitted_locally=True), TrafficClass.LOCAL
        if "TCPREMOTEIP" in facts:
            if self._peer.uid in self._parts.believed:
                session = _smtp_session(request)
                traffic = traffic_class(session, self._parts.config.host.networks)
                if traffic is TrafficClass.INBOUND and "RELAYCLIENT" in facts:
                    traffic = TrafficClass.LOCAL  # the administrator lets it relay
            else:
                self._parts.log.warning("word about the SMTP client is not believed", uid=self._peer.uid)
                session, traffic = Session(), TrafficClass.INBOUND  # never more trust than it would have without
        process = facts.get("PID", "")
        return Envelope(
            session=session,
            sender=_qmail_sender(request.sender),
            recipients=_addresses(request.recipients),
            queue_id=f"qp{process}" if process.isdigit() else _new_id(),
            traffic=traffic,
        )

    def _submit_envelope(self, request: Request, submitted: Submitted) -> Envelope:
        return Envelope(
            session=Session(submitted_locally=True),
            sender=address_from_wire(request.sender),
            recipients=submitted.recipients,
            queue_id=_new_id(),
            traffic=TrafficClass.LOCAL,
        )

    def _later_envelope(self, request: Request, results: Collection[AuthenticationResult]) -> Envelope:
        """Of a mail that was in qmail's queue: all that is known of its client stands in its trace fields."""
        found = read_queue(request.message.fields)
        session, traffic = Session(), TrafficClass.INBOUND
        if found and found.smtp:
            smtp = found.smtp
            session = Session(
                client_address=smtp.address, client_ptr=smtp.name, helo=smtp.helo, server_name=smtp.server
            )
            traffic = traffic_class(session, self._parts.config.host.networks)
            if any(each.method == "auth" and each.result == "pass" for each in results):
                traffic = TrafficClass.AUTHENTICATED
        elif found:
            session, traffic = Session(submitted_locally=True), TrafficClass.LOCAL
        return Envelope(
            session=session,
            sender=_qmail_sender(request.sender),
            recipients=_addresses(request.recipients),
            queue_id=f"qp{found.process}" if found else _new_id(),
            traffic=traffic,
        )

    # The whole mail, on its way in

    def _whole(self, original: Message, envelope: Envelope, stages: tuple[Stage, ...]) -> _Answer:
        if not envelope.recipients:
            return _Answer(Word.PASS)  # the program behind the wrapper has an answer of its own for that
        seen = self._stages_that_saw(original, envelope)
        wanted = [stage for stage in stages if stage not in seen]
        pipeline = self._parts.pipeline
        run = StageRun(
            pipeline=pipeline,
            log=self._parts.log,
            quarantine=self._parts.quarantine,
            envelope=envelope,
            selection=pipeline.select(envelope, wanted),
            remaining=self._time_limit(),
        )
        trusted = without_forged(original.fields, self._parts.config.authserv_id)
        message = run.released(Message(trusted, original.body), envelope.recipients)
        if stages[-1] is Stage.BEFORE_REMOTE:  # no other front of ours sees this mail
            message = without_marks(without_release_mark(message))
        for stage in wanted:
            outcome = run.run(stage, _going_on(run), None if stage is Stage.BEFORE_DATA else message)
            if outcome is None:
                continue
            if refusal := _refusal(outcome):
                return _refused(refusal)
            message = run.take(outcome, message)
        if envelope.session.auth_user and Stage.BEFORE_QUEUE in stages:
            message = run.with_results(message, [AuthenticationResult("auth", "pass")])  # for later stages
        if run.fates.held:
            self._parts.quarantine.hold(envelope.with_recipients(run.fates.held), message, run.fates.held)
        run.arrived()
        recipients = _going_on(run)
        if not recipients:
            return _Answer(Word.DONE)
        return _Answer(
            Word.PASS,
            sender=_changed_sender(run, envelope),
            recipients=None if recipients == envelope.recipients else recipients,
            message=None if _same(message, original) else message,
        )

    # A mail on its way out of the queue

    def _later(self, request: Request, stage: Stage) -> _Answer:
        original = request.message
        ours = self._parts.config.authserv_id
        authentication = Authentication(ours, original, own_hops=1 if read_queue(original.fields) else 0)
        envelope = self._later_envelope(request, authentication.results)
        message = without_marks(without_release_mark(authentication.trusted))
        pipeline = self._parts.pipeline
        if stage in self._stages_that_saw(original, envelope):
            return _Answer(Word.PASS, message=None if _same(message, original) else message)
        run = StageRun(
            pipeline=pipeline,
            log=self._parts.log,
            quarantine=self._parts.quarantine,
            envelope=envelope,
            selection=pipeline.select(envelope, (stage,)),
            remaining=self._time_limit(),
        )
        run.fates.findings.update(authentication.findings)
        released = [self._parts.quarantine.released(original, stage, each) for each in envelope.recipients]
        if released and all(released):
            run.without(frozenset.intersection(*(each.handlers for each in released if each)))
        outcome = run.run(stage, envelope.recipients, message)
        answer = self._conclude(run, stage, outcome, authentication, message, original)
        if answer.word in (Word.PASS, Word.DONE):
            for each, release in zip(envelope.recipients, released, strict=True):
                if release:
                    self._parts.quarantine.arrived(release, each)
        return answer

    def _conclude(
        self,
        run: StageRun,
        stage: Stage,
        outcome: Outcome | None,
        authentication: Authentication,
        message: Message,
        original: Message,
    ) -> _Answer:
        if outcome is None:
            return _Answer(Word.PASS, message=None if _same(message, original) else message)
        envelope = run.envelope
        if refusal := _refusal(outcome):
            out = outcome.dispositions.items() if len(outcome.dispositions) > 1 else ()
            return _refused(refusal, tuple(out))
        taken = run.take(outcome, message)
        held = run.fates.held
        for each, disposition in held.items():
            only = envelope.with_recipients((each,))
            self._parts.quarantine.keep(only, stage, message, disposition.reason, disposition.handler)
        if run.results:  # joined with what earlier stages wrote
            edits = outcome.merged_edits()
            taken = authentication.written(message.with_edits(edits), edits)
        if run.added:
            sender = envelope.sender if run.sender is None else run.sender
            self._parts.pipeline.reinject.submit(sender, tuple(run.added), taken.chunks())
        recipients = tuple(each for each in outcome.going_on() if each not in run.removed)
        if not recipients:
            return _Answer(Word.DONE)
        return _Answer(
            Word.PASS,
            sender=_changed_sender(run, envelope),
            recipients=None if recipients == envelope.recipients else recipients,
            message=None if _same(taken, original) else taken,
        )

    # What they share

    def _time_limit(self) -> Callable[[], float]:
        monotonic = self._parts.clock.monotonic
        ends_at = monotonic() + float(self._parts.config.handover.handler_timeout)
        return lambda: ends_at - monotonic()

    def _stages_that_saw(self, message: Message, envelope: Envelope) -> frozenset[Stage]:
        return seen_stages(self._parts.config.paths.state, message, envelope, self._parts.clock.now())


def _smtp_session(request: Request) -> Session:
    """The client of qmail-smtpd, as tcpserver's environment and qmail-smtpd's trace field tell."""
    facts, trace = request.facts, read_smtp(request.message.fields)
    port, name = facts.get("TCPREMOTEPORT", ""), facts.get("TCPREMOTEHOST", "")
    return Session(
        client_address=_ip(facts["TCPREMOTEIP"]),
        client_port=int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0,
        client_ptr="" if name == "unknown" else name,  # tcpserver does not look whether it resolves back
        helo=trace.helo if trace else "",
        auth_user=facts.get("SMTPAUTHUSER", ""),
        auth_type=facts.get("SMTPAUTHMETHOD", ""),
        tls_version=facts.get("SSL_PROTOCOL", ""),
        server_name=facts.get("TCPLOCALHOST", ""),
    )


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _addresses(raw: Iterable[bytes]) -> tuple[Address, ...]:
    """Each once; never with angle brackets, so what looks like them is part of the address."""
    return tuple(dict.fromkeys(Address(each.decode("utf-8", "surrogateescape")) for each in raw))


def _qmail_sender(raw: bytes) -> Address:
    if raw == _DOUBLE_BOUNCE:
        return NULL_SENDER
    return Address(raw.removesuffix(_VERP).decode("utf-8", "surrogateescape"))


def _new_id() -> str:
    return f"H{secrets.token_hex(6).upper()}"


def _going_on(run: StageRun) -> tuple[Address, ...]:
    gone = {*run.fates.stopped, *run.fates.held, *run.removed}
    going = dict.fromkeys((*run.envelope.recipients, *run.added))
    return tuple(each for each in going if each not in gone)


def _changed_sender(run: StageRun, original: Envelope) -> Address | None:
    return run.sender if run.sender is not None and run.sender != original.sender else None


def _refusal(outcome: Outcome) -> Refusal | None:
    strictest = outcome.strictest()
    match strictest.action:
        case Action.DEFER:
            return Action.DEFER, strictest.reply or DEFER_REPLY
        case Action.REJECT:
            return Action.REJECT, strictest.reply or REJECT_REPLY
        case _:
            return None


def _refused(refusal: Refusal, out: tuple[tuple[Address, Disposition], ...] = ()) -> _Answer:
    action, reply = refusal
    return _Answer(Word.DEFER if action is Action.DEFER else Word.REJECT, reply, out=out)


def _explicit(answer: _Answer, submitted: Submitted) -> _Answer:
    """What changes must be told with all recipients, where the program was to read them from the mail."""
    changed = answer.sender is not None or answer.recipients is not None or answer.message is not None
    if answer.word is not Word.PASS or not changed:
        return answer
    return dataclasses.replace(
        answer, recipients=answer.recipients or submitted.recipients, message=answer.message or submitted.message
    )


def _same(left: Message, right: Message) -> bool:
    return left.body is right.body and [*map(_text, left.fields)] == [*map(_text, right.fields)]


def _text(found: Field) -> tuple[bytes, bytes]:
    return found.name, found.value


def _frames(answer: _Answer) -> Iterator[bytes]:
    code, text = "", ""
    if answer.reply:
        action = Action.DEFER if answer.word is Word.DEFER else Action.REJECT
        code, text = answer.reply.enhanced(action), " ".join(answer.reply.lines())
    yield encode(Kind.VERDICT, b"\0".join((answer.word.encode(), code.encode(), _clean(text))))
    for recipient, disposition in answer.out:
        reply = disposition.reply or DEFER_REPLY
        text = " ".join(reply.lines()) if not disposition.action.goes_on else ""
        yield encode(Kind.OUT, b"\0".join((str(disposition.action).encode(), _clean(text), _octets(recipient))))
    if answer.sender is not None:
        yield encode(Kind.SENDER, _octets(answer.sender))
    for recipient in answer.recipients or ():
        yield encode(Kind.RECIPIENT, _octets(recipient))
    if answer.message is not None:
        for piece in _lf_pieces(answer.message.chunks()):
            yield encode(Kind.MESSAGE, piece)
    yield encode(Kind.END)


def _clean(text: str) -> bytes:
    octets = text.encode("utf-8", "surrogateescape")
    return bytes(32 if octet < 32 or octet == 127 else octet for octet in octets)


def _octets(address: Address) -> bytes:
    return address.text.replace("\0", "").encode("utf-8", "surrogateescape")


def _lf_pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The line ends of local programs."""
    held = b""
    for chunk in chunks:
        octets = held + chunk
        held = b"\r" if octets.endswith(b"\r") else b""
        octets = octets[: len(octets) - len(held)].replace(b"\r\n", b"\n")
        for at in range(0, len(octets), PIECE):
            yield octets[at : at + PIECE]
    if held:
        yield held
