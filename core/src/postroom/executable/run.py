"""One program's verdict on one mail, over as many calls as its recipients need."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Iterator, Sequence

from postroom.executable.answer import MAX_REPLY, Diagnostics, Output, verdict_of
from postroom.executable.arguments import environment_of, octets_of, split_recipients
from postroom.executable.comparison import same_verdict
from postroom.executable.line_ends import with_lf
from postroom.executable.process import exchange, started
from postroom.failure import FailureKind, HandlerFailed
from postroom.hookspecs import Logger
from postroom.mail import Address, Envelope, Message
from postroom.registration import Stage
from postroom.verdict import Action, Verdict

MAX_GROWTH = 16 << 20  # octets by which a program may make a mail longer


def run_program(
    program: str,
    context: str,
    stage: Stage,
    envelope: Envelope,
    message: Message | None,
    seconds: float,
    log: Logger,
) -> Verdict:
    """The program's verdict; HandlerFailed when it gives none in time."""
    arguments = [octets_of(program), octets_of(context), octets_of(envelope.sender.text)]
    environment = environment_of(stage, envelope)
    ends_at = time.monotonic() + seconds
    verdicts = []
    try:
        parts = split_recipients(envelope.recipients, arguments, environment)
        for recipients in parts:
            argv = [*arguments, *(octets_of(address.text) for address in recipients)]
            verdicts.append(_run_once(argv, environment, message, ends_at - time.monotonic(), program, log))
    except OSError as error:  # no descriptor is left, or the spool's disk is full
        raise HandlerFailed(FailureKind.EXCEPTION, f"{program} cannot be run: {error.strerror}") from None
    if len(parts) == 1:
        return verdicts[0]
    log.info("more recipients than one command line holds", program=program, calls=len(parts))
    return _joined(parts, verdicts)


def _joined(parts: Sequence[tuple[Address, ...]], verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several calls; what differs from the first one's answer is said for its own recipients."""
    first = verdicts[0]
    different = {
        recipient: verdict
        for recipients, verdict in zip(parts, verdicts, strict=True)
        if not same_verdict(verdict, first)
        for recipient in recipients
    }
    return dataclasses.replace(first, for_recipients=different)


def _run_once(
    argv: list[bytes],
    environment: dict[bytes, bytes],
    message: Message | None,
    seconds: float,
    program: str,
    log: Logger,
) -> Verdict:
    limit = MAX_REPLY if message is None else message.size() + MAX_GROWTH
    with started(argv, environment) as process:
        output, diagnostics = Output(limit), Diagnostics(program, log)
        try:
            exchange(process, _mail_with_lf(message), output.append, diagnostics.append, seconds)
            status = process.wait(timeout=1)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise HandlerFailed(FailureKind.TIMEOUT, f"{program} was ended after {seconds:.1f} s") from None
    word = diagnostics.word()
    if status < 0:
        raise HandlerFailed(FailureKind.SIGNAL, f"{program} was ended by signal {-status}")
    if word is None:
        raise HandlerFailed(FailureKind.ANSWER, f"{program} gave no verdict (exit status {status})")
    if (status == 0) != (word in (Action.PASS, Action.STOP)):
        log.warning("exit status does not fit the verdict", program=program, status=status, verdict=str(word))
    if output.overflowed and word is Action.PASS:
        raise HandlerFailed(FailureKind.ANSWER, f"{program} wrote more than {limit} octets")
    return verdict_of(word, output, message, program)


def _mail_with_lf(message: Message | None) -> Iterator[bytes]:
    return with_lf(message.chunks()) if message is not None else iter(())
