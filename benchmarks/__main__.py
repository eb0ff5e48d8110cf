"""`scripts/bench SCENARIO…`: mails a second through a private Postfix, with more and more of postroom in the way."""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from postroom.testing.nameserver import Nameserver
from postroom.testing.postfix import PostfixInstance, PostfixSettings
from postroom.testing.server import PostroomServer
from postroom.testing.smtp import SmtpClient

MAIL = b"From: alice@friend.example\nTo: bob@local.test\nSubject: load\n\n" + b"x" * 70 * 28 + b"\n"
CLIENT = "203.0.113.10"
ZONE = {("friend.example", "TXT"): (b"v=spf1 ip4:203.0.113.10 -all",)}


@dataclass(frozen=True)
class Scenario:
    """What is in the way. `handlers`: words after `postroom handlers add`."""

    what: str
    milter: bool = True
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    handlers: tuple[tuple[str, ...], ...] = ()


SCENARIOS = {
    "bare": Scenario("Postfix alone", milter=False),
    "idle": Scenario("postroom with nothing enabled"),
    "idle-libmilter": Scenario("the same on libmilter", settings={"milter": {"engine": "libmilter"}}),
    "spf": Scenario("spf for every mail", handlers=(("spf",),)),
    "grey": Scenario(
        "greylisting for every mail, embedded store, all senders known",
        settings={"handlers": {"grey": {"wait": "0s"}}},
        handlers=(("grey",),),
    ),
}


@contextlib.contextmanager
def running(scenario: Scenario) -> Iterator[int]:
    """The port of a Postfix whose mail is thrown away."""
    with contextlib.ExitStack() as stack:
        milters: tuple[str, ...] = ()
        if scenario.milter:
            nameserver = stack.enter_context(Nameserver(ZONE))
            tables: dict[str, Mapping[str, Any]] = {
                "dns": {"nameservers": [nameserver.address]},
                "log": {"level": "info"},
                **scenario.settings,
            }
            server = stack.enter_context(PostroomServer(tables))
            for words in scenario.handlers:
                server.succeed("handlers", "add", *words, "--enabled")
            milters = (server.milter,)
        postfix = stack.enter_context(PostfixInstance(PostfixSettings(milters=milters)))
        yield postfix.smtp_port


def measure(port: int, sessions: int, seconds: float) -> tuple[int, int]:
    """Mails taken, and mails not taken, by that many sessions at once."""
    taken, refused, end = [0] * sessions, [0] * sessions, time.monotonic() + seconds

    def run(number: int) -> None:
        with SmtpClient(port) as smtp:
            smtp.xclient("mail.friend.example", addr=CLIENT, name="mail.friend.example")
            while time.monotonic() < end:
                if smtp.send("alice@friend.example", "bob@local.test", MAIL).ok:
                    taken[number] += 1
                else:
                    refused[number] += 1
                    smtp.command("RSET")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(taken), sum(refused)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"default: all of {', '.join(SCENARIOS)}")
    parser.add_argument("--sessions", type=int, default=5, help="SMTP sessions at once")
    parser.add_argument("--seconds", type=float, default=5, help="how long each scenario runs")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.scenario if name not in SCENARIOS]:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    print(f"{'scenario':16}  {'mails/s':>8}  {'refused':>8}  what")
    for name in chosen.scenario or SCENARIOS:
        with running(SCENARIOS[name]) as port:
            measure(port, chosen.sessions, 0.5)  # warm: every process is started
            taken, refused = measure(port, chosen.sessions, chosen.seconds)
        print(f"{name:16}  {taken / chosen.seconds:8.0f}  {refused:8}  {SCENARIOS[name].what}", flush=True)


if __name__ == "__main__":
    main()
