"""A worker that dies takes no mail with it: the mail server gets a temporary failure, and the mail comes again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from live_host import MAIL, LiveHost, live_host
from postroom.testing.processes import wait_until
from postroom.testing.smtp import Sent
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-killed")

# Waits the first time, until it is killed with its worker's group or finds the second call's mark.
WAIT_ONCE = """
if [ ! -e $OUT/called ]; then touch $OUT/called; exec sleep 20; fi
cat; echo PASS >&2
"""


@pytest.fixture(params=["native", "libmilter"])
def host(request: pytest.FixtureRequest) -> Iterator[LiveHost]:
    require("master")
    require_root()
    with live_host({"milter": {"engine": request.param, "workers": 1}}) as found:
        yield found


def test_a_milter_worker_killed_in_mid_mail(host: LiveHost) -> None:
    out = host.add_program("slow", "before-queue", WAIT_ONCE)
    answers: list[Sent] = []
    thread = threading.Thread(target=lambda: answers.append(host.send(mail=MAIL)))
    thread.start()
    host.wait_for(out / "called")
    before = set(host.server.workers())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    thread.join(60)
    (sent,) = answers
    assert 400 <= sent.final.code < 500, sent.final.text
    wait_until(lambda: len(set(host.server.workers()) - before) == len(before), "new workers", 20)
    again = host.send()
    assert again.ok, again.final.text
    assert len(host.server.wait_for_mail("bob@local.test")) == 1


def test_an_lmtp_worker_killed_in_mid_delivery(host: LiveHost) -> None:
    out = host.add_program("slow", "before-local", WAIT_ONCE)
    sent = host.send()
    assert sent.ok
    host.wait_for(out / "called")
    for pid in host.server.workers():
        os.kill(pid, signal.SIGKILL)
    host.wait_status(sent.queue_id, "deferred")
    assert host.server.mailbox("bob@local.test") == []
    wait_until(lambda: bool(host.server.workers()), "new workers", 20)
    host.postfix.flush()
    assert len(host.server.wait_for_mail("bob@local.test")) == 1
    host.postfix.wait_empty()


def test_the_whole_server_is_away_for_a_while(host: LiveHost) -> None:
    assert host.server.stop() == 0
    sent = host.send()
    assert 400 <= sent.final.code < 500, sent.final.text
    host.server.start()
    assert host.send().ok
    assert host.server.wait_for_mail("bob@local.test")
