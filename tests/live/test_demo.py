"""`postroom demo` ends well, leaves nothing behind, and can be left running."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from postroom.testing.processes import ServerFailed, wait_until
from postroom.testing.smtp import SmtpClient
from requirements import require, require_root

pytestmark = pytest.mark.xdist_group("live-demo")

LIMIT = 240.0  # seconds; a minute is spent waiting for greylisting on a quick machine, and there are slow ones
COMMAND = [sys.executable, "-m", "postroom.cli.main", "demo"]


@pytest.fixture(autouse=True)
def _root_and_postfix() -> None:
    require("master")
    require_root()


def test_every_mail_ends_as_it_should() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("as it should:") == 5
    assert "NOT AS IT SHOULD" not in done.stdout
    assert "\x1b" not in done.stdout, "colour in a pipe"
    assert "451 4.7.1" in done.stdout
    assert "550 5.7.23" in done.stdout
    (place,) = set(re.findall(r"/tmp/postroom-server-\w+", done.stdout))
    assert not Path(place).exists()
    assert_nothing_listens(done.stdout)


def test_kept_running_it_takes_mail_until_it_is_told_to_stop(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen([*COMMAND, "--keep"], stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: "swaks --server" in output.read_text() or process.poll() is not None, "the swaks line", LIMIT
        )
        text = output.read_text()
        found = re.search(r"swaks --server 127\.0\.0\.1:(\d+) --from (\S+) --to (\S+) --xclient-addr (\S+)", text)
        assert found, text
        with SmtpClient(int(found[1])) as smtp:
            smtp.xclient("mail.friend.example", addr=found[4])
            assert smtp.send(found[2], found[3], b"Subject: by hand\n\nhi\n").ok
    finally:
        # In the background of a shell SIGINT is ignored, in whatever is started from there, too.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
        assert process.wait(LIMIT) == 0
    assert_nothing_listens(text)


def assert_nothing_listens(text: str) -> None:
    port = re.search(r"Postfix listens on 127\.0\.0\.1:(\d+)", text)
    assert port, text
    with pytest.raises((OSError, ServerFailed)):
        SmtpClient(int(port[1]), timeout=5)
