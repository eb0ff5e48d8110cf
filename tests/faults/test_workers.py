"""Workers that die, a supervisor that dies, and the real server under the same treatment."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Collection
from pathlib import Path

import pytest
from core.server_process import LIMIT, Client, Server
from postroom.config import SocketAddress
from postroom.fronts.milter.client import MilterClient
from postroom.fronts.milter.wire import Command, packet
from postroom.server import WorkerKind
from postroom.testing.ports import LOOPBACK, free_port
from postroom.testing.processes import answers, connect, runs, wait_until
from postroom.testing.server import PostroomServer


def test_a_killed_worker_loses_its_connection_and_is_replaced_at_once(tmp_path: Path) -> None:
    with Server(tmp_path, '[milter]\nlisten = ["inet:127.0.0.1:0"]\nworkers = 1\n') as server:
        server.wait_serving()
        with server.connect() as client, server.connect(WorkerKind.LMTP) as other:
            pid, lmtp_pid = int(client.ask()[0]), other.ask()[0]
            os.kill(pid, signal.SIGKILL)
            with pytest.raises((EOFError, ConnectionResetError)):
                client.ask()
            with server.connect() as newer:  # waits in the socket's queue until the new worker is there
                assert int(newer.ask()[0]) != pid
            assert other.ask()[0] == lmtp_pid
        died = server.wait_line("worker died")
        assert died.facts["signal"] == "SIGKILL"
        assert not Path(f"/proc/{pid}").exists(), "nobody waited for the dead worker"


def test_a_worker_that_crashes_in_c_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        with server.connect() as client:
            client.say("crash")
            with pytest.raises((EOFError, ConnectionResetError)):
                client.hear()
        assert server.wait_line("worker died").facts["signal"] == "SIGABRT"
        server.wait_line("worker ready", 4)
        assert "Fatal Python error: Aborted" in (tmp_path / "stderr").read_text()


def test_workers_that_die_at_once_are_not_started_in_a_hurry(tmp_path: Path) -> None:
    (tmp_path / "fail-when").touch()
    with Server(tmp_path, '[milter]\nlisten = ["inet:127.0.0.1:0"]\nworkers = 1\n') as server:
        server.wait_line("worker died", 4)
        pauses = [line.facts["pause"] for line in server.lines("worker died") if line.facts["kind"] == "milter"]
        assert pauses[:2] == ["0", "0.5"]
        crashed = server.lines("worker crashed")[0]
        assert crashed.facts["error"] == "RuntimeError: this plugin cannot start"
        (tmp_path / "fail-when").unlink()
        server.wait_serving()
        server.signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0


def test_workers_finish_and_leave_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        pids = server.worker_pids()
        with server.connect() as client:
            client.ask()
            client.say("slow")
            server.process.kill()
            server.process.wait(LIMIT)
            wait_until(lambda: len(server.lines("the supervisor is gone, finishing the mails in hand")) == 3, "a word")
            server.slow_until.touch()
            client.hear()
        wait_until(lambda: not any(map(runs, pids)), "the end of all workers", LIMIT)


def test_the_next_server_takes_over_what_a_killed_one_left(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        server.process.kill()
        server.process.wait(LIMIT)
        wait_until(lambda: not any(map(runs, server.worker_pids())), "the end of all workers", LIMIT)
    assert (tmp_path / "run/lmtp.sock").is_socket()
    server.log_path.unlink()
    with Server(tmp_path) as second:
        second.wait_serving()
        with second.connect(WorkerKind.LMTP) as client:
            assert client.ask()[1] == "lmtp"


def test_the_next_server_waits_for_workers_that_have_not_noticed(tmp_path: Path) -> None:
    config = f'[milter]\nlisten = ["inet:127.0.0.1:{free_port()}"]\nworkers = 1\n'
    with Server(tmp_path, config) as server:
        server.wait_serving()
        with server.connect() as client:
            pid = int(client.ask()[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            server.process.kill()
            server.process.wait(LIMIT)
            server.log_path.unlink()
            with Server(tmp_path, config) as second:
                waiting = second.wait_line("waiting for workers of a killed server to let go")
                assert "Address already in use" in waiting.facts["why"]
                os.kill(pid, signal.SIGCONT)
                second.wait_serving()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_server_that_cannot_start_leaves_the_other_ones_pid_file(tmp_path: Path) -> None:
    config = f'[milter]\nlisten = ["inet:127.0.0.1:{free_port()}"]\nworkers = 1\n'
    with Server(tmp_path, config) as server:
        server.wait_serving()
        with Server(tmp_path, config) as second:
            assert second.process.wait(LIMIT) != 0
        assert (tmp_path / "run/postroom.pid").read_text() == f"{server.process.pid}\n"


def test_a_worker_that_will_not_leave_is_killed(tmp_path: Path) -> None:
    config = '[milter]\nlisten = ["inet:127.0.0.1:0"]\nworkers = 1\n[server]\ngrace = "100ms"\n'
    with Server(tmp_path, config) as server:
        server.wait_serving()
        with server.connect() as client:
            pid = int(client.ask()[0])
            os.kill(pid, signal.SIGSTOP)
            server.signal(signal.SIGTERM)
            assert server.process.wait(LIMIT) == 0
        assert server.lines("worker did not leave in time and is killed")[0].facts["worker"] == str(pid)


# The real thing


@pytest.fixture
def real() -> PostroomServer:
    return PostroomServer({"milter": {"workers": 2}})


def test_the_real_server_replaces_its_workers_and_stops(real: PostroomServer) -> None:
    address = SocketAddress("inet", LOOPBACK, real.milter_port)
    with real as server:
        server.wait_for_log(lambda line: line.event == "serving")
        before = server.workers()
        assert len(before) == 3
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - set(before)) == 3, "three new workers")
        assert answers(address)
        with connect(address), connect(SocketAddress("unix", path=f"{server.base}/run/lmtp.sock")) as lmtp:
            assert lmtp.recv(100).startswith(b"220 ")
        wait_until(lambda: len([x for x in server.log_lines() if x.event == "worker ready"]) == 6, "all of them ready")
        server.reload()
        wait_until(lambda: len([x for x in server.log_lines() if x.event == "serving"]) == 2, "the new configuration")
        assert server.stop() == 0


def test_a_server_that_cannot_start_says_why_in_one_line(real: PostroomServer) -> None:
    with real as server:
        done = server.cli("serve")  # its sockets are taken
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert "cannot listen on inet:127.0.0.1:" in line
        server.write_settings({"milter": {"workres": 1}})
        done = server.cli("serve", "--check")
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert "unknown key 'workres'; did you mean 'workers'?" in line


def test_a_log_that_cannot_be_opened_stops_no_worker(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    config = '[milter]\nlisten = ["inet:127.0.0.1:0"]\nworkers = 1\n'
    with Server(tmp_path, config, log_path=logs / "log") as server:
        server.wait_serving()
        with server.connect() as client:
            address, pid = server.address(), int(client.ask()[0])
        (logs / "log").unlink()
        logs.rmdir()
        os.kill(pid, signal.SIGKILL)
        with Client(address) as client:
            assert int(client.ask()[0]) != pid
        assert "logging to stderr" in (tmp_path / "stderr").read_text()


def test_a_program_does_not_outlive_its_killed_worker(real: PostroomServer) -> None:
    """Neither it nor what it has started, but for what went into the background with an earlier one."""
    with real as server:
        said, background = server.base / "said", server.base / "background"
        add_program(
            server,
            f"[ -e {background} ] || {{ setsid sleep 200 <&- >&- 2>&- & echo $! >{background}; }}",
            f"sleep 200 & echo $$ $! >{said}.new; mv {said}.new {said}; wait",
        )
        address = SocketAddress("inet", LOOPBACK, server.milter_port)
        for _ in range(2):
            with MilterClient.open(address, LIMIT) as client:
                send_mail(client)
                wait_until(said.exists, "the program at work")
                pids = [int(word) for word in said.read_text().split()]
                said.unlink()
                worker = parent_of(pids[0])
                assert worker in server.workers()
                os.kill(worker, signal.SIGKILL)
                wait_until(functools.partial(none_runs, pids), "the end of the program and its child")
        apart = int(background.read_text())
        assert parent_of(apart) == int((server.base / "run/postroom.pid").read_text())
        os.kill(apart, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{apart}").exists(), "the server's farewell to it")
        ended = [line.facts["processes"] for line in server.log_lines() if "programs of a dead" in line.event]
        assert len(ended) == 2


def none_runs(pids: Collection[int]) -> bool:
    return not any(map(runs, pids))


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def test_a_new_server_listens_while_workers_of_a_killed_one_finish(real: PostroomServer) -> None:
    """Nobody waits at a socket that is not served any more, and the mail in hand is answered all the same."""
    with real as server:
        called, go_on = server.base / "called", server.base / "go-on"
        wait = f"touch {called}; until [ -e {go_on} ]; do sleep 0.02; done"
        add_program(server, wait, "echo later; echo DEFER >&2; exit 1")
        address = SocketAddress("inet", LOOPBACK, server.milter_port)
        with MilterClient.open(address, LIMIT) as client:
            send_mail(client)
            wait_until(called.exists, "the handler at work")
            server.kill()
            wait_until(lambda: not answers(address), "an end of listening")
            server.start()
            go_on.touch()
            assert client.answer().reply == "451 4.7.1 later"


def add_program(server: PostroomServer, *lines: str) -> None:
    """A handler for all mails, whose shell commands these are."""
    program = server.base / "program"
    program.write_text("\n".join(("#!/bin/sh", *lines, "")))
    program.chmod(0o755)
    server.succeed(
        *("handlers", "add", "program", "--stage", "before-queue", "--type", "global"),
        *("--exec", str(program), "--enabled"),
    )


def send_mail(client: MilterClient) -> None:
    """Up to its end, without waiting for the answer."""
    client.negotiate()
    client.connect()
    client.helo()
    client.mail(b"alice@sender.example")
    client.rcpt(b"bob@local.test")
    client.data()
    client.content([(b"Subject", b" hello")], b"hello\r\n")
    client.send(packet(Command.END_OF_MESSAGE))
