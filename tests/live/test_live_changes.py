"""A change on the command line acts on the next mail, in every worker; no connection is dropped, no mail lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from live_host import MAIL, LiveHost, live_host
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-changes")

CLIENTS = 6
REFUSE = 'echo "550 5.7.1 closed for the day"; echo REJECT >&2; exit 1'


@pytest.fixture(scope="module", params=["native", "libmilter"])
def host(request: pytest.FixtureRequest) -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"milter": {"engine": request.param, "workers": 2}}, local="discard:") as found:
        found.add_program("refuse", "before-data", REFUSE)
        found.add_program("look", "before-queue", 'if grep -q Hello; then echo "seen" ; echo REJECT >&2; exit 1; fi')
        for name in ("refuse", "look"):
            found.server.succeed("handlers", "disable", name)
        yield found


@dataclass
class Load:
    """Clients that keep their connections and send one mail after the other."""

    host: LiveHost
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[float, int]] = field(default_factory=list)  # when the mail began, and the last answer
    failures: list[str] = field(default_factory=list)

    def run_client(self) -> None:
        """Sessions go on until the server ends one with 421, which is counted as an answer; then comes the next."""
        while not self.stop.is_set() and not self.failures:
            self._run_session()

    def _run_session(self) -> None:
        try:
            with SmtpClient(self.host.postfix.smtp_port) as smtp:
                smtp.ehlo()
                while not self.stop.is_set():
                    began = time.monotonic()
                    sent = smtp.send("alice@friend.example", "bob@local.test", MAIL)
                    self.answers.append((began, sent.final.code))
                    if sent.final.code == 421:
                        return
                    if not sent.ok:
                        smtp.command("RSET")
        except OSError as error:
            self.failures.append(repr(error))

    def wait_for_more(self, count: int = 4 * CLIENTS) -> None:
        """Until so many mails that begin from now on are answered."""
        now, end = time.monotonic(), time.monotonic() + 60
        while sum(began > now for began, _ in list(self.answers)) < count:
            assert time.monotonic() < end, "the load stands still"
            assert not self.failures, self.failures
            time.sleep(0.01)


def test_enabling_and_disabling_act_on_the_next_mail(host: LiveHost) -> None:
    load = Load(host)
    threads = [threading.Thread(target=load.run_client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    switch = ("refuse", "--stage", "before-data", "--type", "global")
    changes: list[tuple[float, float, int]] = []  # began, done, what mails get from then on
    try:
        load.wait_for_more()
        for verb, code in (("enable", 550), ("disable", 250), ("enable", 550), ("disable", 250)):
            began = time.monotonic()
            host.server.succeed("handlers", verb, *switch)
            changes.append((began, time.monotonic(), code))
            load.wait_for_more()
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(30)
    assert load.failures == []
    assert {code for _, code in load.answers} == {250, 550}
    ends = [began for began, _, _ in changes[1:]] + [float("inf")]
    for (_, done, code), end in zip(changes, ends, strict=True):
        settled = [answer for began, answer in load.answers if done < began and began + 1 < end]
        during = [answer for began, answer in load.answers if done < began < end]
        assert during, "no mail between two changes"
        assert set(settled or during[:1]) == {code}


def test_a_handler_that_looks_into_mails_misses_none(host: LiveHost) -> None:
    """It is registered, so that its sessions bring header and body: enabling it drops none of them."""
    with host.client("") as smtp:
        assert smtp.send("alice@friend.example", "bob@local.test", MAIL).ok
        host.server.succeed("handlers", "enable", "look")
        sent = smtp.send("alice@friend.example", "bob@local.test", MAIL)
        host.server.succeed("handlers", "disable", "look")
        assert sent.final.code == 550
        assert smtp.send("alice@friend.example", "bob@local.test", MAIL).ok


def test_what_is_new_and_looks_into_mails_misses_none(host: LiveHost) -> None:
    """A session that was opened when nobody could want a body is ended with 421; its next mail is looked at."""
    host.server.succeed("handlers", "remove", "look", "--all")
    with host.client("") as smtp:
        assert smtp.send("alice@friend.example", "bob@local.test", MAIL).ok
        host.add("look", "before-queue", "--exec", str(host.programs["look"].parent / "look"))
        codes = [smtp.send("alice@friend.example", "bob@local.test", MAIL).final.code]
    with host.client("") as smtp:
        codes.append(smtp.send("alice@friend.example", "bob@local.test", MAIL).final.code)
    host.server.succeed("handlers", "disable", "look")
    assert codes == [421, 550]
    assert host.send(client="").ok
