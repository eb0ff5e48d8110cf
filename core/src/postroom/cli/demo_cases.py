"""The mails of `postroom demo`, what has to become of each, and how that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from postroom.cli.demo_house import (
    BOB,
    CARL,
    FORGER_ADDRESS,
    FRIEND,
    FRIEND_ADDRESS,
    GREY_WAIT,
    REMOTE,
    SHOP,
    House,
)
from postroom.cli.output import show_table
from postroom.logline import LogLine
from postroom.testing.processes import ServerFailed
from postroom.testing.sink import field_values
from postroom.testing.smtp import Reply

SHOWN_FIELDS = ("Return-Path", "Received-SPF", "Authentication-Results", "X-Demo")
REASON_WIDTH = 60


@dataclass(frozen=True)
class Case:
    """One story. `play` tells it, and answers whether it ended as it should."""

    title: str
    play: Callable[[House], bool]

    def show(self, house: House, number: int) -> bool:
        click.secho(f"\n\n{number}. {self.title}", bold=True)
        click.echo("─" * (len(self.title) + 3))
        try:
            return self.play(house)
        except (ServerFailed, OSError) as error:
            return _expect(False, str(error))


def comes_back(house: House) -> bool:
    first = _send(house, FRIEND, BOB, "greylisted", FRIEND_ADDRESS)
    deferred = _expect(first == 451, "refused for now: a sender that nobody knows has to come back")
    click.echo(f"\nReal mail servers come back. So does this one, {GREY_WAIT} seconds later:")
    time.sleep(GREY_WAIT + 0.2)
    mark = len(house.server.log_lines())
    second = _send(house, FRIEND, BOB, "greylisted", FRIEND_ADDRESS, trace=False)
    arrived = second == 250 and bool(house.server.wait_for_mail(BOB))
    _trace(house.calls(mark, FRIEND))
    return _expect(arrived, "taken, and put into bob's Maildir") and deferred


def fails_spf(house: House) -> bool:
    code = _send(house, SHOP, CARL, "Your order", FORGER_ADDRESS)
    refused = code == 550 and not house.server.mailbox(CARL)
    return _expect(refused, f"refused: shop.example does not let {FORGER_ADDRESS} send its mail")


def is_delivered(house: House) -> bool:
    mark = len(house.server.log_lines())
    code = _send(house, FRIEND, CARL, "Hello Carl", FRIEND_ADDRESS, trace=False)
    mails = house.server.wait_for_mail(CARL) if code == 250 else []
    _trace(house.calls(mark, FRIEND))
    if not mails:
        return _expect(False, "delivered to carl's Maildir")
    _show_fields("What is in carl's Maildir now begins with", mails[0])
    passed = any("spf=pass" in value for value in field_values(mails[0], "Authentication-Results"))
    added = field_values(mails[0], "X-Demo") == ["before-local was here"]
    return _expect(passed and added, "delivered to carl's Maildir, with the results that handlers wrote into it")


def goes_out(house: House) -> bool:
    mark = len(house.server.log_lines())
    code = _send(house, CARL, REMOTE, "Hello Dora", trace=False)
    received = house.sink.wait(1) if code == 250 else []
    _trace(house.calls(mark, CARL))
    if not received:
        return _expect(False, "sent to the next hop")
    _show_fields("What the next hop got begins with", received[0].mail)
    added = received[0].field("X-Demo") == ["before-remote was here"]
    return _expect(added and received[0].recipients == (REMOTE,), "sent to the next hop, as the handlers changed it")


CASES: Sequence[Case] = (
    Case("A stranger's mail has to come back (grey, before-data)", comes_back),
    Case("A forged mail is refused (spf, before-queue)", fails_spf),
    Case("A good mail is delivered to a Maildir (before-queue, then before-local)", is_delivered),
    Case("An outgoing mail (before-remote)", goes_out),
)


def _send(house: House, sender: str, recipient: str, subject: str, client: str = "", *, trace: bool = True) -> int:
    """Send and show it; the last answer's code."""
    mark = len(house.server.log_lines())
    conversation, sent = house.send(sender, recipient, subject, client)
    click.echo(f"\n{sender} writes to {recipient}, from {client or 'this host'}. What Postfix answers:\n")
    show_table(("the client says", "the server answers"), [_row(reply) for reply in conversation])
    if trace:
        _trace(house.calls(mark, sender))
    return sent.final.code


def _row(reply: Reply) -> tuple[str, str]:
    return ("the mail, and a dot" if reply.command == "." else reply.command, reply.text)


def _trace(calls: Sequence[LogLine]) -> None:
    click.echo("\nWhat the handlers said:\n")
    show_table(("stage", "handler", "verdict", "why", "ms"), [_call_row(call) for call in calls])


def _call_row(call: LogLine) -> tuple[str, str, str, str, str]:
    facts = call.facts
    why = facts.get("reason", "") or facts.get("error", "")
    if len(why) > REASON_WIDTH:
        why = f"{why[: REASON_WIDTH - 1]}…"
    return (facts.get("stage", ""), facts.get("handler", ""), call.event.split()[0], why, facts.get("ms", ""))


def _show_fields(title: str, mail: bytes) -> None:
    rows = [(name, value) for name in SHOWN_FIELDS for value in field_values(mail, name)]
    click.echo(f"\n{title}\n")
    for name, value in rows:
        click.echo(f"  {name}: {value}")


def _expect(well: bool, text: str) -> bool:
    click.echo()
    click.secho(f"{'as it should' if well else 'NOT AS IT SHOULD'}: {text}", fg="green" if well else "red")
    return well
