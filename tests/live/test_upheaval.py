"""Workers, the supervisor and the configuration change under load: no mail is lost, none comes twice for it."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from live_host import LiveHost, live_host
from postroom.testing.processes import wait_until
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-upheaval")

ROUNDS = 4
CLIENTS = 3
QUICK_RETRY = {"minimal_backoff_time": "1s", "maximal_backoff_time": "2s", "smtpd_error_sleep_time": "0"}


@pytest.fixture
def host() -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"milter": {"workers": 2}}, main=QUICK_RETRY) as found:
        found.add("spf", "before-queue")
        found.add_program("local", "before-local", "cat; echo PASS >&2")
        yield found


class Load:
    """Clients that send mails, each with a name of its own, and note which were taken."""

    def __init__(self, host: LiveHost) -> None:
        self._host = host
        self.taken: list[str] = []
        self.refused: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _send(self, number: int) -> None:
        mails = 0
        while not self._over.wait(0.02):
            name = f"m{number}-{mails}"
            mails += 1
            sent = self._host.send(mail=f"Subject: {name}\n\nhello\n".encode())
            (self.taken if sent.ok else self.refused).append(name if sent.ok else sent.final.text)


def kill_a_worker(host: LiveHost) -> None:
    before = host.server.workers()
    os.kill(before[-1], signal.SIGKILL)
    wait_until(lambda: before[-1] not in host.server.workers() and len(host.server.workers()) == 3, "a new worker")


def kill_the_supervisor(host: LiveHost) -> None:
    host.server.kill()
    host.server.start()


def stop_and_start(host: LiveHost) -> None:
    assert host.server.stop() == 0
    host.server.start()


def reload(host: LiveHost) -> None:
    host.server.reload()


@pytest.mark.parametrize("upheaval", [kill_a_worker, kill_the_supervisor, stop_and_start, reload])
def test_mails_that_were_taken_arrive_and_only_once(host: LiveHost, upheaval: Callable[[LiveHost], None]) -> None:
    with Load(host) as load:
        for done in range(ROUNDS):
            enough = (done + 1) * CLIENTS
            wait_until(lambda enough=enough: len(load.taken) >= enough, "mails that are taken")  # type: ignore[misc]
            upheaval(host)
    assert all(reply.startswith("4") for reply in load.refused), load.refused
    if upheaval is reload:
        assert not load.refused
    end = time.monotonic() + 60
    while host.postfix.queue() and time.monotonic() < end:
        host.postfix.flush()
        time.sleep(0.2)  # Postfix looks at its queue in its own time
    subjects = [re.search(rb"^Subject: (\S+)", mail, re.MULTILINE) for mail in host.server.mailbox("bob@local.test")]
    arrived = Counter(found[1].decode() for found in subjects if found)
    assert not set(load.taken) - set(arrived)
    # a worker killed between the delivery and its answer delivers again: the one case that RFC 5321 4.1.1.4 allows
    if upheaval is not kill_a_worker:
        assert set(arrived.values()) == {1}
    assert not [line for line in host.server.log_lines() if line.event in ("engine failed", "worker crashed")]
    assert host.server.output() == ""
